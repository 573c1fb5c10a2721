"""Closes connections that are opened and never ask anything: whoever holds them open would exhaust the listener.

aiohttp bounds the time between requests, and the guard that of each request; only the wait for the first one is open.
"""

import asyncio
from collections.abc import Iterable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from mesh.aio import pause

FIRST_SECONDS = 15.0
LOOK_SECONDS = 3.0
MAX_SILENT = 2000
"""Connections without a request. Beyond this the oldest are closed early."""


class IdleConnections:
    def __init__(self) -> None:
        self._spoke: set[RequestHandler] = set()
        self._seen: dict[RequestHandler, float] = {}
        """Silent connection -> when it was first seen. Both are rid of closed ones at each look."""

    def spoke(self, request: web.Request) -> None:
        """A connection has asked for something."""
        self._spoke.add(request.protocol)

    async def run(self, server: web.Server) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self.look(server.connections, clock())
            await pause(LOOK_SECONDS)

    def look(self, connections: Iterable[RequestHandler], now: float) -> None:
        present = set(connections)
        self._spoke &= present
        silent = present - self._spoke
        self._seen = {connection: self._seen.get(connection, now) for connection in silent}
        surplus = len(silent) - MAX_SILENT
        for place, connection in enumerate(sorted(silent, key=self._seen.__getitem__)):
            if place < surplus or now - self._seen[connection] >= FIRST_SECONDS:
                connection.force_close()
