"""Steady load from a process of its own, until its standard input ends; then one line of JSON says what failed.

    python -m tests.integration.traffic.load <http port> <tcp port> <requests a second> <streams>

Requests go out on their schedule, whatever became of those before (open loop), over connections that stay. Each TCP
stream says something every half second and must hear it again.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

CONNECTIONS = 25
PATIENCE = 10.0


@dataclass
class Found:
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    pings: int = 0
    closed: list[str] = field(default_factory=list)
    slowest: float = 0.0


class Http:
    """One connection: requests one after another, a new connection if the proxy ends it between two of them."""

    def __init__(self, port: int, found: Found, number: int) -> None:
        self._port, self._found, self._number = port, found, number
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, count: int) -> None:
        started = time.monotonic()
        self._found.requests += 1
        try:
            async with asyncio.timeout(PATIENCE):
                status, by = await self._get(f"/c{self._number}/{count}")
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.IncompleteReadError) as exc:
            self._streams = None
            self._found.failed.append(f"{type(exc).__name__}: {exc}")
            return
        self._found.slowest = max(self._found.slowest, time.monotonic() - started)
        if status == 200:
            self._found.answers[by] = self._found.answers.get(by, 0) + 1
        else:
            self._found.failed.append(f"{status} {by}")

    async def _get(self, path: str) -> tuple[int, str]:
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nHost: api\r\nversion: {self._number % 3}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n")[1:])}
        body = await self._body(reader, fields)
        if fields.get("connection", "").lower() == "close":
            writer.close()
            self._streams = None
        status = int(head.split()[1])
        return status, fields.get("x-app", "") if status == 200 else body[:200].decode("utf-8", "replace")

    @staticmethod
    async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(fields.get("content-length", "0")))
        body = b""
        while size := int((await reader.readline()).strip(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body


async def requests(port: int, rate: float, found: Found, ended: asyncio.Event) -> None:
    pool = [Http(port, found, number) for number in range(CONNECTIONS)]

    async def one(mine: Http, number: int) -> None:
        count, begun, step = 0, time.monotonic() + number / rate, CONNECTIONS / rate
        while not ended.is_set():
            await asyncio.sleep(max(0.0, begun + count * step - time.monotonic()))
            await mine.get(count)
            count += 1

    async with asyncio.TaskGroup() as group:
        for number, mine in enumerate(pool):
            group.create_task(one(mine, number))


async def stream(port: int, found: Found, ended: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    by = (await reader.readline()).decode().strip()
    while not ended.is_set():
        try:
            writer.write(b"ping\n")
            async with asyncio.timeout(PATIENCE):
                heard = await reader.readline()
        except (OSError, TimeoutError) as exc:
            found.closed.append(f"{by}: {type(exc).__name__}")
            return
        if heard != b"ping\n":
            found.closed.append(f"{by}: closed")
            return
        found.pings += 1
        await asyncio.sleep(0.5)
    writer.close()


async def main(http: int, tcp: int, rate: float, streams: int) -> Found:
    found, ended = Found(), asyncio.Event()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        group.create_task(requests(http, rate, found, ended))
        for _ in range(streams):
            group.create_task(stream(tcp, found, ended))
        await loop.run_in_executor(None, sys.stdin.read)
        ended.set()
    return found


if __name__ == "__main__":
    outcome = asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
    print(json.dumps(outcome.__dict__))
