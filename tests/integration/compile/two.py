"""Two clusters, west and east, of real Envoys: callers in west, instances in both, gateways between them.

Each host is fed what is compiled for it from its own cluster's world; what one cluster knows of the other is written
here as its control plane would write it.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

import grpc
import grpc.aio
from aiohttp import web

from controlplane.demo.process import free_port
from mesh.model import (
    GatewaySpec,
    LocalPort,
    Metadata,
    Object,
    Service,
    ServiceDefinition,
    Upstream,
    World,
    gateway_instance,
)
from mesh.model.instance import Endpoint, EndpointSpec
from tests.integration.compile.hosts import Background, Host
from tests.support.meshes import (
    TestCa,
    bundle,
    config,
    definition,
    endpoint,
    export,
    imported,
    local,
    peering,
    policy,
    rule,
    service,
    world,
)

WEB = "spiffe://west.test/ns/shop/sa/web"
PORTS = {"api": 80, "db": 5432, "rpc": 9000}
WEST, EAST = "west", "east"


def services(**spec: object) -> list[Service]:
    return [
        service("api", target="http", **spec),
        service("db", port=PORTS["db"], protocol="tcp", target="tcp", **spec),
        service("rpc", port=PORTS["rpc"], protocol="grpc", target="grpc", **spec),
    ]


class App:
    """HTTP, gRPC and TCP at one address. Says who it is, and whom its proxy says that it was called by.

    At /lie it says what a proxy says that reached nobody, or nobody who answers.
    """

    def __init__(self, place: str, background: Background) -> None:
        self.place, self._background = place, background
        self.http, self.tcp, self.rpc = (free_port(place) for _ in range(3))
        self.running = False
        self.seen = 0
        """HTTP requests."""
        self.dying = False
        """Connections end with an HTTP request in hand."""

    def start(self) -> None:
        self._background.call(self._start())
        self.running = True

    def stop(self) -> None:
        if self.running:
            self._background.call(self._stop())
        self.running = False

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.place, self.http).start()
        self._server = await asyncio.start_server(self._greet, self.place, self.tcp)
        self._rpc = grpc.aio.server()
        methods = {"Who": grpc.unary_unary_rpc_method_handler(self._who)}
        self._rpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.App", methods),))
        self._rpc.add_insecure_port(f"{self.place}:{self.rpc}")
        await self._rpc.start()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        self._server.close()
        await self._rpc.stop(None)

    async def _answer(self, request: web.Request) -> web.Response:
        self.seen += 1
        await request.read()
        if self.dying and request.transport:
            request.transport.abort()
        if request.path == "/lie":
            lies = dict.fromkeys(("x-holdfast-unreached", "x-holdfast-broken", "x-holdfast-denied-by"), "true")
            return web.Response(status=503, headers=lies)
        seen = request.headers.get("x-forwarded-client-cert", "nobody")
        return web.Response(text=self.place, headers={"x-seen": seen})

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.place.encode() + b"\n")
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def _who(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        del request, context
        return self.place.encode()

    def definitions(self) -> list[ServiceDefinition]:
        return [
            definition("api", LocalPort(port=self.http, name="http", protocol="http", address=self.place)),
            definition("db", LocalPort(port=self.tcp, name="tcp", address=self.place)),
            definition("rpc", LocalPort(port=self.rpc, name="grpc", protocol="grpc", address=self.place)),
        ]


class Two:
    """Names begin with the first letter of their cluster: `w1`, `e1`; gateways with `g`: `gw1`, `ge1`."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.background = Background()
        stack.callback(self.background.close)
        self.ca = {name: TestCa(f"{name}.test") for name in (WEST, EAST)}
        self.worlds: dict[str, World] = {}
        for name, other in ((WEST, EAST), (EAST, WEST)):
            bundles = [bundle(ca.root, domain=ca.domain) for ca in self.ca.values()]
            self.worlds[name] = world(config(cluster=name), peering(other), *bundles)
        self.hosts: dict[str, Host] = {}
        self.apps: dict[str, App] = {}
        self.places: dict[str, tuple[str, int]] = {}
        """Of instances and gateways: what is dialled."""
        self._published: dict[str, tuple[str, tuple[ServiceDefinition, ...], dict[str, object]]] = {}

    def set(self, cluster: str, *objects: Object, tell: bool = True) -> None:
        """Another world, for all hosts of a cluster that live."""
        before = self.worlds[cluster]
        self.worlds[cluster] = world(*objects, base=before, revision=before.revision + 1)
        for name in self._published if tell else ():
            if self._published[name][0] == cluster:
                self._publish(name)

    def instances(self, cluster: str, *named: tuple[str, str]) -> None:
        """Names and addresses. Each is behind all three Services."""
        for name, address in named:
            self.apps[name] = App(address, self.background)
            self.apps[name].start()
            self._stack.callback(self.apps[name].stop)
            self._start(cluster, name, address, *self.apps[name].definitions())
        self.set(cluster, *(self.endpoint(which, name) for name, _ in named for which in PORTS))

    def gateways(self, cluster: str, *named: tuple[str, str]) -> None:
        for name, address in named:
            port = free_port(address)
            self._start(cluster, name, address, gateway=GatewaySpec(port=port))
            self.places[name] = (address, port)
        self.set(cluster, *(self.gateway_endpoint(name) for name, _ in named))

    def caller(self, name: str, address: str, called: Iterable[str], cluster: str = WEST) -> dict[str, int]:
        """Service as its upstreams name it -> its loopback port."""
        found = {what: free_port("127.0.0.1") for what in called}
        upstreams = [
            Upstream(service=what, port=PORTS[what.partition(".")[0]], listen=f"127.0.0.1:{port}")
            for what, port in found.items()
        ]
        self._start(cluster, name, address, definition(name, upstreams=upstreams))
        self._publish(name)
        return found

    def endpoint(self, which: str, name: str, health: str = "healthy") -> Endpoint:
        address, port = self.places[name]
        return endpoint(which, name, address, mtls_port=port, ports=(PORTS[which],), health=health)

    def gateway_endpoint(self, name: str, health: str = "healthy") -> Endpoint:
        """As a control plane writes it from what the host registers."""
        address, port = self.places[name]
        made = gateway_instance(name, address, GatewaySpec(port=port), health)
        spec = EndpointSpec(
            service="gateway", node=name, address=address, port=port, service_account="gateway", ports=(15444,),
            health=health,
        )  # fmt: skip
        return Endpoint(metadata=made.metadata, spec=spec)

    def far(self, which: str, gateway: str, weight: int = 1, health: str = "healthy", cluster: str = EAST) -> Endpoint:
        """What a neighbour knows of a Service: where to dial it, and how many are behind."""
        address, port = self.places[gateway]
        spec = EndpointSpec(
            service=f"{which}.{cluster}", node=gateway, address=address, port=port, service_account="gateway",
            ports=(PORTS[which],), health=health, weight=weight,
        )  # fmt: skip
        return Endpoint(metadata=Metadata(name=gateway, namespace="shop"), spec=spec)

    def _start(self, cluster: str, name: str, address: str, *here: ServiceDefinition, **more: object) -> None:
        host = self.hosts[name] = Host(name, self.folder, self.background)
        self._stack.callback(host.close)
        port = free_port(address)
        self.places.setdefault(name, (address, port))
        held = {d.identity: self.ca[cluster].workload(d.identity) for d in here}
        values = {
            "node": name, "address": address, "mtls_port": port, "access_log": str(host.log), "identities": held,
            "trust_domain": f"{cluster}.test", "cluster": cluster, **more,
        }  # fmt: skip
        self._published[name] = (cluster, here, values)

    def _publish(self, name: str) -> None:
        cluster, here, values = self._published[name]
        host = self.hosts[name]
        if host.envoy.running:
            host.publish(self.worlds[cluster], local(*here, **values))


EXPORTED = (*services(), export("*"), policy("callers", "", rule(WEB, "shop/web", name="web")))
"""What east has: three Services, told to its neighbours, for web of either cluster."""

IMPORTED = tuple(imported(found, EAST) for found in services())
"""What west knows of them."""
