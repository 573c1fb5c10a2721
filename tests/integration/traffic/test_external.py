"""ExternalService through a real Envoy: servers outside of the mesh, with certificates of their own."""

import asyncio
import itertools
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest
import yaml
from aiohttp import web

from controlplane.demo.process import free_port
from mesh.model import Identity, Upstream
from tests.integration.compile.hosts import Host, server_context
from tests.integration.traffic.rig import Reply, Rig
from tests.support.meshes import TestCa, definition, local
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

PLACE = "127.0.0.81"
NAME = "api.outside.test"
URI = "spiffe://outside.test/api"
PORTS = {"tls": 443, "plain": 80, "rpc": 7443, "raw": 5433, "old": 8443}
"""What a server is -> the port under which callers know it."""
_calls = itertools.count()
PROTOCOLS = {"tls": "http", "plain": "http", "rpc": "grpc", "raw": "tcp", "old": "http"}


@dataclass
class Outside:
    """Servers, and what they saw."""

    ca: TestCa
    ports: dict[str, int]
    seen: list[web.Request] = field(default_factory=list)
    snis: list[str] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        self.seen.append(request)
        return web.json_response({"by": "outside", "host": request.host}, status=self.status, headers=self.headers)

    def context(self, folder: Path, identity: Identity, *alpn: str) -> ssl.SSLContext:
        found = server_context(folder, identity)
        found.set_alpn_protocols(list(alpn))
        found.sni_callback = lambda _socket, name, _context: self.snis.append(name or "")
        return found


async def http(outside: Outside, port: int, tls: ssl.SSLContext | None) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", outside.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, PLACE, port, ssl_context=tls).start()
    # Where a name of this machine leads.
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    return runner


async def rpc(port: int, identity: Identity) -> grpc.aio.Server:
    async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return b"outside " + request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
    keys = ((identity.key_pem.encode(), identity.chain_pem.encode()),)
    server.add_secure_port(f"{PLACE}:{port}", grpc.ssl_server_credentials(keys))
    await server.start()
    return server


async def raw(port: int, tls: ssl.SSLContext) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"outside\n")
        await writer.drain()
        await reader.read()
        writer.close()

    return await asyncio.start_server(serve, PLACE, port, ssl=tls)


@pytest.fixture(scope="module")
def outside(mesh: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    folder, run = tmp_path_factory.mktemp("outside"), mesh.background.call
    ca = TestCa("outside.test")
    found = Outside(ca, {name: free_port(PLACE) for name in PORTS})
    good = ca.identity("", uri=URI, dns=NAME)
    local_name = ca.identity("", uri=URI, dns="localhost")
    runners = [
        run(http(found, found.ports["tls"], found.context(folder, local_name, "http/1.1"))),
        run(http(found, found.ports["plain"], None)),
        run(http(found, found.ports["old"], found.context(folder, ca.identity("", uri=URI, dns=NAME, hours=-1)))),
    ]
    calls, talk = run(rpc(found.ports["rpc"], good)), run(raw(found.ports["raw"], found.context(folder, good)))
    yield found
    for runner in runners:
        run(runner.cleanup())
    run(calls.stop(None))
    talk.close()


@dataclass
class Caller:
    """A host that calls `ext.shop` on all its ports, and another one by name."""

    mesh: Rig
    host: Host
    outside: Outside
    listen: dict[str, int]

    def get(self, name: str = "tls", method: str = "GET", body: bytes = b"") -> Reply:
        return self.mesh.get(method=method, body=body, port=self.listen[name])

    def declare(self, more: str = "", *, hosts: tuple[str, ...] = (), **tls: object) -> None:
        """The ExternalService, with these words for TLS, and other objects besides."""
        said = {"mode": "Originate", "caCertificates": self.outside.ca.root, **tls}
        if not hosts and "subjectAltNames" not in tls:
            said["subjectAltNames"] = [URI]
        ports = [
            {"port": PORTS[name], "protocol": protocol, "targetPort": self.outside.ports[name]}
            | ({} if name == "plain" else {"tls": {k: v for k, v in said.items() if v}})
            for name, protocol in PROTOCOLS.items()
        ]
        where = {"hosts": list(hosts)} if hosts else {"addresses": [PLACE]}
        document = {
            "apiVersion": "holdfast.dev/v1",
            "kind": "ExternalService",
            "metadata": {"name": "ext", "namespace": "shop"},
            "spec": {**where, "ports": ports},
        }
        self.mesh.objects(f"{yaml.safe_dump(document)}\n---\n{more}")

    def say(self) -> str:
        """A gRPC call: the answer, or the status."""

        async def ask() -> str:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.listen['rpc']}") as channel:
                try:
                    return (await channel.unary_unary("/test.Echo/Say")(b"x", timeout=10)).decode()
                except grpc.aio.AioRpcError as exc:
                    return exc.code().name

        return self.mesh.background.call(ask())

    def greeting(self) -> bytes:
        """What a TCP server says first."""

        async def ask() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.listen["raw"])
            try:
                async with asyncio.timeout(10):
                    return await reader.readline()
            finally:
                writer.close()

        return self.mesh.background.call(ask())


