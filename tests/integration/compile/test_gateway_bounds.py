"""What a real gateway bounds: to whom it passes on, for whom, and how much of it is one peer's."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import msgspec
import pytest

from controlplane.demo.process import free_port
from mesh.model import GatewaySpec
from tests.integration.compile.hosts import context, get
from tests.integration.compile.test_clusters import stat
from tests.integration.compile.two import EAST, EXPORTED, IMPORTED, PORTS, WEST, Two
from tests.support.meshes import peering

pytestmark = pytest.mark.real

E1, GE1, WEB_AT, GW1, SINK = "127.0.3.1", "127.0.3.2", "127.0.3.3", "127.0.3.5", "127.0.3.9"
NEAR, FAR = "127.0.3.20", "127.0.4.20"
"""Callers' own addresses: as one peer's, and as somebody else's."""
API = "80.api.shop.east.mesh"
LIMIT = 3


@dataclass(slots=True)
class Sink:
    """Something that no peer should lead a gateway to."""

    port: int
    seen: int = 0


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with contextlib.ExitStack() as stack:
        two = Two(tmp_path_factory.mktemp("bounds"), stack)
        two.set(EAST, *EXPORTED)
        two.instances(EAST, ("e1", E1))
        two.gateways(EAST, ("ge1", GE1))
        two.set(WEST, peering(EAST, through="Gateway"), *IMPORTED, *(two.far(which, "ge1") for which in PORTS))
        two.gateways(WEST, ("gw1", GW1))
        yield two


def bounded(two: Two, name: str, *, port: int = 0, bind: str = "", **spec: object) -> None:
    """Another word in the gateway's agent.yaml."""
    cluster, here, values = two._published[name]
    gateway = GatewaySpec(port=port or two.places[name][1], **spec)
    two._published[name] = (cluster, here, {**values, "gateway": gateway, "bind": bind})
    two._publish(name)


@contextlib.asynccontextmanager
async def opened(two: Two, gateway: str, source: str, at: tuple[str, int] | None = None) -> AsyncIterator[bool]:
    """A connection through a gateway from this address; whether the handshake with the callee was done."""
    address, port = at or two.places[gateway]
    tls = context(two.folder, two.ca[WEST].workload("shop/web"), two.ca[EAST].root)
    try:
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=API, local_addr=(source, 0)
            )
    except (OSError, ssl.SSLError):
        yield False
        return
    try:
        yield True
    finally:
        writer.transport.abort()


async def held(stack: contextlib.AsyncExitStack, two: Two, source: str, number: int) -> list[bool]:
    return [await stack.enter_async_context(opened(two, "ge1", source)) for _ in range(number)]


def test_a_gateway_passes_on_to_a_peer_for_callers_of_its_own_cluster_only(two: Two):
    """The caller's TLS is fine, and so is its SNI: where it comes from decides."""

    async def run() -> None:
        for ranges, near, far in ((("127.0.3.0/24",), True, False), (("127.0.4.0/24", "::1/128"), False, True)):
            await asyncio.to_thread(bounded, two, "gw1", source_ranges=ranges)
            for source, expected in ((NEAR, near), (FAR, far)):
                async with opened(two, "gw1", source) as done:
                    assert done is expected, (ranges, source)
        line = two.hosts["gw1"].logged(lambda x: x.get("sni") == API and str(x.get("peer_address")).startswith(NEAR))
        assert line

    asyncio.run(run())
    refused = two.hosts["gw1"].logged(
        lambda x: x.get("sni") == API and x["flags"] == "NR" and x["peer_address"].startswith(NEAR)
    )
    assert refused["direction"] == "gateway"
    bounded(two, "gw1")


def test_a_gateway_of_both_families_knows_sources_of_either(two: Two):
    """With an address of IPv6 it listens at `::`, and callers may come by IPv4."""

    async def run() -> None:
        port = free_port("0.0.0.0")
        ranges = ("127.0.3.0/24", "::1/128")
        await asyncio.to_thread(bounded, two, "gw1", port=port, bind="::", source_ranges=ranges)
        for source, at, expected in ((NEAR, GW1, True), (FAR, GW1, False), ("::1", "::1", True)):
            async with opened(two, "gw1", source, (at, port)) as done:
                assert done is expected, source

    asyncio.run(run())
    bounded(two, "gw1")


def test_a_gateway_connects_nowhere_on_a_peers_word_alone(two: Two):
    """A peer that names the host itself, or what only it reaches, gets no connection there."""

    async def run() -> None:
        sink = Sink(0)

        async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            del reader
            sink.seen += 1
            writer.close()

        server = await asyncio.start_server(taken, SINK, 0)
        async with server:
            sink.port = server.sockets[0].getsockname()[1]

            def astray(address: str, port: int) -> None:
                told = two.far("api", "ge1")
                spec = msgspec.structs.replace(told.spec, address=address, port=port)
                two.set(WEST, msgspec.structs.replace(told, spec=spec))

            # That it would be led there is shown first.
            await asyncio.to_thread(astray, SINK, sink.port)
            async with opened(two, "gw1", NEAR) as done:
                assert not done
            assert sink.seen > 0
            before = sink.seen
            elsewhere = peering(EAST, through="Gateway", networks=("127.0.2.0/24", f"{GE1}/32"))
            await asyncio.to_thread(two.set, WEST, elsewhere)
            async with opened(two, "gw1", NEAR) as done:
                assert not done
            assert sink.seen == before
            # Its own address: a connection would come back to where it was made, over and over.
            await asyncio.to_thread(two.set, WEST, peering(EAST, through="Gateway"))
            await asyncio.to_thread(astray, *two.places["gw1"])
            async with opened(two, "gw1", NEAR) as done:
                assert not done
            assert await stat(two.hosts["gw1"], "cluster.gateway|80|api.shop.east.membership_total") == 0
        await asyncio.to_thread(two.set, WEST, two.far("api", "ge1"))
        async with opened(two, "gw1", NEAR) as done:
            assert done

    asyncio.run(run())


def test_a_peer_uses_up_its_own_share_of_a_passage_only(two: Two):
    async def run() -> None:
        await asyncio.to_thread(bounded, two, "ge1", connections_per_service=LIMIT)
        await asyncio.to_thread(two.set, EAST, peering(WEST))
        async with contextlib.AsyncExitStack() as stack:
            # Without networks nobody can tell them apart.
            assert await held(stack, two, FAR, LIMIT + 1) == [True] * LIMIT + [False]
            assert await held(stack, two, NEAR, 1) == [False]
        await asyncio.to_thread(two.set, EAST, peering(WEST, networks=("127.0.3.0/24",)))
        async with contextlib.AsyncExitStack() as stack:
            assert await held(stack, two, FAR, LIMIT + 1) == [True] * LIMIT + [False]
            assert await held(stack, two, NEAR, LIMIT + 1) == [True] * LIMIT + [False]
            assert await stat(two.hosts["ge1"], "cluster.gateway|80|api.shop.upstream_cx_overflow") == 0
        two.hosts["ge1"].logged(lambda x: x.get("service") == "api.shop:80" and x.get("peer") == WEST)

    asyncio.run(run())
    bounded(two, "ge1")


def test_a_call_goes_through_as_before(two: Two):
    ports = two.caller("web", WEB_AT, ("api.shop.east",))
    answer = asyncio.run(get("127.0.0.1", ports["api.shop.east"], "/hello"))
    assert (answer.status, answer.body) == (200, E1.encode())
