"""What a host's applications call: of its upstreams and the mesh's routes, the outbound part of a projection."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from mesh.compile.attach import Applied, Attached, Token, touched
from mesh.compile.backends import Backends, accounts_of, port_of, reach
from mesh.compile.connections import connections, hash_keys, outside_faults
from mesh.compile.names import defined
from mesh.compile.policies import handling
from mesh.compile.rules import Entry, Fault, Target, TcpSplit, entries, split
from mesh.compile.types import Problem
from mesh.compile.view import Backend, Connections, External, Outbound, verifiable
from mesh.model import (
    ExternalPort,
    ExternalService,
    GRPCRoute,
    HTTPRoute,
    NodeLocal,
    Object,
    Ref,
    ServiceDefinition,
    ServiceRef,
    Upstream,
    World,
)
from mesh.model.checks import imported_name_fault, label_fault

T = TypeVar("T")

_NO_ROOTS = "this host has no roots to verify the server by"

MAX_ROUTES = 4096
"""Of one upstream, in its proxy."""


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """What was found for one upstream or backend, and all that it depends on."""

    value: T
    asked: frozenset[Token]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Calls:
    outbound: tuple[Outbound, ...]
    backends: tuple[Backend, ...]
    externals: tuple[External, ...]
    problems: tuple[Problem, ...]
    objects: Mapping[Ref, Object] = field(repr=False)
    local: NodeLocal = field(repr=False)
    upstreams: Mapping[str, Known[Outbound]] = field(repr=False)
    """By place. With the objects they were found in, they save the next run what has not changed."""
    targets: Mapping[tuple[str, Target], Known[Backend]] = field(repr=False)
    outside: Mapping[tuple[str, Target], Known[External]] = field(repr=False)


def calls(
    world: World,
    local: NodeLocal,
    definitions: list[ServiceDefinition],
    attached: Attached,
    before: Calls | None = None,
) -> Calls:
    """Of sound definitions, in their order. `before` makes it faster, and never another."""
    return _Calls(world, local, attached, before).of(definitions)


def interest(world: World, definitions: Iterable[ServiceDefinition], attached: Attached) -> frozenset[ServiceRef]:
    """Services whose endpoints are needed: those called, also if they are not there yet, and those routes lead to."""
    found: set[ServiceRef] = set()
    for definition in definitions:
        for upstream in definition.upstreams:
            ref = upstream.called(definition.namespace)
            if not _nameable(ref):
                continue
            found.add(ref)
            service = world.service(ref)
            port = port_of(service, upstream.port)
            if service is not None and port is not None:
                applied = attached.apply(definition.namespace, ref, port)
                found.update(_led_to(attached, applied, ref))
    return frozenset(one for ref in found for one in reach(attached, ref))


def _nameable(ref: ServiceRef) -> bool:
    return not label_fault(ref.namespace) and not (imported_name_fault if ref.peer else label_fault)(ref.name)


def _led_to(attached: Attached, applied: Applied, service: ServiceRef) -> Iterator[ServiceRef]:
    """Services that routes lead to."""
    for entry in entries(attached, applied.routes, service)[0]:
        yield from (target.service for target in entry.targets if not target.external)
    if divided := split(attached, applied.routes, service)[0]:
        yield from (share.target.service for share in divided.shares)


class _Calls:
    def __init__(self, world: World, local: NodeLocal, attached: Attached, before: Calls | None) -> None:
        self._world, self._local, self._attached = world, local, attached
        self._before = before if before is not None and before.local is local else None
        self._touched = touched(before.objects, world.objects) if before is not None else frozenset()
        self._problems: list[Problem] = []
        self._upstreams: dict[str, Known[Outbound]] = {}
        self._targets: dict[tuple[str, Target], Known[Backend]] = {}
        self._externals: dict[tuple[str, Target], Known[External]] = {}
        self._backends = Backends(world, local, attached, self._note)

    def of(self, definitions: list[ServiceDefinition]) -> Calls:
        outbound = tuple(self._outbound(definitions))
        problems = [*self._problems, *(p for known in self._upstreams.values() for p in known.problems)]
        for upstream in outbound:
            for target in upstream.targets:
                if target.external:
                    self._outside_target(upstream.identity, target)
                else:
                    self._target(upstream, target)
        known = [self._targets[key] for key in sorted(self._targets)]
        outside = [self._externals[key] for key in sorted(self._externals)]
        problems += (p for one in known for p in one.problems)
        problems += (p for one in outside for p in one.problems)
        return Calls(
            outbound,
            tuple(one.value for one in known),
            tuple(one.value for one in outside),
            tuple(dict.fromkeys(problems)),
            objects=self._world.objects,
            local=self._local,
            upstreams=self._upstreams,
            targets=self._targets,
            outside=self._externals,
        )

    def _find(self, known: Known[T] | None, find: Callable[[], T]) -> Known[T]:
        """What is known already, or found now with all that it depends on."""
        if known is not None and self._touched.isdisjoint(known.asked):
            return known
        rest, self._problems = self._problems, []
        self._attached.asked.clear()
        value = find()
        found = Known(value, frozenset(self._attached.asked), tuple(self._problems))
        self._problems = rest
        return found

    def _target(self, upstream: Outbound, target: Target) -> None:
        key = (upstream.identity, target)
        if key in self._targets and upstream.split is None:
            return
        known = self._before.targets.get(key) if self._before else None
        if known is not None and known.value.route != (upstream.split.source if upstream.split else None):
            known = None
        if upstream.split is not None and known is not None and not _same_shares(known.value, upstream.split):
            known = None
        self._targets[key] = self._find(known, partial(self._backends.backend, upstream, target))

    def _outside_target(self, identity: str, target: Target) -> None:
        known = self._before.outside.get((identity, target)) if self._before else None
        self._externals[identity, target] = self._find(known, partial(self._external, identity, target))

    def _note(self, ref: Ref | None, path: str, reason: str) -> None:
        self._problems.append(Problem(ref, path, reason))

    def _outbound(self, definitions: list[ServiceDefinition]) -> Iterator[Outbound]:
        places: set[object] = set()
        shared = len({d.identity for d in definitions}) > 1
        for definition in definitions:
            for index, upstream in enumerate(definition.upstreams):
                place = f"{defined(definition)}.upstreams[{index}]"
                if not upstream.listen:
                    yield from self._by_name(definition, upstream, place, places)
                elif shared and not upstream.listen.startswith("unix:"):
                    # Whoever reaches a loopback port calls as its owner: another service of this host, too.
                    reason = "several identities run on this host: listen on a unix socket (unix:<path>) instead"
                    self._note(None, f"{place}.listen", reason)
                elif upstream.listen in places:
                    self._note(None, f"{place}.listen", "another upstream listens there")
                else:
                    places.add(upstream.listen)
                    known = self._before.upstreams.get(place) if self._before else None
                    found = self._find(known, partial(self._upstream, definition, upstream, place))
                    self._upstreams[place] = found
                    yield found.value

    def _by_name(
        self, definition: ServiceDefinition, upstream: Upstream, place: str, places: set[object]
    ) -> Iterator[Outbound]:
        """At its virtual address. Definitions of one identity may call the same: it is the same call."""
        ref = upstream.called(definition.namespace)
        address = self._local.virtual.get(f"{ref.namespace}/{ref.name}", "")
        if not address or definition.identity not in self._local.capture_ports:
            self._note(None, f"{place}.listen", "this host has no virtual address left for it: give it a socket")
        elif (definition.identity, ref, upstream.port) not in places:
            places.add((definition.identity, ref, upstream.port))
            known = self._before.upstreams.get(place) if self._before else None
            found = self._find(known, partial(self._upstream, definition, upstream, place, address))
            self._upstreams[place] = found
            yield found.value

    def _upstream(self, definition: ServiceDefinition, upstream: Upstream, place: str, address: str = "") -> Outbound:
        ref = upstream.called(definition.namespace)
        service = self._attached.callable(ref)
        port = port_of(service, upstream.port)
        applied = Applied()
        outside = self._attached.external(ref) if service is None else None
        if outside is not None:
            return self._to_outside(definition, upstream, place, address, outside)
        fault, path = self._unknown(ref), f"{place}.service"
        if not fault and port is None:
            fault, path = f"Service {ref} has no port {upstream.port}", f"{place}.port"
        elif not fault and service is not None and port is not None:
            applied = self._attached.apply(definition.namespace, ref, port)
            # With no name to compare, Envoy would take any identity of the mesh for this Service.
            nobody = not applied.routes and not accounts_of(service)
            fault = f"Service {ref} lists no service account that may stand behind it" if nobody else ""
            path = place if nobody else ""
        if fault:
            self._note(service.ref if service else None, path, fault)
        found = Outbound(
            **_place(definition, upstream, address),
            service=ref,
            port=upstream.port,
            protocol=port.protocol if port else None,
            fault=fault,
            entries=self._entries(applied, ref),
            split=self._split(applied, ref),
            handling=handling(self._attached, ref, upstream.port, definition.identity, self._local.trust_domain),
        )
        return self._as_told(self._bounded(found, applied))

    def _unknown(self, ref: ServiceRef) -> str:
        """Why there is nothing of this name to call."""
        if not ref.peer:
            return "" if self._attached.service(ref) else f"there is no Service {ref}"
        if ref.peer == self._local.cluster:
            own = f"service: {ref.short}, namespace: {ref.namespace}"
            return f"{ref.peer} is this cluster: its Services are called without its name ({own})"
        return self._attached.reachable(ref)[1]

    def _bounded(self, found: Outbound, applied: Applied) -> Outbound:
        """Each fault is a copy of each route: many of both keep a host busy for minutes, and fill its proxy."""
        faults = len(found.handling.faults)
        if found.entries is None or len(found.entries) * (faults + 1) <= MAX_ROUTES:
            return found
        fault = f"{len(found.entries)} matches of routes and {faults} faults are more than a proxy is given"
        self._note(applied.routes[0].ref, "spec.rules", f"{fault}: {MAX_ROUTES} of matches x (1 + faults)")
        return replace(found, fault=fault, entries=None)

    def _to_outside(
        self, definition: ServiceDefinition, upstream: Upstream, place: str, address: str, outside: ExternalService
    ) -> Outbound:
        ref = outside.service
        port = next((p for p in outside.spec.ports if p.port == upstream.port), None)
        fault = "" if port else f"ExternalService {ref} has no port {upstream.port}"
        if fault:
            self._note(outside.ref, f"{place}.port", fault)
        if port and not verifiable(port, self._local.trust_file):
            self._note_roots(outside, port)
            fault = _NO_ROOTS
        found = Outbound(
            **_place(definition, upstream, address),
            service=ref,
            port=upstream.port,
            protocol=port.protocol if port else None,
            fault=fault,
            external=True,
            handling=handling(self._attached, ref, upstream.port, definition.identity, self._local.trust_domain),
        )
        return self._as_told(found)

    def _note_roots(self, outside: ExternalService, port: ExternalPort) -> None:
        path = f"spec.ports[{outside.spec.ports.index(port)}].tls.caCertificates"
        self._note(outside.ref, path, f"{_NO_ROOTS}: say caCertificates, or install the system's (trustFile)")

    def _external(self, identity: str, target: Target) -> External:
        found = self._attached.external(target.service)
        assert found is not None, "only what was found is a target"
        policy = self._attached.policy(target.service, target.port)
        port = next(port for port in found.spec.ports if port.port == target.port)
        said = connections(policy, port.protocol)
        if not verifiable(port, self._local.trust_file):
            self._note_roots(found, port)
        if policy:
            self._backends.note_all(Fault(*words) for words in outside_faults(policy))
            self._backends.note_unfit(policy)
        return External(
            identity=identity,
            target=target,
            port=port,
            host=found.host,
            addresses=found.spec.addresses,
            trust_file=self._local.trust_file,
            connections=said,
            policies=policy.sources if policy and said != Connections() else frozenset(),
        )

    def _as_told(self, upstream: Outbound) -> Outbound:
        """With what policies say that routes and listeners are made from."""
        sources: set[Ref] = set()
        hashes = []
        for target in upstream.targets if upstream.protocol != "tcp" else ():
            policy = self._attached.policy(target.service, target.port)
            if policy and (keys := hash_keys(policy)):
                hashes.append((target, keys))
                sources |= policy.sources
        policy = self._attached.policy(upstream.service, upstream.port)
        idle = policy.spec.timeouts.idle if policy and upstream.protocol == "tcp" else ""
        if policy and idle:
            sources |= policy.sources
        hosts = tuple(
            (target, name) for target in upstream.targets if target.external and (name := self._called_outside(target))
        )
        return replace(
            upstream,
            hashes=tuple(hashes),
            idle=idle,
            hosts=hosts,
            policies=frozenset(sources),
            spans=self._backends.spans(upstream.targets),
        )

    def _called_outside(self, target: Target) -> str:
        found = self._attached.external(target.service)
        return next((found.authority(p) for p in found.spec.ports if p.port == target.port), "") if found else ""

    def _entries(self, applied: Applied, service: ServiceRef) -> tuple[Entry, ...] | None:
        if not any(isinstance(route, HTTPRoute | GRPCRoute) for route in applied.routes):
            return None
        found, faults = entries(self._attached, applied.routes, service)
        self._backends.note_all(faults)
        return found

    def _split(self, applied: Applied, service: ServiceRef) -> TcpSplit | None:
        found, faults = split(self._attached, applied.routes, service)
        self._backends.note_all(faults)
        return found


def _place(definition: ServiceDefinition, upstream: Upstream, address: str) -> dict[str, Any]:
    """Who calls, and where."""
    return {
        "identity": definition.identity,
        "listen": upstream.listen or f"{address}:{upstream.port}",
        "virtual": not upstream.listen,
        "mode": int(upstream.mode or "0660", 8),
    }


def _same_shares(backend: Backend, divided: TcpSplit) -> bool:
    parts = tuple((part.target, part.weight) for part in backend.assignment.parts)
    return parts == tuple((share.target, share.weight) for share in divided.shares)
