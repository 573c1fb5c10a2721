"""Calls between clusters through real gateways: who arrives as whom, who is refused, and by what name."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp
import grpc
import msgspec
import pytest

from mesh import codec
from mesh.model import Metadata
from tests.integration.compile.hosts import Host, context, get
from tests.integration.compile.two import EAST, EXPORTED, IMPORTED, PORTS, WEB, WEST, Two, services
from tests.support.meshes import export, peering, service

pytestmark = pytest.mark.real

E1, GE1, WEB_AT, OTHER, GW1 = "127.0.2.1", "127.0.2.2", "127.0.2.3", "127.0.2.4", "127.0.2.5"
FAR = tuple(f"{which}.shop.east" for which in PORTS)


TO_EAST = {"group": "holdfast.dev", "kind": "ImportedService"}
ROUTES = tuple(
    codec.decode_strict({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": name}],
            "rules": [{"backendRefs": [{**TO_EAST, "name": f"{name}.east", "port": PORTS[name]}]}],
        },
    })
    for kind, name in (("HTTPRoute", "api"), ("TCPRoute", "db"))
)  # fmt: skip


class Mesh(NamedTuple):
    two: Two
    web: dict[str, int]
    other: dict[str, int]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with contextlib.ExitStack() as stack:
        two = Two(tmp_path_factory.mktemp("two"), stack)
        two.set(EAST, *EXPORTED)
        two.instances(EAST, ("e1", E1))
        two.gateways(EAST, ("ge1", GE1))
        two.set(WEST, *IMPORTED, *(two.far(which, "ge1") for which in PORTS))
        two.gateways(WEST, ("gw1", GW1))
        two.set(WEST, *services(), *ROUTES)
        web = two.caller("web", WEB_AT, (*FAR, "api", "db"))
        other = two.caller("other", OTHER, FAR)
        yield Mesh(two, web, other)


@pytest.fixture(params=["Direct", "Gateway"])
def through(request: pytest.FixtureRequest, mesh: Mesh) -> str:
    """By the far gateway alone, or by one of its own cluster first."""
    mesh.two.set(WEST, peering(EAST, through=request.param))
    return request.param


async def who(port: int) -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        return (await channel.unary_unary("/test.App/Who")(b"", timeout=10)).decode()


async def passed(host: Host, cluster: str) -> int:
    """Connections that a gateway has passed on, to a cluster."""
    return await stat(host, f"cluster.{cluster}.upstream_cx_total")


async def stat(host: Host, name: str) -> int:
    connector = aiohttp.UnixConnector(str(host.admin))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://envoy/stats") as answer:
        lines = dict(line.rsplit(": ", 1) for line in (await answer.text()).splitlines() if ": " in line)
    return int(lines.get(name, 0))


async def greeted(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            return await reader.readline()
    finally:
        writer.close()


def test_the_callee_sees_the_callers_own_identity(mesh: Mesh, through: str):
    answer = asyncio.run(
        get("127.0.0.1", mesh.web["api.shop.east"], "/hello", x_forwarded_client_cert="URI=spiffe://evil")
    )
    assert (answer.status, answer.body) == (200, E1.encode())
    assert f"URI={WEB}" in answer.headers["x-seen"].replace("uri=", "URI=")
    assert "evil" not in answer.headers["x-seen"]
    assert asyncio.run(who(mesh.web["rpc.shop.east"])) == E1
    assert asyncio.run(greeted(mesh.web["db.shop.east"])) == E1.encode() + b"\n"
    assert asyncio.run(passed(mesh.two.hosts["ge1"], "gateway|80|api.shop")) > 0
    assert (asyncio.run(passed(mesh.two.hosts["gw1"], "gateway|80|api.shop.east")) > 0) == (through == "Gateway")


def test_routes_lead_to_a_peer(mesh: Mesh, through: str):
    """Services of west that have no instance: all goes to those of east."""
    del through
    answer = asyncio.run(get("127.0.0.1", mesh.web["api"], "/routed"))
    assert (answer.status, answer.body) == (200, E1.encode())
    assert asyncio.run(greeted(mesh.web["db"])) == E1.encode() + b"\n"


def test_a_refusal_names_its_rule(mesh: Mesh, through: str):
    answer = asyncio.run(get("127.0.0.1", mesh.other["api.shop.east"], f"/refused/{through}"))
    assert answer.status == 403
    assert answer.headers["x-holdfast-denied-by"] == "default-deny"
    line = mesh.two.hosts["e1"].logged(lambda x: x.get("path") == f"/refused/{through}")
    assert (line["denied_by"], line["source"]) == ("default-deny", "spiffe://west.test/ns/shop/sa/other")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        asyncio.run(who(mesh.other["rpc.shop.east"]))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with contextlib.suppress(OSError):
        assert asyncio.run(greeted(mesh.other["db.shop.east"])) == b""
    line = mesh.two.hosts["e1"].logged(lambda x: x.get("denied_by") == "default-deny" and x.get("sni"))
    assert line["source"] == "spiffe://west.test/ns/shop/sa/other"


@pytest.mark.parametrize("sni", ["80.kept.shop.east.mesh", "80.api.shop.west.mesh", "81.api.shop.east.mesh", "x", ""])
def test_a_gateway_closes_what_it_has_no_chain_for(mesh: Mesh, sni: str):
    two = mesh.two
    address, port = two.places["ge1"]
    tls = context(two.folder, two.ca[WEST].workload("shop/web"), two.ca[EAST].root)
    with pytest.raises((OSError, ssl.SSLError)):
        asyncio.run(get(address, port, tls=tls, sni=sni))
    if sni:
        line = two.hosts["ge1"].logged(lambda x: x.get("sni") == sni)
        assert line["flags"] == "NR"


def test_a_gateway_takes_no_plaintext(mesh: Mesh):
    address, port = mesh.two.places["ge1"]
    with pytest.raises(OSError):
        asyncio.run(get(address, port))


def test_what_is_exported_besides_cuts_no_connection(mesh: Mesh):
    """Nor does what is exported no more, but its own: the listener stays, and chains of it come and go."""

    async def run() -> None:
        host, kept = mesh.two.hosts["ge1"], "listener_manager.listener_in_place_updated"
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.web["db.shop.east"])
        try:
            async with asyncio.timeout(20):
                assert await reader.readline() == E1.encode() + b"\n"
                for labels in ({"shown": "yes"}, {}):
                    before, drained = (
                        await stat(host, kept),
                        await stat(host, "listener_manager.total_listeners_draining"),
                    )
                    meta = Metadata(name="extra", namespace="shop", labels=labels)
                    extra = msgspec.structs.replace(service("extra", port=81, protocol="tcp"), metadata=meta)
                    more = export("extra", selector={"shown": "yes"})
                    more = msgspec.structs.replace(more, metadata=Metadata(name="more", namespace="shop"))
                    await asyncio.to_thread(mesh.two.set, EAST, export(*PORTS), more, extra)
                    assert await stat(host, kept) == before + 1
                    assert await stat(host, "listener_manager.total_listeners_draining") == drained
                    writer.write(b"still here\n")
                    assert await reader.readline() == b"still here\n"
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(run())
