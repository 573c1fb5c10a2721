"""What a gateway passes on: Services that are exported, and those of peers that callers here reach through gateways.

The part of `project` for hosts in role gateway. Nothing of one cluster is passed on to another one: what is exported is
this cluster's own, and what is imported is for callers here.
"""

from collections.abc import Callable, Iterator, Mapping

from mesh.compile import names
from mesh.compile.rules import Target
from mesh.compile.view import Assignment, Gateway, Part, Passage
from mesh.model import (
    ExportPolicy,
    GatewaySpec,
    ImportedService,
    Object,
    Peering,
    Ref,
    Service,
    ServiceRef,
)
from mesh.model.checks import imported_name_fault, label_fault, port_fault
from mesh.model.peering import ANY

MAX_PASSAGES = 10_000
"""Of one gateway: a filter chain and a cluster each."""

Note = Callable[[Ref | None, str, str], None]
"""Takes a problem: object, path, reason."""


def gateway(spec: GatewaySpec, objects: Mapping[Ref, Object], note: Note) -> Gateway:
    """What a host in this role passes on."""
    # What is exported comes first: whatever a peer offers, and however it calls it, takes no place from that.
    found = sorted(passages(objects), key=lambda passage: (passage.target.service.peer, passage.assignment.name))
    if len(found) > MAX_PASSAGES:
        note(None, "gateway", f"{len(found)} ports of Services are to be passed on: only {MAX_PASSAGES} are")
    return Gateway(spec, tuple(sorted(found[:MAX_PASSAGES], key=lambda passage: passage.assignment.name)))


def passed_on(objects: Mapping[Ref, Object]) -> frozenset[ServiceRef]:
    """Services whose endpoints a gateway needs."""
    return frozenset(passage.target.service for passage in passages(objects))


def passages(objects: Mapping[Ref, Object]) -> Iterator[Passage]:
    """All, in no order."""
    peers = {ref.name: found for ref, found in objects.items() if isinstance(found, Peering)}
    policies = [found for found in objects.values() if isinstance(found, ExportPolicy) and _told(found, peers)]
    for ref, found in objects.items():
        if isinstance(found, Service) and not label_fault(ref.name):
            by = [policy.ref for policy in policies if policy.covers(found)]
            if by:
                yield from _of(found, found.service, frozenset({found.ref, *by}))
        elif isinstance(found, ImportedService) and not imported_name_fault(ref.name):
            peering = peers.get(found.service.peer)
            if peering is not None and peering.spec.through == "Gateway":
                yield from _of(found, found.service, frozenset({found.ref, peering.ref}))


def _told(policy: ExportPolicy, peers: Mapping[str, Peering]) -> bool:
    """Is there anybody whom it is for?"""
    return any(word == ANY or word in peers for word in policy.spec.to) and bool(peers)


def _of(found: Service | ImportedService, service: ServiceRef, sources: frozenset[Ref]) -> Iterator[Passage]:
    if label_fault(service.namespace):
        return
    for port in found.spec.ports:
        if not port_fault(port.port):
            part = Part(Target(service, port.port))
            yield Passage(Assignment(names.passed_on(service, port.port), (part,)), sources)
