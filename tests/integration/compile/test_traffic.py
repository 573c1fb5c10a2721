"""Two hosts with real Envoys, fed what is compiled: who gets through, who is refused, and what each is told."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
import pytest

from controlplane.demo.process import free_port
from mesh.model import LocalPort, Upstream, World
from tests.integration.compile.hosts import (
    Background,
    Host,
    context,
    get,
    greeting_app,
    http_app,
    server_context,
)
from tests.support.meshes import TestCa, bundle, config, definition, endpoint, local, policy, rule, service, world
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

CALLER, CALLEE = "127.0.0.61", "127.0.0.62"
API, DB = "80.api.shop.east.mesh", "5432.db.shop.east.mesh"


class Mesh(NamedTuple):
    ca: TestCa
    caller: Host
    callee: Host
    background: Background
    folder: Path
    mtls: int
    http: int
    tcp: int
    grpc: int
    posed: int
    world: World


async def _grpc_app(host: str, port: int) -> grpc.aio.Server:
    async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return request

    async def stream(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield request

    server = grpc.aio.server()
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server


async def _impostor(host: str, port: int, tls: object) -> asyncio.Server:
    """A workload of the mesh that answers in another's place."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    return await asyncio.start_server(serve, host, port, ssl=tls)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder, ca, background = tmp_path_factory.mktemp("mesh"), TestCa(), Background()
    app, db, rpc, bad, mtls, mtls_caller = (free_port(CALLEE) for _ in range(6))
    http, tcp, grpc_port, posed = (free_port("127.0.0.1") for _ in range(4))
    apps = [
        background.call(http_app(CALLEE, app)),
        background.call(greeting_app(CALLEE, db)),
        background.call(_grpc_app(CALLEE, rpc)),
        background.call(_impostor(CALLEE, bad, server_context(folder, ca.workload("shop/web")))),
    ]
    calls = [
        Upstream(service="api", port=80, listen=f"127.0.0.1:{http}"),
        Upstream(service="db", port=5432, listen=f"127.0.0.1:{tcp}"),
        Upstream(service="rpc", port=9000, listen=f"127.0.0.1:{grpc_port}"),
        Upstream(service="posed", port=80, listen=f"127.0.0.1:{posed}"),
    ]
    here = [
        definition("api", LocalPort(port=app, name="http", protocol="http", address=CALLEE)),
        definition("db", LocalPort(port=db, name="tcp", address=CALLEE)),
        definition("rpc", LocalPort(port=rpc, name="grpc", protocol="grpc", address=CALLEE)),
    ]
    state = world(
        config(),
        bundle(ca.root),
        service("web"),
        service("api", target="http"),
        service("db", port=5432, protocol="tcp", target="tcp"),
        service("rpc", port=9000, protocol="grpc", target="grpc"),
        service("posed"),
        policy("callers", "", rule("shop/web", name="web")),
        policy("never", "", rule("shop/bad"), action="Deny"),
        endpoint("api", "callee", CALLEE, mtls_port=mtls),
        endpoint("db", "callee", CALLEE, mtls_port=mtls, ports=(5432,)),
        endpoint("rpc", "callee", CALLEE, mtls_port=mtls, ports=(9000,)),
        endpoint("posed", "callee", CALLEE, mtls_port=bad),
    )
    hosts: list[Host] = []
    try:
        for name, address, port, definitions in (
            ("caller", CALLER, mtls_caller, [definition("web", upstreams=calls)]),
            ("callee", CALLEE, mtls, here),
        ):
            host = Host(name, folder, background)
            hosts.append(host)
            held = {d.identity: ca.workload(d.identity) for d in definitions}
            more = {"address": address, "mtls_port": port, "access_log": str(host.log)}
            host.publish(state, local(*definitions, identities=held, **more))
        yield Mesh(ca, hosts[0], hosts[1], background, folder, mtls, http, tcp, grpc_port, posed, state)
    finally:
        for host in hosts:
            host.close()
        background.call(apps[0].cleanup())
        background.call(_close(apps[1], apps[2], apps[3]))
        background.close()


async def _close(tcp: asyncio.Server, rpc: grpc.aio.Server, bad: asyncio.Server) -> None:
    tcp.close()
    bad.close()
    await rpc.stop(None)


def as_caller(mesh: Mesh, who: str, path: str = "/", sni: str = API, **headers: str):
    return asyncio.run(
        get(CALLEE, mesh.mtls, path, tls=context(mesh.folder, mesh.ca.workload(who), mesh.ca.root), sni=sni, **headers)
    )


def test_an_application_calls_and_is_known(mesh: Mesh):
    answer = asyncio.run(
        get("127.0.0.1", mesh.http, "/x?token=1", x_forwarded_client_cert="URI=spiffe://evil", x_id="7")
    )
    assert answer.status == 200
    seen = json.loads(answer.body)
    assert seen["path"] == "/x?token=1"
    xfcc = seen["headers"]["x-forwarded-client-cert"]
    assert xfcc.startswith("By=spiffe://east.test/ns/shop/sa/api;Hash=")
    assert xfcc.endswith(";URI=spiffe://east.test/ns/shop/sa/web")
    request = seen["headers"]["x-request-id"]
    for host, direction in ((mesh.caller, "outbound"), (mesh.callee, "inbound")):
        line = host.logged(lambda x, r=request: x.get("request_id") == r)
        assert line["direction"] == direction
        assert line["source"] == "spiffe://east.test/ns/shop/sa/web"
        assert line["destination"] == "spiffe://east.test/ns/shop/sa/api"
        assert (line["service"], line["path"], line["status"]) == ("api.shop:80", "/x", 200)


