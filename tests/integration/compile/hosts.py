"""Hosts as real as they get without agents: a real Envoy each, fed over delta ADS with what is compiled for it."""

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from agent.envoy import bootstrap
from agent.envoy.bootstrap import BootstrapSettings
from agent.xds.server import Answered, Event, XdsServer
from agent.xds.stream import Acked, Nacked
from controlplane.demo.binaries import find_envoy
from controlplane.demo.process import Process
from mesh.compile import Compiler, Snapshot, check
from mesh.model import Identity, NodeLocal, World
from tests.support.waiting import eventually

T = TypeVar("T")


class Background:
    """A loop in a thread, where servers live while a test's own loop talks to them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, coroutine: Awaitable[T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Host:
    def __init__(self, name: str, folder: Path, background: Background) -> None:
        self.name, self.log = name, folder / f"{name}.access.log"
        self._background = background
        self._compiler = Compiler()
        self._answers: list[Acked | Nacked] = []
        self.local: NodeLocal | None = None
        self.admin = folder / f"{name}-admin.sock"
        socket = folder / f"{name}-xds" / "xds.sock"
        self._server = XdsServer(socket, on_event=self._on_event)
        self._run = background.call(self._start())
        eventually(self._server.listening.is_set, what="ADS server listens")
        config = folder / f"{name}.json"
        settings = BootstrapSettings(node=name, cluster="test", xds_socket=str(socket), admin_socket=str(self.admin))
        config.write_bytes(bootstrap.render(settings))
        self.envoy = Process(
            f"envoy {name}",
            [
                str(find_envoy()),
                "-c",
                str(config),
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--log-level",
                "info",
                "--file-flush-interval-msec",
                "100",
            ],
            log=folder / f"{name}.log",
        ).start()

    async def _start(self) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(self._server.run())

    async def _stop(self) -> None:
        self._run.cancel()
        await asyncio.gather(self._run, return_exceptions=True)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Answered):
            self._answers.append(event.outcome)

    def publish(self, world: World, local: NodeLocal) -> Snapshot:
        """Compile, publish, and wait until Envoy has it."""
        self.local = local
        self._answers.clear()
        snapshot = self._compiler.compile(self._compiler.project(world, local))
        self.published = (local, snapshot)
        assert check(snapshot) == ()
        self._background.loop.call_soon_threadsafe(self._server.publish, snapshot)
        eventually(lambda: self._acked(snapshot), timeout=20, what=f"{self.name} has its configuration")
        return snapshot

    def published_again(self) -> None:
        """Wait until an Envoy that was started anew has what was published last."""
        _, snapshot = self.published
        self._answers.clear()
        eventually(lambda: self._acked(snapshot), timeout=20, what=f"{self.name} has its configuration again")

    def republish(self, world: World) -> Snapshot:
        """Another world, for the same host."""
        assert self.local is not None
        return self.publish(world, self.local)

    def _acked(self, snapshot: Snapshot) -> bool:
        if refused := [a for a in self._answers if isinstance(a, Nacked)]:
            raise RuntimeError(f"Envoy refused: {refused}")
        self.envoy.check()
        return any(isinstance(a, Acked) and a.digest == snapshot.digest for a in self._answers)

    def lines(self) -> list[dict[str, object]]:
        """The access log."""
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def logged(self, match: Callable[[dict[str, object]], bool]) -> dict[str, object]:
        """The first line that matches; it is written with some delay."""
        return eventually(lambda: next((x for x in self.lines() if match(x)), None), timeout=15, what="a log line")

    def close(self) -> None:
        self.envoy.stop()
        self._background.call(self._stop())


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


async def get(
    host: str, port: int, path: str = "/", *, tls: ssl.SSLContext | None = None, sni: str = "", **headers: str
) -> Answer:
    """One GET on a connection of its own; OSError if there is no answer."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=sni or None)
    try:
        more = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n{more}\r\n".encode())
        async with asyncio.timeout(10):
            raw = await reader.read()
    finally:
        # Not closed in TLS's own way, which takes a round trip: the loop may end before.
        writer.transport.abort()
        await asyncio.sleep(0)
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    if len(lines[0].split()) < 2:
        raise ConnectionResetError(f"no HTTP answer: {raw[:80]!r}")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    if fields.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Answer(int(lines[0].split()[1]), fields, body)


def _unchunked(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        out, body = out + body[:length], body[length + 2 :]
    return out


def context(folder: Path, mine: Identity | None, *roots: str) -> ssl.SSLContext:
    """TLS as a client of the mesh; the server's name is the caller's business."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname = False
    found.load_verify_locations(cadata="".join(roots))
    if mine:
        _load(found, folder, mine)
    return found


def server_context(folder: Path, mine: Identity) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(found, folder, mine)
    return found


def _load(found: ssl.SSLContext, folder: Path, mine: Identity) -> None:
    path = folder / "tls.pem"
    path.write_text(mine.chain_pem + mine.key_pem)
    found.load_cert_chain(path)
    path.unlink()


async def http_app(host: str, port: int) -> web.AppRunner:
    """Answers with what it saw."""

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(
            {"path": request.raw_path, "headers": {k.lower(): v for k, v in request.headers.items()}}
        )

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


async def greeting_app(host: str, port: int) -> asyncio.Server:
    """TCP, and speaks first: says who it is, then repeats what it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello ")
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, host, port)
