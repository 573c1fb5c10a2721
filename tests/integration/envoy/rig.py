"""A real Envoy under its launcher, an XdsServer in this process, hand-made resources, and applications to reach."""

import asyncio
import hashlib
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent.envoy.bootstrap import XDS_CLUSTER, BootstrapSettings
from agent.envoy.process import Envoy, EnvoySettings
from agent.xds.server import Answered, Event, XdsServer
from agent.xds.stream import Acked, Nacked
from controlplane.demo.binaries import find_envoy
from mesh import pb
from mesh.compile.types import Resource, Snapshot
from mesh.model import Ref, Revision
from tests.support.waiting import aeventually

CDS, EDS, LDS, RDS, SDS = pb.CLUSTER, pb.ENDPOINT, pb.LISTENER, pb.ROUTE, pb.SECRET


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- resources -------------------------------------------------------------------------------------------------------


def resource(name, message, *sources: Ref) -> Resource:
    body = pb.encode(message)
    return Resource(name, hashlib.sha256(body).hexdigest()[:16], body, frozenset(sources))


def ads() -> pb.ConfigSource:
    return pb.ConfigSource(ads=pb.AggregatedConfigSource(), resource_api_version=pb.ApiVersion.V3)


def cluster(name, *, endpoints="", timeout=1.0, tls: str = "") -> Resource:
    message = pb.Cluster(name=name, type=pb.Cluster.EDS, connect_timeout=pb.duration(timeout))
    message.eds_cluster_config.eds_config.CopyFrom(ads())
    message.eds_cluster_config.service_name = endpoints or name
    if tls:
        context = pb.UpstreamTlsContext(sni="x", common_tls_context=tls_context(tls, ads()))
        message.transport_socket.CopyFrom(pb.TransportSocket(name="tls", typed_config=pb.any_of(context)))
    return resource(name, message)


def endpoints(name, *ports) -> Resource:
    message = pb.ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add()
    for port in ports:
        address = pb.Address(socket_address=pb.SocketAddress(address="127.0.0.1", port_value=port))
        locality.lb_endpoints.add().endpoint.address.CopyFrom(address)
    return resource(name, message)


def route(name, to, *, prefix="/", regex="") -> Resource:
    message = pb.RouteConfiguration(name=name)
    host = message.virtual_hosts.add(name="all", domains=["*"])
    entry = host.routes.add(route=pb.RouteAction(cluster=to))
    if regex:
        entry.match.safe_regex.regex = regex
    else:
        entry.match.prefix = prefix
    return resource(name, message)


def tls_context(secret: str, source: pb.ConfigSource) -> pb.CommonTlsContext:
    context = pb.CommonTlsContext()
    context.tls_certificate_sds_secret_configs.append(pb.SdsSecretConfig(name=secret, sds_config=source))
    return context


def silent() -> pb.ConfigSource:
    """A source that never answers: our server does not speak this protocol."""
    source = pb.ConfigSource(resource_api_version=pb.ApiVersion.V3)
    source.api_config_source.api_type = 2  # GRPC
    source.api_config_source.transport_api_version = pb.ApiVersion.V3
    source.api_config_source.grpc_services.add().envoy_grpc.cluster_name = XDS_CLUSTER
    return source


def listener(
    name, port, *, routes="", tls="", regex="", mark="in", source: Ref | None = None, answered=True
) -> Resource:
    """HTTP by a route configuration, by TLS with a secret if asked so; a bad regex is what Envoy refuses."""
    manager = pb.HttpConnectionManager(stat_prefix=mark)
    manager.http_filters.add(name="router").typed_config.CopyFrom(pb.any_of(pb.Router()))
    if regex:
        host = manager.route_config.virtual_hosts.add(name="all", domains=["*"])
        entry = host.routes.add(direct_response=pb.DirectResponseAction(status=200))
        entry.match.safe_regex.regex = regex
    else:
        manager.rds.route_config_name = routes
        manager.rds.config_source.CopyFrom(ads())
    message = pb.Listener(name=name)
    message.address.socket_address.CopyFrom(pb.SocketAddress(address="127.0.0.1", port_value=port))
    chain = message.filter_chains.add(name="all")
    chain.filters.add(name="http").typed_config.CopyFrom(pb.any_of(manager))
    if tls:
        context = pb.DownstreamTlsContext(common_tls_context=tls_context(tls, ads() if answered else silent()))
        chain.transport_socket.CopyFrom(pb.TransportSocket(name="tls", typed_config=pb.any_of(context)))
    return resource(name, message, *([source] if source else []))


def secret(name, certificate_pem: bytes, key_pem: bytes) -> Resource:
    message = pb.Secret(name=name)
    message.tls_certificate.certificate_chain.inline_bytes = certificate_pem
    message.tls_certificate.private_key.inline_bytes = key_pem
    return resource(name, message)


def snapshot(revision: int, before: Snapshot | None = None, **types: tuple[Resource, ...]) -> Snapshot:
    """cds=, eds=, lds=, rds=, sds=; what is not named is as before."""
    urls = {short: url for url, short in pb.SHORT.items()}
    resources: dict[str, Mapping[str, Resource]] = dict(before.resources) if before else {u: {} for u in urls.values()}
    resources.update({urls[short]: {r.name: r for r in listed} for short, listed in types.items()})
    versions = [(url, sorted((n, r.version) for n, r in resources[url].items())) for url in sorted(resources)]
    return Snapshot(Revision(revision), hashlib.sha256(repr(versions).encode()).digest(), resources)


