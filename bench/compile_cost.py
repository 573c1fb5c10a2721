"""One endpoint change through an agent's pure path: decode, World, project, compile, check, xDS stream, encode.

The client of the stream subscribes to what an Envoy would and acknowledges everything. Every change flips the health of
one endpoint, so every change must reach the wire.
"""

import time
from collections.abc import Iterable

from agent.gather import Gathered
from agent.pipeline import Pipeline
from agent.xds import wire
from agent.xds.stream import TYPES, Stream
from agent.xds.wire import Request, Send
from bench.progress import Say
from bench.stats import Figure, quantile, spread
from mesh import codec, keys, pb
from mesh.model import (
    Endpoint,
    EndpointSpec,
    Identity,
    LocalPort,
    MeshConfig,
    MeshConfigSpec,
    Metadata,
    NodeLocal,
    Object,
    Revision,
    Service,
    ServiceDefinition,
    ServicePort,
    ServiceRef,
    ServiceSpec,
    Upstream,
)
from mesh.store.protocol import Event

PER_SERVICE = 10
CHANGES = 300
REPEATS = 5
WARM_UP = 20
ROOT = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
"""Nobody parses it here; Envoy would."""


def endpoint(service: str, number: int, *, healthy: bool) -> tuple[str, Endpoint]:
    name = f"{service}-{number}"
    made = Endpoint(
        metadata=Metadata(name=name, namespace="shop", labels={"app": service}),
        spec=EndpointSpec(
            service=service,
            node=f"node-{number}",
            address=f"10.1.{number // 250}.{number % 250 + 1}",
            service_account=service,
            ports=(80,),
            health="healthy" if healthy else "unhealthy",
        ),
    )
    return keys.key_for(made.ref, service=service), made


def event(key: str, obj: Object, revision: int) -> Event:
    return Event(key, codec.encode(obj), Revision(revision), Revision(revision))


def range_of(service: str) -> str:
    return keys.endpoints_of(ServiceRef("shop", service))


class Host:
    """One agent's pure path, with a client that acknowledges."""

    def __init__(self, services: int, per_service: int, more: Iterable[Object] = ()) -> None:
        names = [f"svc-{n}" for n in range(services)]
        upstreams = tuple(Upstream(service=s, port=80, listen=f"127.0.0.1:{10000 + n}") for n, s in enumerate(names))
        web = ServiceDefinition(name="web", namespace="shop", ports=(LocalPort(port=8080),), upstreams=upstreams)
        held = Identity(
            spiffe_id="spiffe://bench/ns/shop/sa/web", chain_pem="-", key_pem="-", not_before=0, not_after=9e9
        )
        local = NodeLocal(
            node="bench",
            address="127.0.0.1",
            trust_domain="bench",
            cluster="bench",
            definitions=(web,),
            identities={web.identity: held},
            bundle_roots=(ROOT,),
        )
        self.gathered, self.pipeline, self.stream, self.revision = Gathered(), Pipeline(local), Stream("b"), 0
        objects: list[Object] = [
            MeshConfig(metadata=Metadata(name="default"), spec=MeshConfigSpec(trust_domain="bench", cluster="bench"))
        ]
        for name in names:
            spec = ServiceSpec(ports=(ServicePort(port=80, protocol="http"),), service_accounts=(name,))
            objects.append(Service(metadata=Metadata(name=name, namespace="shop"), spec=spec))
        objects.extend(more)
        self.resources_sent = self.bytes_sent = 0
        self.gathered.take(keys.OBJECTS, Revision(1), [event(keys.key_for(o.ref), o, 1) for o in objects])
        for name in names:
            known = [event(*endpoint(name, n, healthy=True), 1) for n in range(per_service)]
            self.gathered.take(range_of(name), Revision(1), known)
        self.compile()
        for url in TYPES:
            wanted = (
                tuple(self.pipeline_snapshot.resources.get(url, {})) if url not in {pb.CLUSTER, pb.LISTENER} else ()
            )
            self._answer(self.stream.on_request(Request(url, subscribe=wanted)))

    def change(self, service: str, changed: Event) -> None:
        """Everything that an agent computes for one change of an endpoint."""
        self.revision = changed.revision
        self.gathered.take(range_of(service), changed.revision, (changed,))
        self.compile()

    def put(self, obj: Object) -> None:
        """The same for a change of an object."""
        self.revision += 1
        changed = event(keys.key_for(obj.ref), obj, self.revision)
        self.gathered.take(keys.OBJECTS, Revision(self.revision), (changed,))
        self.compile()

    def compile(self) -> None:
        pipeline = self.pipeline
        pipeline.world, pipeline.newest = self.gathered.world, self.gathered.newest
        offer = pipeline.compile(pipeline.inputs())
        pipeline.remember(offer)
        self.pipeline_snapshot = offer.snapshot
        self._answer(self.stream.on_snapshot(offer.snapshot))

    def _answer(self, outputs: tuple[object, ...]) -> None:
        pending = list(outputs)
        while pending:
            output = pending.pop(0)
            if isinstance(output, Send):
                wire.encode(output)
                self.resources_sent += len(output.resources)
                self.bytes_sent += sum(len(resource.body) for resource in output.resources)
                pending += self.stream.on_request(Request(output.type_url, nonce=output.nonce))


def one(services: int, per_service: int, changes: int) -> tuple[float, float]:
    """Median seconds of one change, and resources sent a change."""
    host, taken = Host(services, per_service), []
    known = services * per_service
    for number in range(changes + WARM_UP):
        # Endpoints in turn over all services; each turns to what it was not the last time that it came up.
        service, index = number % services, number // services % per_service
        key, made = endpoint(f"svc-{service}", index, healthy=number // known % 2 == 1)
        changed = event(key, made, host.revision + 1)
        if number == WARM_UP:
            host.resources_sent = 0
        started = time.perf_counter()
        host.change(f"svc-{service}", changed)
        if number >= WARM_UP:
            taken.append(time.perf_counter() - started)
    return quantile(taken, 0.5), host.resources_sent / changes


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    changes, count = (100, 2) if quick else (CHANGES, REPEATS)
    figures, medians = [], {}
    for services in (1, 100, 1000):
        say(f"compile: one endpoint change among {services * PER_SERVICE:,}")
        repeats = [one(services, PER_SERVICE, changes) for _ in range(count)]
        known = services * PER_SERVICE
        medians[known] = quantile([seconds for seconds, _ in repeats], 0.5)
        figures.append(
            spread(
                f"compile: one endpoint change, {known:,} endpoints known ({services} services)",
                "µs",
                [seconds * 1e6 for seconds, _ in repeats],
                notes=f"median of {changes} changes a repeat; {repeats[0][1]:.2f} resources sent a change",
            )
        )
    ratio = medians[10_000] / medians[10]
    figures.append(Figure("compile: cost with 10,000 known / with 10", "ratio", count, {"ratio": ratio}, goal="≤ 1.5"))
    say("compile: one endpoint change in a large service")
    single = [one(1, 1000, changes)[0] * 1e6 for _ in range(count)]
    figures.append(spread("compile: one endpoint change in a service of 1,000 endpoints", "µs", single))
    return figures