@pytest.mark.parametrize(("who", "rule_name"), [("shop/stranger", "default-deny"), ("shop/bad", "shop/never/0")])
def test_a_refusal_names_its_rule(mesh: Mesh, who: str, rule_name: str):
    answer = as_caller(mesh, who, f"/{who}")
    assert answer.status == 403
    assert answer.headers["x-holdfast-denied-by"] == rule_name
    assert rule_name in answer.body.decode()
    line = mesh.callee.logged(lambda x: x.get("path") == f"/{who}")
    assert (line["denied_by"], line["rule"]) == (rule_name, rule_name)


@pytest.mark.parametrize("case", ["plaintext", "no certificate", "foreign ca", "expired", "other domain", "wrong sni"])
def test_refused_beside_a_valid_call(mesh: Mesh, case: str):
    west = TestCa("west.test")
    mine = {
        "foreign ca": TestCa().workload("shop/web"),
        "expired": mesh.ca.workload("shop/web", hours=-1),
        "other domain": west.workload("shop/web"),
        "wrong sni": mesh.ca.workload("shop/web"),
    }.get(case)
    tls = None if case == "plaintext" else context(mesh.folder, mine, mesh.ca.root)
    sni = {"plaintext": "", "wrong sni": "81.api.shop.east.mesh"}.get(case, API)
    with pytest.raises(OSError):  # ssl.SSLError is one
        asyncio.run(get(CALLEE, mesh.mtls, "/", tls=tls, sni=sni))
    assert as_caller(mesh, "shop/web").status == 200


def test_an_own_domain_signed_name_of_another_domain_is_refused(mesh: Mesh):
    """Our CA's signature does not validate names of another domain."""
    forged = mesh.ca.identity("", uri="spiffe://west.test/ns/shop/sa/web")
    with pytest.raises(OSError):
        asyncio.run(get(CALLEE, mesh.mtls, "/", tls=context(mesh.folder, forged, mesh.ca.root), sni=API))


def test_an_impostor_is_refused_by_its_caller(mesh: Mesh):
    """A good certificate of the mesh, but not of a service account behind that name."""
    answer = asyncio.run(get("127.0.0.1", mesh.posed, "/posed"))
    assert answer.status == 503
    line = mesh.caller.logged(lambda x: x.get("path") == "/posed")
    assert "SAN" in str(line["upstream_failure"])


def test_paths_have_one_reading(mesh: Mesh):
    assert as_caller(mesh, "shop/web", "/a%2fb").status == 400
    assert json.loads(as_caller(mesh, "shop/web", "//a//b/../c").body)["path"] == "/a/c"


async def _talk(port: int, words: bytes, wanted: int, host: str = "127.0.0.1", **tls: object) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, **tls)
    try:
        async with asyncio.timeout(10):
            writer.write(words)
            return await reader.readexactly(wanted)
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    except (ssl.SSLError, ConnectionError):  # refused after the handshake, as TLS 1.3's clients see it
        return b""
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)  # it closes its socket in the loop's next round


def test_tcp_passes_or_is_closed_by_name(mesh: Mesh):
    assert asyncio.run(_talk(mesh.tcp, b"ping", 10)) == b"hello ping"
    tls = context(mesh.folder, mesh.ca.workload("shop/stranger"), mesh.ca.root)
    refused = asyncio.run(_talk(mesh.mtls, b"ping", 10, CALLEE, ssl=tls, server_hostname=DB))
    assert refused == b""
    allowed = mesh.callee.logged(lambda x: x["service"] == "db.shop:5432" and x.get("bytes_sent") == 10)
    assert allowed["rule"] == "shop/callers/web"
    denied = mesh.callee.logged(lambda x: x["service"] == "db.shop:5432" and "stranger" in str(x["source"]))
    assert denied["denied_by"] == "shop/never/0 or default-deny"


def test_grpc_passes(mesh: Mesh):
    async def talk() -> tuple[bytes, list[bytes]]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.grpc}") as channel:
            one = await channel.unary_unary("/test.Echo/Echo")(b"ping", timeout=10, metadata=(("user_id", "7"),))
            return one, [part async for part in channel.unary_stream("/test.Echo/Stream")(b"x", timeout=10)]

    assert asyncio.run(talk()) == (b"ping", [b"x", b"x", b"x"])


def test_a_policy_takes_effect_on_an_open_connection(mesh: Mesh):
    """And comes back: the same connection, three answers."""

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(b"GET /open HTTP/1.1\r\nHost: app\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        return int(head.split()[1])

    async def talk() -> list[int]:
        tls = context(mesh.folder, mesh.ca.workload("shop/web"), mesh.ca.root)
        reader, writer = await asyncio.open_connection(CALLEE, mesh.mtls, ssl=tls, server_hostname=API)
        answers = [await ask(reader, writer)]
        for state in (closed, mesh.world):
            await asyncio.to_thread(mesh.callee.republish, state)
            answers.append(await ask(reader, writer))
        writer.transport.abort()
        await asyncio.sleep(0)
        return answers

    closed = world(policy("never", "", rule("shop/web"), action="Deny"), base=mesh.world, revision=9)
    try:
        assert asyncio.run(talk()) == [200, 403, 200]
    finally:
        mesh.callee.republish(mesh.world)


def test_a_removed_endpoint_is_503_and_a_new_one_is_found(mesh: Mesh):
    gone = world(endpoint("api", "callee", CALLEE, health="unhealthy"), base=mesh.world, revision=10)
    mesh.caller.republish(gone)
    try:
        assert asyncio.run(get("127.0.0.1", mesh.http)).status == 503
    finally:
        mesh.caller.republish(mesh.world)
    eventually(lambda: asyncio.run(get("127.0.0.1", mesh.http)).status == 200)