@pytest.fixture(scope="module")
def caller(mesh: Rig, outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    folder = tmp_path_factory.mktemp("caller")
    trust = folder / "roots.pem"
    trust.write_text(outside.ca.root)
    host = Host("out", folder, mesh.background)
    mesh.more.append(host)
    listen = {name: free_port("127.0.0.1") for name in PORTS}
    calls = [Upstream(service="ext", port=PORTS[name], listen=f"127.0.0.1:{port}") for name, port in listen.items()]
    found = Caller(mesh, host, outside, listen)
    host.publish(
        mesh.world,
        local(definition("web", upstreams=calls), identities={"shop/web": mesh.ca.workload("shop/web")}, node="out",
              address="127.0.0.76", mtls_port=free_port("127.0.0.76"), access_log=str(host.log), trust_file=str(trust)),
    )  # fmt: skip
    return found


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    outside.seen.clear()
    outside.snis.clear()
    outside.status, outside.headers = 200, {}


def refused(caller: Caller, name: str = "tls") -> str:
    """Why the proxy would not speak with the server, by its log."""
    # Its line is written with some delay, as were those of earlier calls.
    path = f"/refused-{next(_calls)}"
    reply = caller.mesh.get(path, port=caller.listen[name])
    assert (reply.status, caller.outside.seen) == (503, [])
    return str(caller.host.logged(lambda line: line.get("path") == path)["upstream_failure"])


def test_nothing_can_be_called_that_nobody_registered(caller: Caller):
    caller.mesh.objects("")
    reply = caller.get()
    assert (reply.status, b"there is no Service ext.shop" in reply.body) == (503, True)


def test_plaintext_and_tls_of_every_protocol(caller: Caller):
    caller.declare()
    assert caller.get("plain").seen["by"] == "outside"
    assert caller.get("tls").seen["by"] == "outside"
    assert caller.say() == "outside x"
    assert eventually(caller.greeting, what="TCP is let in") == b"outside\n"
    # With addresses alone it has no name: the application's own stays.
    assert caller.get("tls").seen["host"] == "app"


def test_a_name_is_resolved_said_in_tls_and_in_requests(caller: Caller):
    caller.declare(hosts=("localhost",))
    reply = eventually(lambda: found if (found := caller.get()).status == 200 else None, what="the name is resolved")
    assert reply.seen["host"] == f"localhost:{caller.outside.ports['tls']}"
    assert set(caller.outside.snis) == {"localhost"}
    assert caller.get("plain").seen["host"] == f"localhost:{caller.outside.ports['plain']}"


def test_a_certificate_of_another_ca_is_refused(caller: Caller):
    caller.declare(caCertificates=TestCa("other.test").root)
    assert "CERTIFICATE_VERIFY_FAILED" in refused(caller)
    assert caller.say() == "UNAVAILABLE"
    assert eventually(lambda: caller.greeting() == b"", what="TCP is closed")


@pytest.mark.parametrize("name", ["other.test", "spiffe://outside.test/other", "127.0.0.81"])
def test_a_certificate_of_another_name_is_refused(caller: Caller, name: str):
    caller.declare(subjectAltNames=[name])
    assert "CERTIFICATE_VERIFY_FAILED" in refused(caller)
    assert caller.say() == "UNAVAILABLE"


def test_where_no_names_are_given_the_certificate_must_have_that_of_the_sni(caller: Caller):
    caller.declare(sni="other.outside.test", subjectAltNames=[])
    assert "CERTIFICATE_VERIFY_FAILED" in refused(caller)
    caller.declare(sni="localhost", subjectAltNames=[])
    assert caller.get().seen["by"] == "outside"
    assert caller.outside.snis[-1] == "localhost"


def test_a_certificate_that_is_over_is_refused(caller: Caller):
    caller.declare()
    assert "CERTIFICATE_VERIFY_FAILED" in refused(caller, "old")


def test_a_server_without_tls_gets_nothing_in_the_clear(caller: Caller):
    plain = caller.outside.ports["plain"]
    before = caller.outside.ports["tls"]
    caller.outside.ports["tls"] = plain
    try:
        caller.declare()
        assert refused(caller)
    finally:
        caller.outside.ports["tls"] = before


def test_the_roots_of_the_host_count_where_none_are_given(caller: Caller):
    caller.declare(caCertificates="")
    assert caller.get().seen["by"] == "outside"


def test_a_host_without_roots_calls_nobody_whom_it_cannot_verify_and_says_so(caller: Caller):
    local = caller.host.local
    assert local is not None
    caller.declare(caCertificates="")
    without = caller.host.publish(caller.mesh.world, msgspec.structs.replace(local, trust_file=""))
    try:
        # Taken by Envoy as it is: no object is refused for what is missing on the host.
        said = {(str(p.object), p.path) for p in without.problems if "no roots" in p.reason}
        ports = [index for index, name in enumerate(PROTOCOLS) if name != "plain"]
        assert said == {("ExternalService shop/ext", f"spec.ports[{n}].tls.caCertificates") for n in ports}
        reply = caller.get()
        assert (reply.status, b"no roots to verify the server by" in reply.body) == (503, True)
        assert caller.say() == "UNAVAILABLE"
        assert eventually(lambda: caller.greeting() == b"", what="TCP is closed")
        assert not caller.outside.seen
        assert caller.get("plain").seen["by"] == "outside"
        # With roots of its own it needs none of the host's.
        caller.declare()
        assert caller.get().seen["by"] == "outside"
        caller.declare(caCertificates="")
        assert caller.get().status == 503
    finally:
        caller.host.publish(caller.mesh.world, local)
    assert caller.get().seen["by"] == "outside"


def test_a_name_that_does_not_exist_holds_up_nothing(caller: Caller):
    other = """
apiVersion: holdfast.dev/v1
kind: ExternalService
metadata: {name: none, namespace: shop}
spec: {hosts: [no-such-name.invalid], ports: [{port: 80, protocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api, port: 80}]
  rules:
  - matches: [{path: {value: /none}}]
    backendRefs: [{group: holdfast.dev, kind: ExternalService, name: none, port: 80}]
  - backendRefs: [{name: v1, port: 80}]
"""
    caller.declare(other)
    assert caller.get().seen["by"] == "outside"
    assert caller.mesh.get("/none").status == 503
    assert caller.mesh.get("/").by == "v1"


ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: out, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api, port: 80}]
  rules:
  - matches: [{path: {value: /both}}]
    backendRefs:
    - {group: holdfast.dev, kind: ExternalService, name: ext, port: 443}
    - {name: v1, port: 80}
  - matches: [{path: {value: /named}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: by.route.test}}]
    backendRefs: [{group: holdfast.dev, kind: ExternalService, name: ext, port: 443}]
  - matches: [{path: {value: /port}}]
    backendRefs: [{group: holdfast.dev, kind: ExternalService, name: ext, port: 444}]
  - matches: [{path: {value: /tcp}}]
    backendRefs: [{group: holdfast.dev, kind: ExternalService, name: ext, port: 5433}]
