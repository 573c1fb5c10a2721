"""Hosts and applications that die under load, and that nobody has taken out of the load assignment yet."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.integration.compile.hosts import Background, Host
from tests.integration.compile.loads import asking, greeting, loads, more
from tests.integration.compile.two import WEB, WEST, App, Two, services
from tests.support.meshes import policy, rule

pytestmark = pytest.mark.real

CALLER, PLACES = "127.0.0.71", ("127.0.0.72", "127.0.0.73")


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
        two = Two(tmp_path, stack)
        two.set(WEST, *services(), policy("callers", "", rule(WEB, name="web")))
        two.instances(WEST, ("one", PLACES[0]), ("two", PLACES[1]))
        ports = two.caller("web", CALLER, ("api", "db"))
        names = ("one", "two")
        yield Mesh(
            two.hosts["web"],
            [two.hosts[name] for name in names],
            [two.apps[name] for name in names],
            two.background,
            ports["api"],
            ports["db"],
        )


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
            async with loads(asking(session, mesh.http), asking(session, mesh.http, "POST")) as both:
                await more(both, 50)
                for load in both:
                    assert set(load.answers) == set(PLACES)
                await asyncio.to_thread(mesh.callees[0].envoy.kill9)
                await more(both, 300)
            assert await in_assignment(mesh, "outbound|80|api.shop|shop/web") == 2
            get, post = both
            assert get.failures == []
            # The one in flight: whether it was seen, nobody can know.
            assert len(post.failures) <= 1
            for load in both:
                assert set(load.answers[-100:]) == {PLACES[1]}

    asyncio.run(run())


def test_a_killed_host_fails_no_tcp_connect(mesh: Mesh):
    async def run() -> None:
        async with loads(*[greeting(mesh.tcp)] * 4) as all_of_them:
            await more(all_of_them, 20)
            assert {answer for load in all_of_them for answer in load.answers} == set(PLACES)
            await asyncio.to_thread(mesh.callees[0].envoy.kill9)
            await more(all_of_them, 150)
        assert await in_assignment(mesh, "outbound|5432|db.shop|shop/web") == 2
        for load in all_of_them:
            # The one that was open or half open as its host died.
            assert len(load.failures) <= 1
            assert set(load.answers[-50:]) == {PLACES[1]}

    asyncio.run(run())


def test_a_dead_application_fails_no_call_while_another_lives(mesh: Mesh):
    """Its proxy says that it was not reached, and POST is repeated, too."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session, loads(asking(session, mesh.http, "POST")) as (load,):
            await load.more(25)
            assert set(load.answers) == set(PLACES)
            await asyncio.to_thread(mesh.apps[0].stop)
            await load.more(250)
            # The one in flight.
            assert len(load.failures) <= 1
            assert set(load.answers[-100:]) == {PLACES[1]}

    asyncio.run(run())


def test_an_application_that_dies_with_a_request_in_hand(mesh: Mesh):
    """Its proxy lives and says so: what may be repeated is, elsewhere, and all else is told."""

    async def run() -> None:
        mesh.apps[0].dying = True
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{mesh.http}"
            statuses = []
            for _ in range(4):
                async with session.post(url) as answer:
                    statuses.append(answer.status)
                    assert not [name for name in answer.headers if name.lower().startswith("x-holdfast")]
            assert set(statuses) == {200, 503}
            assert sum(app.seen for app in mesh.apps) == len(statuses)
            async with loads(asking(session, mesh.http)) as (get,):
                await get.more(50)
            assert get.failures == []
            assert set(get.answers) == {PLACES[1]}
            assert mesh.apps[0].seen > statuses.count(503), "it was asked first, some times"

    asyncio.run(run())


def test_between_proxies_only(mesh: Mesh):
    """No application can say that it was not reached, or that nobody will answer, and none is told."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{mesh.http}"
            async with session.post(f"{url}/lie") as answer:
                assert answer.status == 503
                assert not [name for name in answer.headers if name.lower().startswith("x-holdfast")]
            assert sum(app.seen for app in mesh.apps) == 1
            for app in mesh.apps:
                await asyncio.to_thread(app.stop)
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
