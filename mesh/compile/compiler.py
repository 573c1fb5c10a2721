"""compile: from a NodeView to a Snapshot, at the cost of what changed.

The Compiler remembers its last view and what it made of it. Nothing it remembers changes an outcome: a fresh Compiler
gives the same bytes, versions and digest for the same view.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from mesh import pb
from mesh.compile import capture, clusters, eastwest, endpoints, external, gate, inbound, names, outbound, tls
from mesh.compile.layered import Layered, over
from mesh.compile.project import project
from mesh.compile.rules import Target
from mesh.compile.types import Problem, Resource, Resources, Snapshot
from mesh.compile.view import Assignment, Frame, Gateway, Inbound, NodeView, Outbound
from mesh.model import CLUSTER_SINGLETON, NodeLocal, Ref, ServiceRef, World

_MODULUS = 1 << 256

Assignments = Mapping[str, Assignment]
"""By name."""

_NO_ENDPOINTS: Mapping[str, Any] = MappingProxyType({})
_CONFIG = Ref("MeshConfig", "", CLUSTER_SINGLETON)


def compile(view: NodeView) -> Snapshot:  # noqa: A001 - the word of the architecture
    """Compile from nothing."""
    return Compiler().compile(view)


class Compiler:
    def __init__(self) -> None:
        self._view: NodeView | None = None
        self._snapshot: Snapshot | None = None
        self._memo: dict[tuple[str, str], tuple[object, Resource]] = {}
        self._fragments: dict[ServiceRef, endpoints.Fragments] = {}
        self._wanted: Mapping[ServiceRef, Assignments] = {}
        """Of every Service that is called, the load assignments that its endpoints are in."""
        self._total = 0
        """Sum of the hashes of all resources: adding and taking away costs what changed."""

    def project(self, world: World, local: NodeLocal) -> NodeView:
        """The view, taking over what the last one has."""
        return project(world, local, self._view)

    def compile(self, view: NodeView) -> Snapshot:
        """The snapshot of this view."""
        before, known = self._view, self._snapshot
        if before is None or known is None or (before.frame is not view.frame and before.frame != view.frame):
            snapshot = self._whole(view)
        else:
            snapshot = self._endpoints_only(view, before, known)
        self._view, self._snapshot = view, snapshot
        return snapshot

    # --- the frame has changed ---

    def _whole(self, view: NodeView) -> Snapshot:
        run = _Run(view.frame, self._memo)
        made = run.resources()
        before = self._snapshot
        # What is remembered changes only once all is made: an error leaves the last good state whole.
        fragments = {service: self._fragments.get(service) or endpoints.Fragments() for service in run.wanted}
        known = before.resources[pb.ENDPOINT] if before else {}
        stale = [service for service in run.wanted if not self._as_before(view, service, run.wanted[service])]
        assigned = {name: known[name] for those in run.wanted.values() for name in those if name in known}
        assigned.update((r.name, r) for r in _assigned(view, stale, run.wanted, fragments, known))
        made[pb.ENDPOINT] = dict(sorted(assigned.items()))
        resources, changed = _keep_unchanged(before, made)
        total = self._total
        for url, those in changed.items():
            total += _difference(url, those, before.resources[url] if before else {}, resources[url])
        self._memo, self._wanted, self._fragments, self._total = run.memo, run.wanted, fragments, total % _MODULUS
        return self._finish(view, resources, changed, (*view.frame.problems, *run.problems))

    def _as_before(self, view: NodeView, service: ServiceRef, wanted: Assignments) -> bool:
        """Are the endpoints of a Service, and what they are in, what they were at the last compile?"""
        before = self._view
        if before is None or self._wanted.get(service) != wanted:
            return False
        return view.endpoints.get(service) is before.endpoints.get(service)

    def _finish(
        self,
        view: NodeView,
        resources: Mapping[str, Resources],
        changed: Mapping[str, frozenset[str]],
        problems: tuple[Problem, ...],
    ) -> Snapshot:
        before = self._snapshot
        return Snapshot(
            revision=view.revision,
            digest=self._total.to_bytes(32),
            resources=resources,
            problems=problems,
            base=before.digest if before else b"",
            changed=changed if before else {},
        )

    # --- only endpoints may have changed ---

    def _endpoints_only(self, view: NodeView, before: NodeView, known: Snapshot) -> Snapshot:
        old = known.resources[pb.ENDPOINT]
        found = {
            resource.name: resource
            for resource in _assigned(view, _touched(before, view, self._wanted), self._wanted, self._fragments, old)
            if old.get(resource.name) is not resource
        }
        if not found:
            return self._finish(view, known.resources, {}, known.problems)
        self._total = (self._total + _difference(pb.ENDPOINT, found, old, found)) % _MODULUS
        resources = MappingProxyType({**known.resources, pb.ENDPOINT: over(old, found)})
        return self._finish(view, resources, {pb.ENDPOINT: frozenset(found)}, known.problems)


def _assigned(
    view: NodeView,
    touched: Iterable[ServiceRef],
    wanted: Mapping[ServiceRef, Assignments],
    fragments: Mapping[ServiceRef, endpoints.Fragments],
    known: Resources,
) -> Iterator[Resource]:
    """Load assignments with endpoints of the Services that were touched."""
    names_of: dict[str, Assignment] = {}
    for service in touched:
        fragments[service].update(view.endpoints.get(service, _NO_ENDPOINTS))
        names_of.update(wanted[service])
    for name in sorted(names_of):
        yield _resource(name, endpoints.encoded(names_of[name], fragments), frozenset(), known.get(name))


def _difference(url: str, changed: Iterable[str], old: Resources, new: Resources) -> int:
    """What a change adds to the sum of all hashes."""
    total = 0
    for name in changed:
        if gone := old.get(name):
            total -= _hash(url, gone)
        if come := new.get(name):
            total += _hash(url, come)
    return total


def _touched(before: NodeView, view: NodeView, wanted: Mapping[ServiceRef, object]) -> Iterable[ServiceRef]:
    """Services whose endpoints may have changed; by comparison only if the view does not say."""
    if view.endpoints is before.endpoints:
        return ()
    if view.before is before.endpoints:
        return [service for service in view.touched if service in wanted]
    old, new = before.endpoints, view.endpoints
    return [service for service in wanted if old.get(service) is not new.get(service)]


def _hash(url: str, resource: Resource) -> int:
    return int.from_bytes(hashlib.sha256(f"{url}\0{resource.name}\0{resource.version}".encode()).digest())


def _resource(name: str, body: bytes, sources: frozenset[Ref], known: Resource | None) -> Resource:
    """With its content hash; the known one itself, if it is the same."""
    version = hashlib.blake2b(body, digest_size=16).hexdigest()
    if known is not None and known.version == version and known.sources == sources:
        return known
    return Resource(name=name, version=version, body=body, sources=sources)


def _keep_unchanged(
    before: Snapshot | None, made: Mapping[str, dict[str, Resource]]
) -> tuple[Mapping[str, Resources], dict[str, frozenset[str]]]:
    """A type in which nothing changed keeps its mapping; of the others, the names that changed."""
    resources: dict[str, Resources] = {}
    changed: dict[str, frozenset[str]] = {}
    for url, new in made.items():
        old: Resources = before.resources[url] if before else {}
        names_changed = {name for name, resource in new.items() if old.get(name) is not resource}
        names_changed.update(name for name in old if name not in new)
        if before is not None and not names_changed:
            resources[url] = old
        else:
            resources[url] = Layered(new)
            changed[url] = frozenset(names_changed)
    return MappingProxyType(resources), changed


class _Run:
    """One compilation of a frame. What has the same inputs as last time is taken from the last run."""

    def __init__(self, frame: Frame, memo: Mapping[tuple[str, str], tuple[object, Resource]]) -> None:
        self._frame, self._old = frame, memo
        self.memo: dict[tuple[str, str], tuple[object, Resource]] = {}
        self.problems: list[Problem] = []
        self._held = {name for name, _ in frame.identities}
        self._callable: set[tuple[str, Target]] = set()
        """Identities and what they can call: its cluster is there."""
        self.wanted: dict[ServiceRef, dict[str, Assignment]] = {}
        """Services of which clusters take endpoints, and the load assignments that these are in."""
        self._made: dict[str, dict[str, Resource]] = {url: {} for url in pb.SHORT}
        self._chains: dict[str, list[capture.Chain]] = {}
        """Of identities that call by name."""

    def resources(self) -> dict[str, dict[str, Resource]]:
        self._secrets()
        self._inbound()
        self._backends()
        self._externals()
        for upstream in self._frame.outbound:
            self._upstream(upstream)
        self._captures()
        self._gate()
        self._gateway()
        return {url: dict(sorted(made.items())) for url, made in self._made.items()}

    def _add(
        self,
        url: str,
        name: str,
        inputs: object,
        make: Callable[[], pb.Message],
        sources: Iterable[Ref] = (),
    ) -> bool:
        """One resource. What cannot be built is left out with a Problem, and its neighbours go on."""
        known = self._old.get((url, name))
        whole = (inputs, self._where(), blame := frozenset(sources))
        if known is not None and known[0] == whole:
            made = known[1]
        else:
            try:
                body = pb.encode(make())
            except (ValueError, TypeError, ArithmeticError, pb.EncodeError) as exc:
                self.problems.append(Problem(min(blame, default=None), name, f"cannot be expressed: {exc}"[:300]))
                return False
            made = _resource(name, body, blame, known[1] if known else None)
        self.memo[url, name] = (whole, made)
        self._made[url][name] = made
        return True

    def _where(self) -> tuple[object, ...]:
        """What of the host itself any resource may depend on."""
        frame = self._frame
        return (frame.address, frame.mtls_port, frame.trust_domain, frame.cluster, frame.access_log)

    def _secrets(self) -> None:
        frame = self._frame
        for name, held in frame.identities:
            self._certificate(name, held.chain_pem, held.key_pem)
        if not frame.roots:
            self.problems.append(Problem(None, "bundle", "no roots are known: nobody can be verified"))
            return
        roots = {frame.trust_domain: frame.roots, **{other.name: other.roots for other in frame.others}}
        self._bundle(names.BUNDLE, roots, roots)
        for domains in inbound.bundles(frame):
            self._bundle(names.bundle(domains), domains, roots)

    def _bundle(self, name: str, domains: Iterable[str], roots: Mapping[str, tuple[str, ...]]) -> None:
        """Roots of each domain stand for names of that domain, and for no others."""
        frame = self._frame
        chosen = tuple((domain, roots[domain]) for domain in domains if domain in roots)
        sources = {ref for other in frame.others if other.name in dict(chosen) for ref in other.sources}
        if frame.roots_source and frame.trust_domain in dict(chosen):
            sources.add(frame.roots_source)
        self._add(pb.SECRET, name, chosen, lambda: tls.bundle(chosen, name), sources)

    def _certificate(self, identity: str, chain: str, key: str) -> None:
        name = names.secret(identity)
        self._add(pb.SECRET, name, (chain, key), lambda: tls.certificate(identity, chain, key))

    def _ready(self, identity: str) -> bool:
        return identity in self._held and bool(self._frame.roots)

    def _inbound(self) -> None:
        frame = self._frame
        ports = tuple(port for port in frame.inbound if self._ready(port.identity) and self._behind(port))
        if not ports:
            return
        inputs = tuple((_chain_inputs(port), inbound.verifying(frame, port)) for port in ports)
        sources = {Ref("Service", p.service.namespace, p.service.name) for p in ports}
        sources.update(*(p.access.sources | {_CONFIG} for p in ports if p.protocol == "tcp"))
        self._add(pb.LISTENER, names.INBOUND_LISTENER, inputs, lambda: inbound.listener(frame, ports), sources)

    def _behind(self, port: Inbound) -> bool:
        """What a filter chain leads to: the application, and for HTTP the route to it."""
        service = Ref("Service", port.service.namespace, port.service.name)
        name = names.local_cluster(port.service, port.port)
        if not self._add(pb.CLUSTER, name, port, lambda: inbound.cluster(port), {service}):
            return False
        if port.protocol == "tcp":
            return True
        blame = {service, *port.access.sources, *port.limit_sources, _CONFIG}
        return self._add(
            pb.ROUTE, names.inbound_route(port.service, port.port), port, lambda: inbound.route(port), blame
        )

    def _backends(self) -> None:
        """A cluster for whatever can be called."""
        frame = self._frame
        for backend in frame.backends:
            name = clusters.name(backend.identity, backend.target)
            if not self._ready(backend.identity):
                continue
            make = partial(clusters.cluster, frame, backend)
            if self._add(pb.CLUSTER, name, backend, make, backend.sources):
                self._callable.add((backend.identity, backend.target))
                self._want(backend.assignment)

    def _want(self, assignment: Assignment) -> None:
        for service in assignment.services:
            self.wanted.setdefault(service, {})[assignment.name] = assignment

    def _externals(self) -> None:
        for found in self._frame.externals:
            name = clusters.name(found.identity, found.target)
            if self._add(pb.CLUSTER, name, found, partial(external.cluster, found), found.sources):
                self._callable.add((found.identity, found.target))

    def _upstream(self, upstream: Outbound) -> None:
        frame, name, blame = self._frame, outbound.name(upstream), upstream.sources
        fault = upstream.fault or ("" if self._ready(upstream.identity) else outbound.NO_CERTIFICATE)
        if not fault and any((upstream.identity, target) not in self._callable for target in upstream.targets):
            fault = "this host cannot make sense of the Service"
        tcp = outbound.is_tcp(upstream)
        if not tcp:
            made = self._add(pb.ROUTE, name, (upstream, fault), lambda: outbound.route(upstream, fault), blame)
            if not made:
                # The listener refers to it: without it Envoy would answer 404, and nobody would know why.
                fault = "this host cannot make sense of the routes"
                self._add(pb.ROUTE, name, (upstream, fault), lambda: outbound.route(upstream, fault), blame)
        elif names.UNAVAILABLE in dict(outbound.tcp_shares(upstream, fault)):
            self._add(pb.CLUSTER, names.UNAVAILABLE, (), outbound.unavailable_cluster)
        if upstream.virtual:
            self._chains.setdefault(upstream.identity, []).append(capture.Chain(upstream, fault))
            return
        self._add(
            pb.LISTENER,
            names.outbound_listener(upstream.identity, upstream.listen),
            (
                (upstream.identity, upstream.listen, upstream.mode, upstream.service, upstream.port),
                (outbound.tcp_shares(upstream, fault), upstream.idle),
            ),
            lambda: outbound.listener(frame, upstream, fault),
            (upstream.source, *(upstream.policies if upstream.idle else ())),
        )

    def _captures(self) -> None:
        frame, egress = self._frame, self._frame.egress
        if egress is not None and frame.captures:
            self._add(pb.CLUSTER, names.UNAVAILABLE, (), outbound.unavailable_cluster)
            if egress.allow or egress.registered:
                self._add(pb.CLUSTER, names.PASSTHROUGH, (), capture.passthrough)
        for identity, port in frame.captures:
            chains = self._chains.get(identity, [])
            if not chains and egress is None:
                continue
            blame = {ref for chain in chains for ref in capture.sources(chain)}
            if egress is not None:
                blame |= {ref for _, _, ref in egress.registered} | ({egress.source} if egress.source else set())
            self._add(
                pb.LISTENER,
                names.capture_listener(identity),
                (port, tuple(map(capture.inputs, chains)), egress),
                partial(capture.listener, frame, identity, port, chains),
                blame,
            )

    def _gate(self) -> None:
        frame, spec = self._frame, self._frame.gate
        if spec is None or not self._ready(names.GATE):
            return
        self._add(pb.CLUSTER, names.GATE_CLUSTER, spec, lambda: gate.cluster(spec))
        self._add(pb.ROUTE, names.GATE, (), gate.route)
        self._add(pb.LISTENER, names.GATE, spec, lambda: gate.listener(frame, spec))

    def _gateway(self) -> None:
        frame, gateway = self._frame, self._frame.gateway
        if gateway is None:
            return
        passed = []
        for passage in gateway.passages:
            make = partial(eastwest.cluster, passage)
            if self._add(pb.CLUSTER, passage.assignment.name, passage.assignment, make, passage.sources):
                self._want(passage.assignment)
                passed.append(passage)
        if passed:
            made = Gateway(gateway.spec, tuple(passed))
            sources = frozenset[Ref]().union(*(passage.sources for passage in passed))
            self._add(pb.LISTENER, names.GATEWAY, made, lambda: eastwest.listener(frame, made), sources)


def _chain_inputs(port: Inbound) -> tuple[object, ...]:
    """What a filter chain depends on: for HTTP, not on who may call."""
    tcp = port.protocol == "tcp"
    return (port.service, port.port, port.protocol, port.identity, port.access if tcp else None)
