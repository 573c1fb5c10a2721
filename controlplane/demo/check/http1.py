"""A raw HTTP/1.1 client: nothing is pooled, repeated or redirected behind one's back."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import NamedTuple

MAX_HEAD_BYTES = 64 * 1024
CLOSE_SECONDS = 1.0


class BadAnswerError(Exception):
    """The peer did not keep to HTTP/1.1, or ended before its answer did."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def keeps(self) -> bool:
        """May the connection carry another request?"""
        return "close" not in self.headers.get("connection", "").casefold()


@dataclass(slots=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def dead(self) -> bool:
        """Closed by the peer while it was idle: nothing may be sent on it any more."""
        return self.reader.at_eof() or self.writer.is_closing()

    def close(self) -> None:
        self.writer.close()

    async def gone(self) -> None:
        """Close it, and return once it is."""
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.writer.wait_closed()

    async def verdict(self, patience: float) -> None:
        """Wait this long, or until the peer ends the connection; raise what it ended it with."""
        end = asyncio.get_running_loop().time() + patience
        # Not `dead`: a connection that broke is closing for a moment before the reader is told why.
        while not self.reader.at_eof() and asyncio.get_running_loop().time() < end:
            if error := self.reader.exception():
                raise error
            await asyncio.sleep(0.005)

    async def get(self, host: str, path: str, headers: dict[str, str] | None = None) -> Answer:
        """One GET and its whole answer.

        Raises:
            BadAnswerError: the answer broke off or is not HTTP.
            OSError: the connection did.

        """
        lines = [f"GET {path} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in (headers or {}).items()), "", ""]
        self.writer.write("\r\n".join(lines).encode())
        await self.writer.drain()
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, fields = _head(head)
            return Answer(status, fields, await self._body(fields))
        except asyncio.IncompleteReadError as exc:
            raise BadAnswerError(f"closed after {len(exc.partial)} bytes of an answer") from exc
        except (asyncio.LimitOverrunError, ValueError) as exc:
            raise BadAnswerError(f"not HTTP/1.1: {exc}") from exc

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readuntil(b"\r\n")
            return body
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read()


def _head(raw: bytes) -> tuple[int, dict[str, str]]:
    first, *rest = raw.decode("latin-1").split("\r\n")
    version, status, *_ = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(first[:40])
    pairs = (line.partition(":") for line in rest if line)
    return int(status), {name.strip().casefold(): value.strip() for name, _, value in pairs}


async def connect(host: str, port: int, *, tls: ssl.SSLContext | None = None, sni: str = "") -> Connection:
    """A new connection."""
    reader, writer = await asyncio.open_connection(
        host, port, ssl=tls, server_hostname=sni or None, limit=MAX_HEAD_BYTES
    )
    return Connection(reader, writer)
