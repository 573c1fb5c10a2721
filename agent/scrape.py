"""One page for Prometheus: the agent's metrics and its Envoy's. GET /metrics and /healthz on one loopback port.

Nothing is read from a client but a request line, and nothing but these two pages is served; so this is a few lines on
asyncio's streams and not a web framework that every host would carry.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

log = structlog.get_logger(__name__)

MAX_REQUEST_BYTES = 8 * 1024
MAX_CLIENTS = 16
PATIENCE = 5.0

Page = Callable[[], Awaitable[str]]
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ScrapeServer:
    def __init__(self, address: str, pages: dict[str, Page]) -> None:
        """`address` is `host:port`; port 0 picks a free one, see `port`."""
        self._host, _, port = address.rpartition(":")
        self._wanted = int(port)
        self._pages = pages
        self._clients = 0
        self.port = 0

    async def run(self) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._serve, self._host.strip("[]"), self._wanted, limit=MAX_REQUEST_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= MAX_CLIENTS:
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                status, body = await self._answer(head)
                raw = body.encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(raw)}\r\n"
                    f"Connection: close\r\n\r\n".encode()
                )
                writer.write(raw)
                async with asyncio.timeout(PATIENCE):
                    await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            return  # a client that is gone, slow or not speaking HTTP
        finally:
            self._clients -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, head: bytes) -> tuple[str, str]:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        if method != b"GET":
            return "405 Method Not Allowed", "only GET is served here\n"
        page = self._pages.get(path)
        if page is None:
            return "404 Not Found", f"there are {', '.join(sorted(self._pages))}\n"
        try:
            return "200 OK", await page()
        except Exception as exc:  # a page that fails is an answer, not the end of the agent
            log.exception("a page of the scrape port failed", path=path)
            return "500 Internal Server Error", f"{type(exc).__name__}\n"
