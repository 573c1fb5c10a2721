"""The least of an HTTP/2 client (RFC 9113): GETs, one after another, on one connection with prior knowledge."""

import asyncio
import contextlib
import struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_STATUS_200 = 0x88
"""`:status: 200` in HPACK's static table (RFC 7541, appendix A)."""


class H2:
    def __init__(self, port: int) -> None:
        self._port, self._stream = port, -1
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter

    async def get(self, path: str) -> str:
        """The body of a 200. A new connection, where the last one was ended.

        Raises:
            ValueError: another status.
            OSError, asyncio.IncompleteReadError: no answer.

        """
        if self._reader is None:
            await self._connect()
        self._stream += 2
        block = b"\x82\x86" + _literal(4, path) + _literal(1, "app")  # GET, http, :path, :authority
        try:
            self._write(_HEADERS, _END_STREAM | _END_HEADERS, block, self._stream)
            return await self._answer()
        except (OSError, EOFError):
            self.close()
            raise

    async def _answer(self) -> str:
        status, body, over = b"", b"", False
        while True:
            kind, flags, payload, stream = await self._read()
            if kind == _PING and not flags & _ACK:
                self._write(_PING, _ACK, payload)
            elif kind == _SETTINGS and not flags & _ACK:
                self._write(_SETTINGS, _ACK)
            elif kind == _GOAWAY:
                over = True
            elif stream != self._stream:
                continue
            elif kind == _RESET:
                raise ConnectionResetError("the stream was reset")
            elif kind == _HEADERS:
                status = status or payload[:1]
            elif kind == _DATA:
                body += payload
                if payload:
                    self._write(8, 0, struct.pack(">I", len(payload)))
            if stream == self._stream and kind in {_DATA, _HEADERS} and flags & _END_STREAM:
                if over:
                    self.close()
                if status != bytes([_STATUS_200]):
                    raise ValueError(f"status {status!r}: {body[:200]!r}")
                return body.decode()

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._stream = -1
        self._writer.write(_PREFACE)
        self._write(_SETTINGS, 0)

    def close(self) -> None:
        if self._reader is not None:
            self._writer.close()
            self._reader = None

    async def aclose(self) -> None:
        if self._reader is not None:
            self.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _write(self, kind: int, flags: int, payload: bytes = b"", stream: int = 0) -> None:
        self._writer.write(
            struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        )

    async def _read(self) -> tuple[int, int, bytes, int]:
        assert self._reader is not None
        async with asyncio.timeout(10):
            head = await self._reader.readexactly(9)
            length, (stream,) = int.from_bytes(head[:3]), struct.unpack(">I", head[5:])
            return head[3], head[4], await self._reader.readexactly(length), stream & 0x7FFFFFFF


def _literal(index: int, value: str) -> bytes:
    """A field without indexing, its name from the static table (RFC 7541, 6.2.2)."""
    assert len(value) < 127
    return bytes([index, len(value)]) + value.encode()
