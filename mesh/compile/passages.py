"""What a gateway passes on: Services that are exported, and those of peers that callers here reach through gateways.

The part of `project` for hosts in role gateway. Nothing of one cluster is passed on to another one: what is exported is
this cluster's own, and what is imported is for callers here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from mesh.compile import names
from mesh.compile.rules import Target
from mesh.compile.view import Assignment, Gateway, Part, Passage
from mesh.model import (
    ExportPolicy,
    GatewaySpec,
    ImportedService,
    NodeLocal,
    Object,
    Peering,
    Ref,
    Service,
    ServiceRef,
)
from mesh.model.checks import imported_name_fault, label_fault, port_fault
from mesh.model.peering import ANY
from mesh.model.reach import Reach, canonical, sound

MAX_CHAINS = 10_000
"""Of one gateway: filter chains, of which a port of a Service has one, and one more for each peer that has networks."""

Networks = Mapping[str, tuple[str, ...]]
"""Peer -> where it is, as far as that is known."""

Note = Callable[[Ref | None, str, str], None]
"""Takes a problem: object, path, reason."""


def gateway(spec: GatewaySpec, local: NodeLocal, objects: Mapping[Ref, Object], note: Note) -> Gateway:
    """What a host in this role passes on."""
    own, networks = frozenset(map(canonical, (local.address, local.bind))), _networks(objects, note)
    # What is exported comes first: whatever a peer offers, and however it calls it, takes no place from that.
    found = sorted(
        passages(objects, own, networks), key=lambda passage: (passage.target.service.peer, passage.assignment.name)
    )
    chains = accumulate(1 + len(passage.peers) for passage in found)
    kept = [passage for passage, number in zip(found, chains, strict=True) if number <= MAX_CHAINS]
    if len(kept) < len(found):
        note(None, "gateway", f"{len(found)} ports of Services are to be passed on: only {len(kept)} are")
    return Gateway(spec, tuple(sorted(kept, key=lambda passage: passage.assignment.name)))


def passed_on(objects: Mapping[Ref, Object]) -> frozenset[ServiceRef]:
    """Services whose endpoints a gateway needs."""
    return frozenset(passage.target.service for passage in passages(objects, frozenset(), {}))


def _networks(objects: Mapping[Ref, Object], note: Note) -> Networks:
    """Each network is one peer's: Envoy takes no two filter chains for the same connections."""
    found: dict[str, tuple[str, ...]] = {}
    taken: dict[str, str] = {}
    for ref in sorted(ref for ref in objects if ref.kind == "Peering"):
        peering = objects[ref]
        assert isinstance(peering, Peering)
        networks = sound(peering.spec.networks)
        for network in networks:
            if taken.setdefault(network, ref.name) != ref.name:
                note(ref, "spec.networks", f"{network} is Peering {taken[network]}'s already, and counts as that one's")
        found[ref.name] = tuple(network for network in networks if taken[network] == ref.name)
    return found


def passages(objects: Mapping[Ref, Object], own: frozenset[str], networks: Networks) -> Iterator[Passage]:
    """All, in no order. `own`: addresses of this host."""
    peers = {ref.name: found for ref, found in objects.items() if isinstance(found, Peering)}
    policies = [found for found in objects.values() if isinstance(found, ExportPolicy) and _told(found, peers)]
    for ref, found in objects.items():
        if isinstance(found, Service) and not label_fault(ref.name):
            by = [policy for policy in policies if policy.covers(found)]
            if by:
                known = tuple((name, networks[name]) for name in sorted(_peers(by, peers)) if networks.get(name))
                sources = frozenset({found.ref, *(one.ref for one in by), *(peers[name].ref for name, _ in known)})
                yield from _of(found, found.service, sources, peers=known)
        elif isinstance(found, ImportedService) and not imported_name_fault(ref.name):
            peering = peers.get(found.service.peer)
            if peering is not None and peering.spec.through == "Gateway":
                sources, reach = frozenset({found.ref, peering.ref}), Reach(own, peering.spec.networks)
                yield from _of(found, found.service, sources, reach=reach)


def _told(policy: ExportPolicy, peers: Mapping[str, Peering]) -> bool:
    """Is there anybody whom it is for?"""
    return any(word == ANY or word in peers for word in policy.spec.to) and bool(peers)


def _peers(policies: Iterable[ExportPolicy], peers: Iterable[str]) -> frozenset[str]:
    """Those whom one of the policies is for."""
    named = {word for policy in policies for word in policy.spec.to}
    return frozenset(peer for peer in peers if ANY in named or peer in named)


def _of(
    found: Service | ImportedService,
    service: ServiceRef,
    sources: frozenset[Ref],
    *,
    peers: tuple[tuple[str, tuple[str, ...]], ...] = (),
    reach: Reach | None = None,
) -> Iterator[Passage]:
    if label_fault(service.namespace):
        return
    for port in found.spec.ports:
        if not port_fault(port.port):
            part = Part(Target(service, port.port), reach=reach)
            yield Passage(Assignment(names.passed_on(service, port.port), (part,)), sources, peers)
