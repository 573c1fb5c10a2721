"""TrafficPolicy through real Envoys: some of a service's instances, and connections of TCP."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.traffic.policies import answered, connect, policy, route, stat, took
from tests.integration.traffic.rig import INSTANCES, Rig
from tests.support.waiting import eventually

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def fresh(mesh: Rig) -> Iterator[None]:
    mesh.fresh()
    yield
    mesh.fresh()


# --- subsets ---------------------------------------------------------------------------------------------------------

SUBSETS = policy("subsets: [{name: one, labels: {version: v1}}, {name: two, labels: {version: v2, app: api}}]")


def subset(name: str, port: int = 80, weight: int = 1) -> str:
    return f"{{group: holdfast.dev, kind: ServiceSubset, name: api.{name}, port: {port}, weight: {weight}}}"


def test_a_route_names_some_of_a_services_instances(mesh: Rig):
    mesh.objects(SUBSETS + route(subset("one")))
    assert answered(mesh).keys() == {"v1"}
    mesh.objects(SUBSETS + route(f"{subset('one', weight=9)}, {subset('two')}"))
    counts = answered(mesh, 300)
    assert counts.keys() == {"v1", "v2"}
    assert 0.8 <= counts["v1"] / 300 <= 0.98
    mesh.objects(SUBSETS + route(f"{subset('gone')}, {subset('two')}"))
    assert answered(mesh).keys() == {"500", "v2"}
    mesh.objects(route(subset("one")))
    reply = mesh.get()
    assert (reply.status, b"has a subset 'one'" in reply.body) == (500, True)


def test_connections_are_shared_out_among_subsets(mesh: Rig):
    mesh.objects(SUBSETS + route(f"{subset('one', 5432, 3)}, {subset('two', 5432)}", kind="TCPRoute", port=5432))
    counts = took(mesh, *["127.0.0.1"] * 120)
    assert counts.keys() == {"v1", "v2"}
    assert 0.6 <= counts["v1"] / 120 <= 0.9


# --- TCP -------------------------------------------------------------------------------------------------------------


def test_connections_are_hashed_by_their_source_and_no_open_one_is_touched(mesh: Rig):
    reader, writer, first = mesh.background.call(connect(mesh))
    mesh.objects(policy("loadBalancing: {algorithm: RingHash, hash: [{source: true}]}"))
    assert len(took(mesh, *["127.0.0.1"] * 20)) == 1
    assert len(took(mesh, *(f"127.0.0.{100 + n}" for n in range(40)))) == 3

    async def echoed() -> bytes:
        writer.write(b"still here\n")
        async with asyncio.timeout(5):
            return await reader.readline()

    assert (first in INSTANCES, mesh.background.call(echoed())) == (True, b"still here\n")
    mesh.background.loop.call_soon_threadsafe(writer.close)


def test_a_connection_on_which_nothing_moves_is_ended(mesh: Rig):
    mesh.objects(policy("timeouts: {idle: 1s}"))
    reader, writer, _ = mesh.background.call(connect(mesh))

    async def ended() -> bytes:
        async with asyncio.timeout(10):
            return await reader.read()

    assert mesh.background.call(ended()) == b""
    mesh.background.loop.call_soon_threadsafe(writer.close)
    assert mesh.get().status == 200
    eventually(lambda: stat(mesh, "upstream_cx_active") == 0, what="those between proxies are ended, too")
