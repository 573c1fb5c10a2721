"""What stands behind a call: of a target, the endpoints that may take it, in one cluster or in several."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from mesh.compile import names
from mesh.compile.attach import Attached, Policy
from mesh.compile.connections import connections, spread
from mesh.compile.rules import Fault, Target, TcpSplit
from mesh.compile.view import Assignment, Backend, Connections, Outbound, Part
from mesh.model import (
    GATEWAY,
    Identity,
    ImportedService,
    NodeLocal,
    Protocol,
    Ref,
    Service,
    ServicePort,
    ServiceRef,
    TrafficPolicy,
    World,
)
from mesh.model.checks import label_fault
from mesh.model.peering import ANY
from mesh.model.policyfit import aimed_at, unfit
from mesh.model.reach import Reach, canonical

Note = Callable[[Ref | None, str, str], None]
"""Takes a problem: object, path, reason."""


def peers_of(attached: Attached, service: Service) -> tuple[str, ...]:
    """Clusters whose Service of the same name stands behind this one, too: those that there are Peerings with."""
    wanted, known = service.spec.clusters, attached.peers()
    return known if ANY in wanted else tuple(peer for peer in known if peer in wanted) if wanted else ()


def through_gateway(attached: Attached, peer: str) -> bool:
    """Do callers here dial gateways of this cluster?"""
    peering = attached.peering(peer)
    return peering is not None and peering.spec.through == "Gateway"


def reach_of(attached: Attached, local: NodeLocal, peer: str) -> Reach | None:
    """What a peer's endpoints may name to this host; None: it is no peer's."""
    peering = attached.peering(peer) if peer else None
    return Reach(frozenset(map(canonical, (local.address, local.bind))), peering.spec.networks) if peering else None


def reach(attached: Attached, ref: ServiceRef) -> Iterator[ServiceRef]:
    """All whose endpoints matter to calls of a Service."""
    yield ref
    service = None if ref.peer else attached.service(ref)
    far = [ServiceRef(ref.namespace, f"{ref.name}.{peer}") for peer in peers_of(attached, service)] if service else []
    yield from far
    if any(through_gateway(attached, one.peer) for one in (ref, *far) if one.peer):
        yield GATEWAY


def port_of(service: Service | ImportedService | None, number: int) -> ServicePort | None:
    return next((p for p in service.spec.ports if p.port == number), None) if service else None


def accounts_of(service: Service | ImportedService) -> tuple[str, ...]:
    return tuple(sorted({a for a in service.spec.service_accounts if not label_fault(a)}))


class Backends:
    """One run. Problems are told on the way."""

    def __init__(self, world: World, local: NodeLocal, attached: Attached, note: Note) -> None:
        self._world, self._local, self._attached, self._note = world, local, attached, note

    def spans(self, targets: Iterable[Target]) -> bool:
        """Is one of these in several clusters?"""
        services = [self._attached.service(t.service) for t in targets if not (t.external or t.service.peer)]
        return any(service is not None and service.spec.clusters for service in services)

    def backend(self, upstream: Outbound, target: Target) -> Backend:
        divided = upstream.split
        protocol = self._protocol(target)
        policy = self._attached.policy(target.service, target.port)
        said = connections(policy, protocol)
        assignment = self._plain(target) if divided is None else self._divided(upstream, divided)
        sources = set(policy.sources) if policy and said != Connections() else set()
        for part in assignment.parts:
            if (part.labels or part.spread) and (about := self._attached.policy(*part.target[:2])):
                sources |= about.sources
        if policy:
            self.note_unfit(policy)
        return Backend(
            identity=upstream.identity,
            target=target,
            protocol=protocol,
            accounts=self._accounts(target),
            assignment=assignment,
            route=divided.source if divided else None,
            age=_connection_age(self._local.identities.get(upstream.identity)),
            connections=said,
            policies=frozenset(sources),
        )

    def note_unfit(self, policy: Policy) -> None:
        for ref in sorted(policy.sources):
            found = self._world.objects.get(ref)
            if not isinstance(found, TrafficPolicy):
                continue
            _, ports = aimed_at(found.spec.target, ref.namespace, self._world.objects)
            self.note_all(Fault(ref, fault.path, fault.reason) for fault in unfit(found.spec, ports) if fault.all)

    def note_all(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._note(fault.source, fault.path, fault.reason)

    def _plain(self, target: Target) -> Assignment:
        return Assignment(names.load_assignment(*target[:3]), (self._part(target),))

    def _divided(self, upstream: Outbound, divided: TcpSplit) -> Assignment:
        """Endpoints of all shares in one assignment: weights change without touching a connection."""
        return Assignment(
            names.divided(upstream.identity, upstream.service, upstream.port),
            tuple(
                replace(self._part(share.target), weight=share.weight, accounts=self._accounts(share.target))
                for share in divided.shares
            ),
        )

    def _part(self, target: Target) -> Part:
        subset = self._attached.subset(*target[:3]) if target.subset else None
        policy = self._attached.policy(target.service, target.port)
        return Part(
            target,
            labels=tuple(sorted(subset.labels.items())) if subset else (),
            spread=spread(policy, self._local.locality),
            via=self._via(target.service),
            reach=reach_of(self._attached, self._local, target.service.peer),
            # Labels of instances are not told to other clusters, so a subset is of this one.
            beyond=() if subset else tuple(self._beyond(target)),
        )

    def _via(self, service: ServiceRef) -> ServiceRef | None:
        return GATEWAY if service.peer and through_gateway(self._attached, service.peer) else None

    def _beyond(self, target: Target) -> Iterator[Part]:
        """The parts of a Service that are in other clusters."""
        service = None if target.service.peer else self._attached.service(target.service)
        for peer in peers_of(self._attached, service) if service else ():
            ref = ServiceRef(target.service.namespace, f"{target.service.name}.{peer}")
            found, fault = self._attached.reachable(ref)
            port, own = port_of(found, target.port), port_of(service, target.port)
            if found is not None and (port is None or own is None or not _alike(own, port)):
                fault = f"Service {ref} has no port {target.port} of the same protocol"
            if fault:
                self._note(service.ref if service else None, "spec.clusters", fault)
                continue
            there = Target(ref, target.port)
            may = reach_of(self._attached, self._local, peer)
            yield Part(there, accounts=self._accounts(there), far=True, via=self._via(ref), reach=may)
        for peer in service.spec.clusters if service else ():
            if peer != ANY and peer not in self._attached.peers():
                self._note(service.ref if service else None, "spec.clusters", f"there is no Peering {peer}")

    def _protocol(self, target: Target) -> Protocol:
        port = port_of(self._attached.callable(target.service), target.port)
        assert port is not None, "only what was found is a target"
        return port.protocol

    def _accounts(self, target: Target) -> tuple[str, ...]:
        service = self._attached.callable(target.service)
        domain = service.spec.trust_domain if isinstance(service, ImportedService) else self._local.trust_domain
        base = f"spiffe://{domain}/ns/{target.service.namespace}/sa/"
        return tuple(base + account for account in (accounts_of(service) if service else ()))


def _alike(own: ServicePort, far: ServicePort) -> bool:
    """Both have requests, or both have none."""
    return (own.protocol == "tcp") == (far.protocol == "tcp")


_AGES = ((86400.0, 3600), (3600.0, 300), (0.0, 10))
"""Life of a certificate, in seconds, from which on a connection that shows it may live so long.

Coarse, so that a renewal changes nothing; and a sixth of the life at most, since two thirds of it may be over at the
handshake when the CA is away. A certificate is looked at in the handshake only: no connection may outlive it for long.
"""


def _connection_age(identity: Identity | None) -> int:
    life = identity.not_after - identity.not_before if identity else _AGES[0][0]
    return next((age for least, age in _AGES if life >= least), _AGES[-1][1])
