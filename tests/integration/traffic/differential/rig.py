"""A real Envoy with a static configuration, one echo behind all of its clusters, and a client that costs little.

The echo keeps what it was sent, and as which cluster. A request costs some 1.5 ms of these three together.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from controlplane.demo.binaries import find_envoy
from controlplane.demo.process import Process
from mesh import pb
from mesh.compile import Snapshot
from tests.golden.static import document

Headers = tuple[tuple[str, str], ...]

ANSWER: Headers = (("x-from", "app"), ("x-twice", "1"), ("x-twice", "2"), ("x-empty", ""), ("server", "echo"))
"""Headers of what the echo answers."""


class Seen(NamedTuple):
    """A request as a cluster's host got it."""

    cluster: str
    method: str
    path: str
    headers: Headers
    """Names in lower case; `host` is among them."""


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: str


class Closed(NamedTuple):
    """No answer: the connection was refused or closed."""

    why: str


# --- the echo --------------------------------------------------------------------------------------------------------


class Echo:
    """One place for each cluster, all in this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[asyncio.Server] = []
        self.seen: list[Seen] = []
        """All requests, also copies whose answer nobody reads."""

    async def serve(self, cluster: str) -> pb.Cluster:
        """A cluster whose only host is this."""
        path = self._folder / f"echo-{len(self._servers)}.sock"
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(lambda: _EchoProtocol(self, cluster), path, backlog=1024))
        return cluster_at(cluster, str(path))

    async def close(self) -> None:
        for server in self._servers:
            server.close()


def cluster_at(name: str, path: str) -> pb.Cluster:
    endpoint = pb.Endpoint(address=pb.Address(pipe=pb.Pipe(path=path)))
    locality = pb.LocalityLbEndpoints(lb_endpoints=[pb.LbEndpoint(endpoint=endpoint)])
    return pb.Cluster(
        name=name,
        type=pb.Cluster.STATIC,
        connect_timeout=pb.duration(5),
        load_assignment=pb.ClusterLoadAssignment(cluster_name=name, endpoints=[locality]),
    )


class _EchoProtocol(asyncio.Protocol):
    def __init__(self, echo: Echo, cluster: str) -> None:
        self._echo, self._cluster, self._buffer = echo, cluster, b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            lines = _text(self._buffer[:end]).split("\r\n")
            self._buffer = self._buffer[end + 4 :]
            method, path, _ = lines[0].split(" ")
            seen = Seen(self._cluster, method, path, _fields(lines[1:]))
            self._echo.seen.append(seen)
            assert self._transport is not None
            self._transport.write(_answer(seen))


def _answer(seen: Seen) -> bytes:
    body = seen.cluster.encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in ANSWER)
    head = f"HTTP/1.1 200 OK\r\n{headers}content-length: {len(body)}\r\n\r\n".encode()
    return head if seen.method == "HEAD" else head + body


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _fields(lines: Iterable[str]) -> Headers:
    pairs = (line.partition(":") for line in lines)
    return tuple((name.lower(), value.strip(" \t")) for name, _, value in pairs)


# --- the client ------------------------------------------------------------------------------------------------------


class Client:
    """One connection at a time, kept alive, and opened anew when it was closed."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None, sni: str = "") -> None:
        self._place = {"host": host, "port": port, "ssl": tls, "server_hostname": sni or None}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, host: str, headers: Iterable[tuple[str, str]]) -> Answer | Closed:
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in headers)]
        return await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape"), method)

    async def send(self, request: bytes, method: str = "GET") -> Answer | Closed:
        """Raw bytes of one request without a body."""
        try:
            async with asyncio.timeout(20):
                fresh = self._streams is None
                if self._streams is None:
                    self._streams = await asyncio.open_connection(**self._place)
                try:
                    return await self._exchange(request, method)
                except (OSError, asyncio.IncompleteReadError):
                    self.close()
                    if fresh:
                        raise
                # Closed since the last answer: only a connection of its own tells what becomes of this request.
                self._streams = await asyncio.open_connection(**self._place)
                return await self._exchange(request, method)
        except (OSError, asyncio.IncompleteReadError) as exc:
            self.close()
            return Closed(repr(exc))

    async def _exchange(self, request: bytes, method: str) -> Answer:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(request)
        lines = _text(await reader.readuntil(b"\r\n\r\n")).removesuffix("\r\n\r\n").split("\r\n")
        status, fields = int(lines[0].split(" ")[1]), _fields(lines[1:])
        length = int(dict(fields).get("content-length", "0"))
        body = await reader.readexactly(length) if method != "HEAD" else b""
        if ("connection", "close") in fields:
            self.close()
        return Answer(status, fields, _text(body))

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


# --- Envoy -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def envoy(folder: Path, snapshot: Snapshot, ports: Iterable[int]) -> AsyncIterator[Process]:
    """Runs with this configuration, and listens."""
    tree: dict[str, Any] = document(snapshot)
    # As the agent's bootstrap has it.
    limits: Mapping[str, int] = {"re2.max_program_size.error_level": 1024, "re2.max_program_size.warn_level": 1024}
    tree["layered_runtime"] = {"layers": [{"name": "limits", "static_layer": dict(limits)}]}
    config = folder / "envoy.json"
    config.write_text(json.dumps(tree))
    options = "--use-dynamic-base-id --concurrency 1 --log-level warn --file-flush-interval-msec 50"
    command = [str(find_envoy()), "-c", str(config), *options.split()]
    process = Process("envoy", command, log=folder / "envoy.log")
    with process:
        for port in ports:
            await asyncio.to_thread(process.wait_for_port, "127.0.0.1", port)
        yield process
