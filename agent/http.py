"""A small HTTP/1.1 and WebSocket client on asyncio's streams.

An agent makes one call now and then and holds one WebSocket. A full client library costs every host 14 MB of resident
memory for that; this is the part of it that the agent uses. No redirects, no proxies, no compression, no cookies; one
connection a call; everything bounded.
"""

import asyncio
import base64
import hashlib
import os
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_HEADER_BYTES = 32 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class HttpError(Exception):
    """No usable answer: not reachable, cut, too slow, or not HTTP."""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where to call, and how to know who answers."""

    url: str
    """`https://host:port`, or `http://host:port` without tls."""
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    """The DNS name its certificate must carry, whatever address is dialled."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        target.host,
        target.port,
        ssl=target.tls,
        server_hostname=target.server_name if target.tls else None,
        limit=MAX_HEADER_BYTES,
    )
    try:
        yield reader, writer
    finally:
        # Not waited for: a peer that does not finish the TLS good-bye must not hold us.
        writer.transport.abort()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not code.isdigit():
        raise HttpError("the answer is not HTTP/1.1")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(code), headers


async def _body(reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> bytes:
    if status in {204, 304}:
        return b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _chunks(reader)
    if "content-length" in headers:
        length = int(headers["content-length"])
        if not 0 <= length <= MAX_BODY_BYTES:
            raise HttpError(f"the answer has {length} bytes")
        return await reader.readexactly(length)
    body = await reader.read(MAX_BODY_BYTES + 1)
    while not reader.at_eof() and len(body) <= MAX_BODY_BYTES:
        body += await reader.read(MAX_BODY_BYTES)
    if len(body) > MAX_BODY_BYTES:
        raise HttpError("the answer is too large")
    return body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        total += size
        if size < 0 or total > MAX_BODY_BYTES:
            raise HttpError("the answer is too large")
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return b"".join(parts)
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)


def _request(target: Target, method: str, path: str, headers: Mapping[str, str]) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.server_name or host}:{target.port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@asynccontextmanager
async def _mapped(what: str, seconds: float | None) -> AsyncIterator[None]:
    """Turn whatever a connection can raise into this module's one exception."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise HttpError(f"{what}: no answer within {seconds} s") from exc
    except (OSError, ssl.SSLError, EOFError, ValueError, asyncio.LimitOverrunError) as exc:
        raise HttpError(f"{what}: {exc or type(exc).__name__}") from exc


async def call(
    target: Target,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109
) -> Answer:
    """One request, one connection."""
    async with _mapped(f"{method} {target.url}{path}", timeout), _connected(target) as (reader, writer):
        headers = {"Connection": "close", "Accept": "application/json"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        writer.write(_request(target, method, path, headers) + (body or b""))
        await writer.drain()
        status, answered = await _head(reader)
        return Answer(status, answered, await _body(reader, status, answered))


async def status_of(target: Target, path: str, *, timeout: float) -> int:  # noqa: ASYNC109
    """The status of a GET; its body is not read."""
    async with _mapped(f"GET {target.url}{path}", timeout), _connected(target) as (reader, writer):
        writer.write(_request(target, "GET", path, {"Connection": "close", "User-Agent": "holdfast-agent"}))
        await writer.drain()
        return (await _head(reader))[0]


class WebSocket:
    """An open WebSocket, client side (RFC 6455). One reader; any number of senders."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, text: str) -> None:
        await self._frame(_TEXT, text.encode())

    async def receive(self) -> str | None:
        """The next message; None when the peer closed. Pings are answered on the way."""
        message = b""
        while True:
            final, code, payload = await self._read_frame()
            if code == _PING:
                await self._frame(_PONG, payload)
            elif code == _CLOSE:
                await self._frame(_CLOSE, payload[:2])
                return None
            elif code != _PONG:
                message += payload
                if len(message) > MAX_MESSAGE_BYTES:
                    raise HttpError("the peer sent a message that is too large")
                if final:
                    return message.decode()

    async def _read_frame(self) -> tuple[bool, int, bytes]:
        first, second = await self._reader.readexactly(2)
        length = second & 0x7F
        if second & 0x80 or first & 0x70:
            raise HttpError("the peer sent a frame that no server may send")
        if length == 126:
            (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
        if length > MAX_MESSAGE_BYTES:
            raise HttpError("the peer sent a message that is too large")
        return bool(first & 0x80), first & 0x0F, await self._reader.readexactly(length)

    async def _frame(self, code: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | code, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | code, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | code, 0x80 | 127, size)
        mask = os.urandom(4)
        keys = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")
        self._writer.write(head + mask + masked)
        await self._writer.drain()


@asynccontextmanager
async def websocket(target: Target, path: str, *, timeout: float = 10.0) -> AsyncIterator[WebSocket]:  # noqa: ASYNC109
    """An open WebSocket; every fault of it, also inside the block, is an HttpError."""
    what = f"{target.url}{path}"
    async with _mapped(what, None):
        async with asyncio.timeout(timeout) as deadline:
            async with _connected(target) as (reader, writer):
                key = base64.b64encode(os.urandom(16))
                headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
                writer.write(_request(target, "GET", path, headers | {"Sec-WebSocket-Key": key.decode()}))
                await writer.drain()
                status, answered = await _head(reader)
                if status != 101:
                    raise HttpError(f"{what}: refused with {status}: {(await _body(reader, status, answered))[:300]!r}")
                expected = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
                if answered.get("sec-websocket-accept") != expected:
                    raise HttpError(f"{what}: the answer is not a WebSocket's")
                deadline.reschedule(None)
                yield WebSocket(reader, writer)
