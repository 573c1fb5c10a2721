"""The one door to Envoy's admin socket: a few lines of HTTP/1.1, since a client library would cost memory."""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

LIMIT_BYTES = 512 * 1024 * 1024
"""Of one answer: a dump of 10,000 clusters is some 50 MB."""

_STAT = re.compile(r"(?m)^([^\s].*): (\d+)$")
_WARMING = re.compile(
    r"^cluster_manager\.warming_clusters$|^listener_manager\.total_listeners_warming$|^server\.state$"
)


class AdminError(Exception):
    """Envoy's admin socket did not answer, or refused, with the reason."""


@dataclass(frozen=True)
class ServerInfo:
    state: str
    """LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING."""
    version: str
    epoch: int
    uptime_seconds: float


class Admin:
    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        """Seconds are per request, for all of it."""
        self._path, self._timeout = path, timeout

    async def get(self, path: str) -> bytes:
        return await self._ask("GET", path)

    async def post(self, path: str) -> bytes:
        """For what changes something: Envoy takes it by POST only."""
        return await self._ask("POST", path)

    async def server_info(self) -> ServerInfo:
        info = await self._json("/server_info")
        try:
            return ServerInfo(
                state=info["state"],
                version=info["version"].split("/")[1],
                epoch=info["command_line_options"].get("restart_epoch", 0),
                uptime_seconds=float(info["uptime_current_epoch"].removesuffix("s")),
            )
        except (LookupError, TypeError, AttributeError, ValueError) as exc:
            raise AdminError(f"/server_info: the answer cannot be read: {exc!r}") from exc

    async def stats(self, pattern: str = "") -> Mapping[str, int]:
        """Counters and gauges whose names match this regular expression; all of them without one."""
        answer = await self.get("/stats" + (f"?filter={quote(pattern)}" if pattern else ""))
        return {name: int(value) for name, value in _STAT.findall(answer.decode())}

    async def prometheus(self) -> bytes:
        return await self.get("/stats/prometheus")

    async def config_dump(self, *, endpoints: bool = True) -> Any:
        """All that Envoy holds, secrets redacted by Envoy itself."""
        return await self._json("/config_dump" + ("?include_eds" if endpoints else ""))

    async def warming(self) -> int:
        """How many clusters and listeners are accepted and not in force."""
        stats = await self.stats(_WARMING.pattern)
        names = ("cluster_manager.warming_clusters", "listener_manager.total_listeners_warming")
        if not all(name in stats for name in names):
            raise AdminError("Envoy does not tell what is warming")
        return sum(stats[name] for name in names)

    async def _json(self, path: str) -> Any:
        raw = await self.get(path)
        try:
            return json.loads(raw)
        except ValueError as exc:
            raise AdminError(f"{path}: the answer cannot be read: {exc}") from exc

    async def _ask(self, method: str, path: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_unix_connection(str(self._path), limit=1024 * 1024)
                try:
                    writer.write(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
                    status, body = await _answer(reader)
                finally:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
        except TimeoutError as exc:
            raise AdminError(f"{path}: no answer in {self._timeout} s") from exc
        except (OSError, EOFError, ValueError) as exc:
            raise AdminError(f"{path}: {exc or type(exc).__name__}") from exc
        if status != 200:
            raise AdminError(f"{path}: {status} {body[:200].decode(errors='replace').strip()}")
        return body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    line = re.match(r"http/1\.1 (\d{3})", head)
    if line is None:
        raise ValueError(f"not HTTP: {head[:40]!r}")
    status = int(line[1])
    if "transfer-encoding: chunked" in head:
        return status, await _chunks(reader)
    if found := re.search(r"content-length: *(\d+)", head):
        return status, await reader.readexactly(min(int(found[1]), LIMIT_BYTES))
    return status, await reader.read(LIMIT_BYTES)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    out = bytearray()
    while length := int(await reader.readline(), 16):
        if len(out) + length > LIMIT_BYTES:
            raise ValueError(f"the answer is longer than {LIMIT_BYTES} bytes")
        out += await reader.readexactly(length)
        await reader.readexactly(2)
    return bytes(out)
