"""A Service in two clusters, under load, while its instances, the far ones and gateways die, are drained and return."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import grpc
import pytest

from tests.integration.compile.loads import Call, Load, asking, greeting, loads, more
from tests.integration.compile.two import EAST, EXPORTED, IMPORTED, PORTS, WEB, WEST, Two, services
from tests.support.h2 import H2
from tests.support.meshes import policy, rule

pytestmark = pytest.mark.real

W1, E1, E2 = "127.0.3.1", "127.0.3.2", "127.0.3.3"
GE1, GE2, GE3, WEB_AT, W2 = (f"127.0.3.{number}" for number in range(4, 9))
EASTERN = {E1, E2}


class Mesh:
    """west: web and one instance; east: two instances and two gateways. `api`, `db` and `rpc` are in both clusters."""

    def __init__(self, two: Two) -> None:
        self.two = two
        two.set(EAST, *EXPORTED)
        two.instances(EAST, ("e1", E1), ("e2", E2))
        two.gateways(EAST, ("ge1", GE1), ("ge2", GE2))
        everywhere = services(clusters=("*",))
        two.set(WEST, *IMPORTED, *everywhere, policy("callers", "", rule(WEB, name="web")))
        two.set(WEST, *(two.far(which, gateway, 2) for which in PORTS for gateway in ("ge1", "ge2")))
        two.instances(WEST, ("w1", W1))
        self.calls = two.caller("web", WEB_AT, PORTS)

    async def say(self, health: str, *names: str) -> None:
        """What a control plane says of local instances, or of far gateways."""
        two = self.two
        made = [
            two.far(which, name, 2, health) if name.startswith("ge") else two.endpoint(which, name, health)
            for name in names
            for which in PORTS
        ]
        await asyncio.to_thread(two.set, WEST, *made)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with contextlib.ExitStack() as stack:
        yield Mesh(Two(tmp_path, stack))


@contextlib.asynccontextmanager
async def calling(mesh: Mesh):
    """Loads by HTTP/1.1, HTTP/2, gRPC and TCP."""
    h2 = H2(mesh.calls["api"])
    async with (
        contextlib.aclosing(h2),
        aiohttp.ClientSession() as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{mesh.calls['rpc']}") as channel,
        loads(
            asking(session, mesh.calls["api"]), lambda: h2.get("/"), _grpc(channel), greeting(mesh.calls["db"])
        ) as four,
    ):
        yield four


def _grpc(channel: grpc.aio.Channel) -> Call:
    async def ask() -> str:
        try:
            return (await channel.unary_unary("/test.App/Who")(b"", timeout=10)).decode()
        except grpc.aio.AioRpcError as exc:
            raise ValueError(f"{exc.code()} {exc.details()}") from exc

    return ask


def places(load: Load, last: int = 20) -> set[str]:
    return set(load.answers[-last:])


def judge(four: list[Load], *, in_flight: int = 1) -> None:
    """Idempotent requests: none. Of others, what was under way when somebody died: nobody knows what became of it."""
    http1, http2, rpc, tcp = four
    assert http1.failures == []
    assert http2.failures == []
    assert len(rpc.failures) <= in_flight, rpc.failures
    assert len(tcp.failures) <= in_flight, tcp.failures


def test_who_dies_here_is_called_there_and_here_again_once_it_is_back(mesh: Mesh):
    async def run() -> None:
        two = mesh.two
        async with calling(mesh) as four:
            await more(four, 30)
            for load in four:
                assert places(load) == {W1}, "this cluster comes first"
            await asyncio.to_thread(two.hosts["w1"].envoy.kill9)
            await more(four, 50)
            for load in four:
                assert places(load) <= EASTERN
            await mesh.say("lost", "w1")
            await more(four, 50)
            await asyncio.to_thread(two.hosts["w1"].envoy.start)
            await asyncio.to_thread(two.hosts["w1"].published_again)
            await mesh.say("healthy", "w1")
            for load in four:
                await returned(load, W1)
            judge(four)

    asyncio.run(run())


async def returned(load: Load, place: str) -> None:
    """Wait until all is answered there: who was left out comes back after a while."""
    for _ in range(60):
        await load.more(30)
        if places(load, 40) == {place}:
            return
    raise AssertionError(f"not all is answered at {place}: {load.answers[-40:]}")


def test_an_application_that_dies_here_is_called_there(mesh: Mesh):
    """Its proxy lives and says that the application did not see the request: others than idempotent ones go on, too."""

    async def run() -> None:
        async with calling(mesh) as (http1, http2, rpc, _):
            await more([http1, http2, rpc], 30)
            await asyncio.to_thread(mesh.two.apps["w1"].stop)
            await more([http1, http2, rpc], 75)
            await mesh.say("unhealthy", "w1")
            await more([http1, http2, rpc], 50)
            for load in (http1, http2, rpc):
                assert places(load) <= EASTERN
            assert (http1.failures, http2.failures) == ([], [])
            assert len(rpc.failures) <= 1, rpc.failures
            await asyncio.to_thread(mesh.two.apps["w1"].start)
            await mesh.say("healthy", "w1")
            for load in (http1, http2, rpc):
                await returned(load, W1)
            assert (http1.failures, http2.failures) == ([], [])

    asyncio.run(run())


def test_some_of_those_behind_a_gateway_die(mesh: Mesh):
    async def run() -> None:
        async with calling(mesh) as four:
            await mesh.say("unhealthy", "w1")
            await more(four, 50)
            await asyncio.to_thread(mesh.two.hosts["e1"].envoy.kill9)
            await more(four, 50)
            judge(four)
            for load in four:
                assert places(load) == {E2}

    asyncio.run(run())


def test_a_gateway_that_dies_is_passed_by(mesh: Mesh):
    async def run() -> None:
        async with calling(mesh) as four:
            await mesh.say("unhealthy", "w1")
            await more(four, 50)
            await asyncio.to_thread(mesh.two.hosts["ge1"].envoy.kill9)
            await more(four, 50)
            judge(four)

    asyncio.run(run())


def test_a_gateway_is_drained_and_replaced_without_a_loss(mesh: Mesh):
    async def run() -> None:
        two = mesh.two
        async with calling(mesh) as four:
            await mesh.say("unhealthy", "w1")
            await more(four, 50)
            await asyncio.to_thread(two.gateways, EAST, ("ge3", GE3))
            await asyncio.to_thread(two.set, WEST, *(two.far(which, "ge3", 2) for which in PORTS))
            await mesh.say("draining", "ge1")
            await more(four, 50)
            await asyncio.to_thread(two.hosts["ge1"].envoy.kill9)
            await more(four, 50)
            assert [load.failures for load in four] == [[], [], [], []]

    asyncio.run(run())


def test_what_is_too_much_for_those_that_are_left_here_spills_over_and_returns(mesh: Mesh):
    """One of two is well: 1.4 times its half stays, and the rest goes there until the other is back."""

    async def run() -> None:
        await asyncio.to_thread(mesh.two.instances, WEST, ("w2", W2))
        async with aiohttp.ClientSession() as session, loads(asking(session, mesh.calls["api"])) as (load,):
            await load.more(60)
            assert places(load) <= {W1, W2}
            await mesh.say("unhealthy", "w2")
            await load.more(400)
            there = sum(answer in EASTERN for answer in load.answers[-360:]) / 360
            assert 0.18 < there < 0.42, there
            assert W2 not in load.answers[-360:]
            await mesh.say("healthy", "w2")
            await load.more(60)
            await load.more(60)
            assert places(load, 60) == {W1, W2}
            assert load.failures == []

    asyncio.run(run())