def one_service(port: int, *targets: int) -> Snapshot:
    """What is asked at this port, these answer."""
    return snapshot(
        1,
        cds=(cluster("api"),),
        eds=(endpoints("api", *targets),),
        lds=(listener("in", port, routes="r"),),
        rds=(route("r", "api"),),
    )


# --- applications and load -------------------------------------------------------------------------------------------


@asynccontextmanager
async def application(name: str) -> AsyncIterator[int]:
    """An HTTP/1.1 server that answers its name to everything; yields its port."""
    answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode()
    writers: set[asyncio.StreamWriter] = set()

    async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
                await writer.drain()
        writers.discard(writer)
        writer.close()

    server = await asyncio.start_server(on_connect, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in tuple(writers):
            writer.close()


async def get(port: int, path: str = "/") -> str:
    """`<status> <body>` of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await _exchange(reader, writer, path, "connection: close\r\n")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def tls_get(port: int, path: str = "/") -> str:
    """The same over TLS, whatever the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return await _exchange(reader, writer, path, "connection: close\r\n")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _exchange(reader, writer, path="/", more="") -> str:
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n".encode())
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0]) if "content-length" in head else 0
        body = (await reader.readexactly(length)).decode()
    return f"{head.split(' ')[1]} {body}"


@dataclass
class Load:
    """Requests one after another, on new connections and on kept ones, until it is told to stop."""

    port: int
    done: int = 0
    failures: list[str] = field(default_factory=list)
    stopping: bool = False

    async def fresh(self) -> None:
        while not self.stopping:
            await self._count(get(self.port))

    async def kept(self) -> None:
        """As a client does it: a connection that the server said it would close is not used again."""
        while not self.stopping:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            closing = False
            while not self.stopping and not closing:
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                try:
                    async with asyncio.timeout(10):
                        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                        await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
                except (OSError, EOFError, TimeoutError) as exc:
                    self.failures.append(repr(exc))
                    break
                self.done += 1
                if " 200 " not in head.split("\r\n")[0] + " ":
                    self.failures.append(head[:40])
                closing = "connection: close" in head
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Under way before, during and after what is done meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(self.fresh())
                tasks.create_task(self.kept())
            await aeventually(lambda: self.done > 100)
            yield
            seen = self.done
            await aeventually(lambda: self.done > seen + 100)
            self.stopping = True

    async def _count(self, request) -> None:
        try:
            answer = await request
            if not answer.startswith("200"):
                self.failures.append(answer)
        except (OSError, EOFError, TimeoutError) as exc:
            self.failures.append(repr(exc))
        self.done += 1


# --- the rig ---------------------------------------------------------------------------------------------------------


class Rig:
    def __init__(self, directory: Path, envoy: Envoy) -> None:
        self.directory, self.envoy = directory, envoy
        self.events: list[Event] = []
        self._stop = asyncio.Event()
        self._answered = asyncio.Event()

    async def serve(self) -> None:
        """Run servers one after another; `restart_server` ends the current one."""
        while True:
            self.server = XdsServer(self.directory / "xds" / "s.sock", on_event=self._on_event)
            self._stop.clear()
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(self.server.run())
                await self._stop.wait()
                running.cancel()

    async def restart_server(self) -> None:
        old = self.server
        self._stop.set()
        await aeventually(lambda: self.server is not old)
        await self.server.listening.wait()

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self._answered.set()

    async def outcome(self, snapshot: Snapshot, *, within: float = 10.0) -> Acked | Nacked:
        """Publish it and wait for Envoy's word on it."""
        seen = len(self.events)
        self.server.publish(snapshot)
        async with asyncio.timeout(within):
            while True:
                for event in self.events[seen:]:
                    if isinstance(event, Answered) and event.outcome.digest == snapshot.digest:
                        return event.outcome
                self._answered.clear()
                await self._answered.wait()

    async def acked(self, snapshot: Snapshot, *, within: float = 10.0) -> Acked:
        outcome = await self.outcome(snapshot, within=within)
        assert isinstance(outcome, Acked), outcome
        return outcome

    async def ready(self) -> None:
        await aeventually(self.envoy.ready, timeout=20, what="Envoy is live")

    def refusals(self) -> list[str]:
        return [e.outcome.error for e in self.events if isinstance(e, Answered) and isinstance(e.outcome, Nacked)]


@asynccontextmanager
async def rig(**settings) -> AsyncIterator[Rig]:
    """Everything it starts is stopped. The directory has a short name: a unix socket's path has 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(prefix="hf-"))
    bootstrap = BootstrapSettings(
        node="vm1",
        cluster="test",
        xds_socket=str(directory / "xds" / "s.sock"),
        admin_socket=str(directory / "run" / "admin.sock"),
    )
    defaults = {"concurrency": 1, "drain_seconds": 2, "parent_shutdown_seconds": 3, "command": str(find_envoy())}
    envoy = Envoy(EnvoySettings(run_dir=directory / "run", bootstrap=bootstrap, **{**defaults, **settings}))
    made = Rig(directory, envoy)
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(made.serve())
            try:
                await aeventually(lambda: hasattr(made, "server") and made.server.listening.is_set())
                yield made
            finally:
                await envoy.stop(drain=False)
                serving.cancel()
    finally:
        shutil.rmtree(directory)


@asynccontextmanager
async def serving(**settings) -> AsyncIterator[tuple[Rig, int, Snapshot]]:
    """A rig with one service in force; yields it, its port and its snapshot."""
    port = free_port()
    async with rig(**settings) as r, application("one") as one:
        await r.envoy.ensure()
        first = one_service(port, one)
        await r.acked(first)
        await r.ready()
        await aeventually(lambda: r.envoy.state().phase == "live")
        yield r, port, first
