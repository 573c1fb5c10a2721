"""Hosts and applications that die under load, and that nobody has taken out of the load assignment yet."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web

from controlplane.demo.process import free_port
from mesh.model import LocalPort, Upstream, World
from tests.integration.compile.hosts import Background, Host
from tests.support.meshes import TestCa, bundle, config, definition, endpoint, local, policy, rule, service, world
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real

CALLER, PLACES = "127.0.0.71", ("127.0.0.72", "127.0.0.73")


class App:
    """HTTP and TCP at one address; counts what it sees."""

    def __init__(self, place: str, http: int, tcp: int) -> None:
        self.place, self.http, self.tcp = place, http, tcp
        self.seen = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.place, self.http).start()
        self._server = await asyncio.start_server(self._greet, self.place, self.tcp)

    async def stop(self) -> None:
        await self._runner.cleanup()
        self._server.close()

    async def _answer(self, request: web.Request) -> web.Response:
        self.seen += 1
        await request.read()
        if request.path == "/lie":
            return web.Response(status=503, headers={"x-holdfast-unreached": "true", "x-holdfast-denied-by": "me"})
        return web.Response(text=self.place)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.place.encode() + b"\n")
        while await reader.read(1000):
            pass
        writer.close()


class Mesh(NamedTuple):
    caller: Host
    callees: list[Host]
    apps: list[App]
    background: Background
    http: int
    tcp: int


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """One caller, and two hosts with the same services."""
    with contextlib.ExitStack() as stack:
        background, ca = Background(), TestCa()
        stack.callback(background.close)
        apps = [App(place, free_port(place), free_port(place)) for place in PLACES]
        for app in apps:
            background.call(app.start())
            stack.callback(lambda app=app: background.call(app.stop()))
        mtls = [free_port(place) for place in PLACES]
        http, tcp = free_port("127.0.0.1"), free_port("127.0.0.1")
        state = _world(ca, mtls)
        calls = [
            Upstream(service="api", port=80, listen=f"127.0.0.1:{http}"),
            Upstream(service="db", port=5432, listen=f"127.0.0.1:{tcp}"),
        ]
        hosts = []
        for number, (name, place) in enumerate(zip(("caller", "one", "two"), (CALLER, *PLACES), strict=True)):
            hosts.append(host := Host(name, tmp_path, background))
            stack.callback(host.close)
            app = apps[number - 1]
            here = [definition("web", upstreams=calls)] if number == 0 else _definitions(app)
            held = {d.identity: ca.workload(d.identity) for d in here}
            port = mtls[number - 1] if number else free_port(place)
            more = {"node": name, "address": place, "mtls_port": port, "access_log": str(host.log)}
            host.publish(state, local(*here, identities=held, **more))
        yield Mesh(hosts[0], hosts[1:], apps, background, http, tcp)


def _definitions(app: App):
    return [
        definition("api", LocalPort(port=app.http, name="http", protocol="http", address=app.place)),
        definition("db", LocalPort(port=app.tcp, name="tcp", address=app.place)),
    ]


def _world(ca: TestCa, mtls: list[int]) -> World:
    places = list(zip(("one", "two"), PLACES, mtls, strict=True))
    return world(
        config(),
        bundle(ca.root),
        service("web"),
        service("api", target="http"),
        service("db", port=5432, protocol="tcp", target="tcp"),
        policy("callers", "", rule("shop/web", name="web")),
        *(endpoint("api", name, place, mtls_port=port) for name, place, port in places),
        *(endpoint("db", name, place, mtls_port=port, ports=(5432,)) for name, place, port in places),
    )


class Load:
    """Calls one after another, as fast as they are answered; `answers` and `failures` in their order."""

    def __init__(self, call: Callable[[], Awaitable[str]]) -> None:
        self._call = call
        self.answers: list[str] = []
        self.failures: list[str] = []

    async def run(self) -> None:
        while True:
            try:
                self.answers.append(await self._call())
            except (OSError, aiohttp.ClientError, ValueError) as exc:
                self.failures.append(repr(exc))
            await asyncio.sleep(0.002)

    async def more(self, count: int) -> None:
        """Return after so many more answers."""
        wanted = len(self.answers) + count
        await aeventually(lambda: len(self.answers) >= wanted, timeout=30, what=f"{count} answers; {self.failures[:3]}")


@contextlib.asynccontextmanager
async def loads(*calls: Callable[[], Awaitable[str]]) -> AsyncIterator[list[Load]]:
    found = [Load(call) for call in calls]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(load.run()) for load in found]
        try:
            yield found
        finally:
            for task in tasks:
                task.cancel()


def asking(session: aiohttp.ClientSession, mesh: Mesh, method: str, path: str = "/") -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        async with session.request(method, f"http://127.0.0.1:{mesh.http}{path}", data=b"x") as answer:
            text = await answer.text()
            if answer.status != 200:
                raise ValueError(f"{answer.status} {text} {dict(answer.headers)}")
            return text

    return ask


def greeting(mesh: Mesh) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.tcp)
        try:
            async with asyncio.timeout(10):
                line = await reader.readline()
            if not line:
                raise ConnectionResetError("closed without a word")
            return line.decode().strip()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return ask


async def in_assignment(mesh: Mesh, cluster: str) -> int:
    """Hosts that the caller's Envoy has of a cluster, dead or alive."""
    connector = aiohttp.UnixConnector(str(mesh.caller.admin))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://envoy/clusters?format=json") as answer,
    ):
        found = json.loads(await answer.text())["cluster_statuses"]
    return len(next(c for c in found if c["name"] == cluster)["host_statuses"])