"""


def test_routes_lead_out_of_the_mesh(caller: Caller):
    caller.declare(ROUTE, hosts=("localhost",))
    mesh = caller.mesh
    name = f"localhost:{caller.outside.ports['tls']}"
    eventually(lambda: mesh.get("/named").status == 200, what="the name is resolved")
    replies = [mesh.get("/both").seen for _ in range(30)]
    assert {(seen["by"], seen["host"]) for seen in replies} == {("outside", name), ("v1", "app")}
    assert mesh.get("/named").seen["host"] == "by.route.test"
    assert [mesh.get(path).status for path in ("/port", "/tcp")] == [500, 500]


POLICY = """
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {name: ext, namespace: shop}
spec:
  target: {service: ext}
  retries: {attempts: 2, statuses: [500]}
"""


def test_policies_are_for_it_as_for_a_service(caller: Caller):
    caller.declare(POLICY)
    caller.outside.status = 500
    assert caller.get().status == 500
    assert len(caller.outside.seen) == 3


def test_what_it_answers_is_no_word_of_a_proxy(caller: Caller):
    """A server that says that it has not seen a request, though it has, does not get it twice."""
    caller.declare()
    caller.outside.status = 503
    caller.outside.headers = dict.fromkeys(
        ("x-holdfast-unreached", "x-holdfast-broken", "x-holdfast-denied-by", "x-holdfast-fault"), "true"
    )
    reply = caller.get(method="POST", body=b"x")
    assert (reply.status, len(caller.outside.seen)) == (503, 1)
    assert not [name for name in reply.headers if name.startswith("x-holdfast")]
    assert not [name for name in caller.outside.seen[0].headers if "client-cert" in name.lower()]