def test_a_killed_host_fails_no_http_call(mesh: Mesh):
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            async with loads(asking(session, mesh, "GET"), asking(session, mesh, "POST")) as both:
                for load in both:
                    await load.more(100)
                    assert set(load.answers) == set(PLACES)
                await asyncio.to_thread(mesh.callees[0].envoy.kill9)
                for load in both:
                    await load.more(600)
            assert await in_assignment(mesh, "outbound|80|api.shop|shop/web") == 2
            get, post = both
            assert get.failures == []
            # The one in flight: whether it was seen, nobody can know.
            assert len(post.failures) <= 1
            for load in both:
                assert set(load.answers[-200:]) == {PLACES[1]}

    asyncio.run(run())


def test_a_killed_host_fails_no_tcp_connect(mesh: Mesh):
    async def run() -> None:
        async with loads(*[greeting(mesh)] * 4) as all_of_them:
            for load in all_of_them:
                await load.more(20)
            assert {answer for load in all_of_them for answer in load.answers} == set(PLACES)
            await asyncio.to_thread(mesh.callees[0].envoy.kill9)
            for load in all_of_them:
                await load.more(300)
        assert await in_assignment(mesh, "outbound|5432|db.shop|shop/web") == 2
        for load in all_of_them:
            # The one that was open or half open as its host died.
            assert len(load.failures) <= 1
            assert set(load.answers[-50:]) == {PLACES[1]}

    asyncio.run(run())


def test_a_dead_application_fails_no_call_while_another_lives(mesh: Mesh):
    """Its proxy says that it was not reached, and POST is repeated, too."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session, loads(asking(session, mesh, "POST")) as (load,):
            await load.more(50)
            assert set(load.answers) == set(PLACES)
            await asyncio.to_thread(mesh.background.call, mesh.apps[0].stop())
            await load.more(500)
            # The one in flight.
            assert len(load.failures) <= 1
            assert set(load.answers[-100:]) == {PLACES[1]}

    asyncio.run(run())


def test_between_proxies_only(mesh: Mesh):
    """No application can say that it was not reached, and none is told."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{mesh.http}"
            async with session.post(f"{url}/lie") as answer:
                assert answer.status == 503
                assert not [name for name in answer.headers if name.lower().startswith("x-holdfast")]
            assert sum(app.seen for app in mesh.apps) == 1
            for app in mesh.apps:
                await asyncio.to_thread(mesh.background.call, app.stop())
            async with session.post(f"{url}/gone") as answer:
                assert answer.status == 503
                assert not [name for name in answer.headers if name.lower().startswith("x-holdfast")]
        tried = [line for host in mesh.callees for line in await asyncio.to_thread(_lines, host, "/gone")]
        assert {line["service"] for line in tried} == {"api.shop:80"}

    asyncio.run(run())


def _lines(host: Host, path: str) -> list[dict[str, object]]:
    """It was tried there."""
    host.logged(lambda line: line.get("path") == path)
    return [line for line in host.lines() if line.get("path") == path]
