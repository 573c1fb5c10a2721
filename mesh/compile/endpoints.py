"""Load assignments, spliced from endpoints that were encoded once.

Who gets traffic: the healthy. Unhealthy and draining endpoints say of themselves that they should get none, so none
goes there, ever: a call fails at once rather than reach an application that is not ready. `lost` is what others say of
a host that they cannot hear; it may well serve. So lost endpoints get traffic if nobody is healthy, and only then.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from mesh import pb
from mesh.compile.spread import Spread
from mesh.compile.view import Assignment, Part
from mesh.model import Endpoint, Health, ServiceRef
from mesh.model.checks import address_fault, port_fault

MAX_WEIGHT = 1_000_000
_MAX_PRIORITY = 127
"""Envoy takes 128 priorities; what comes later shares the last."""
_REACHED = frozenset({"healthy", "lost"})
"""What another cluster's endpoints may say, so that it is worth while to ask a gateway for them."""

STATUS: dict[Health, int] = {
    "healthy": pb.HealthStatus.HEALTHY,
    "unhealthy": pb.HealthStatus.UNHEALTHY,
    "draining": pb.HealthStatus.DRAINING,
    "lost": pb.HealthStatus.TIMEOUT,
}

# Field numbers, as keys on the wire (envoy/config/endpoint/v3/endpoint.proto and endpoint_components.proto).
_CLUSTER_NAME, _ENDPOINTS, _LB_ENDPOINTS = b"\x0a", b"\x12", b"\x12"

SOCKET_MATCH = "envoy.transport_socket_match"
SOCKET = "socket"
"""Key of the name of an endpoint's TLS context, in its metadata."""


def message(endpoint: Endpoint, status: int, socket: str = "", weight: int = 0, *, far: bool = False) -> pb.LbEndpoint:
    """`weight` 0: its own."""
    spec = endpoint.spec
    address = pb.Address(socket_address=pb.SocketAddress(address=spec.address, port_value=spec.port))
    found = pb.LbEndpoint(
        endpoint=pb.Endpoint(address=address),
        health_status=status,
        load_balancing_weight=pb.uint32(min(max(weight or spec.weight, 1), MAX_WEIGHT)),
    )
    if far:
        # One answer of a gateway says nothing of all that are behind it.
        found.endpoint.health_check_config.disable_active_health_check = True
    if socket:
        found.metadata.filter_metadata[SOCKET_MATCH].update({SOCKET: socket})
    return found


def status_of(endpoint: Endpoint, *, any_healthy: bool) -> int:
    """An unknown word, from a newer writer, counts as unhealthy."""
    if endpoint.spec.health == "lost" and not any_healthy:
        return int(pb.HealthStatus.HEALTHY)
    return STATUS.get(endpoint.spec.health, int(pb.HealthStatus.UNHEALTHY))


def usable(endpoint: Endpoint) -> bool:
    """What Envoy would refuse, and the whole assignment with it, is left out."""
    return not address_fault(endpoint.spec.address) and not port_fault(endpoint.spec.port)


def straightforward(
    assignment: Assignment, endpoints: Mapping[ServiceRef, Mapping[str, Endpoint]]
) -> pb.ClusterLoadAssignment:
    """The same through protobuf's own tree: what `encoded` must give, byte for byte."""

    def known(service: ServiceRef) -> Iterable[tuple[str, Endpoint]]:
        return ((name, e) for name, e in endpoints.get(service, {}).items() if usable(e))

    groups = []
    for part in assignment.parts:
        members = _members(part, known)
        healthy = any(m.endpoint.spec.health == "healthy" for m in members)
        for frame, those in _groups(part, members):
            group = pb.LocalityLbEndpoints()
            group.MergeFromString(frame)
            group.lb_endpoints.extend(
                message(m.endpoint, status_of(m.endpoint, any_healthy=healthy), m.socket, m.weight, far=m.far)
                for m in those
            )
            groups.append(group)
    return pb.ClusterLoadAssignment(cluster_name=assignment.name, endpoints=groups)


class Member(NamedTuple):
    """An endpoint that belongs to a part."""

    name: str
    endpoint: Endpoint
    source: ServiceRef
    """Whose it is."""
    socket: str = ""
    weight: int = 0
    """0: its own."""
    far: bool = False
    """It is of another cluster, or leads to one."""
    beyond: bool = False
    """It is of a part beyond the first."""


Knows = Callable[[ServiceRef], Iterable[tuple[str, Endpoint]]]
"""The usable endpoints of a Service, with their names."""


def _members(part: Part, known: Knows) -> list[Member]:
    """Endpoints that belong to a part: its own by name, then those of each part beyond."""
    if not part.beyond:
        return _of_one(part, part.spread, known)
    found: list[Member] = []
    places: set[tuple[str, int]] = set()
    for one in part.all:
        for member in _of_one(one, part.spread, known):
            # Envoy takes the first of those at one place; so that it is known which, the others are left out. Gateways
            # of this cluster are at one place for all clusters: the first that has somebody is called through them.
            place = (member.endpoint.spec.address, member.endpoint.spec.port)
            if one is part or place not in places:
                found.append(member)
            places.add(place)
    return found


def _of_one(part: Part, spread: Spread | None, known: Knows) -> list[Member]:
    port, labels = part.target.port, dict(part.labels).items()
    chosen = sorted(
        (name, e)
        for name, e in known(part.target.service)
        if port in e.spec.ports
        # Also what was taken when another rule held, or by an older control plane.
        and (part.reach is None or not part.reach.fault(e.spec.address))
        and (not labels or labels <= e.metadata.labels.items())
        and (spread is None or spread.allows(e.spec.locality))
    )
    far = bool(part.target.service.peer)
    if part.via is None:
        return [Member(name, e, part.target.service, part.socket, far=far, beyond=part.far) for name, e in chosen]
    total = sum(e.spec.weight for _, e in chosen if e.spec.health in _REACHED)
    gateways = sorted(known(part.via)) if total else []
    # Together they weigh as much as all that they lead to.
    weight = -(-total // max(1, sum(e.spec.health == "healthy" for _, e in gateways)))
    return [Member(name, e, part.via, part.socket, weight, far=far, beyond=part.far) for name, e in gateways]


def _groups(part: Part, members: list[Member]) -> Iterator[tuple[bytes, list[Member]]]:
    """A part's groups of endpoints, none of them empty, each with what it has besides."""
    spread = part.spread
    if not members:
        return
    if spread is None and not part.beyond:
        yield _frame(part), members
        return
    tiers: dict[tuple[int, ...], list[Member]] = {}
    for member in members:
        tiers.setdefault(_tier(spread, member), []).append(member)
    ordered = [tiers[tier] for tier in sorted(tiers)]
    if part.weight:
        # Shares come first, and Envoy would count the health of all parts of a priority together. So each part has the
        # nearest endpoints that are healthy, and no others.
        yield _frame(part), next((t for t in ordered if any(m.endpoint.spec.health == "healthy" for m in t)), members)
        return
    for priority, those in enumerate(ordered):
        yield from _places(spread, min(priority, _MAX_PRIORITY), those)


def _tier(spread: Spread | None, member: Member) -> tuple[int, ...]:
    """Smaller comes first. This cluster comes before others, unless a policy prefers nothing and weighs all alike."""
    if spread is None:
        return (int(member.beyond),)
    tier = spread.tier(member.endpoint.spec.locality)
    return (int(member.beyond), *tier) if spread.prefer else tier


def _places(spread: Spread | None, priority: int, members: list[Member]) -> Iterator[tuple[bytes, list[Member]]]:
    """What shares a priority, by place."""
    if spread is None:
        yield pb.encode(pb.LocalityLbEndpoints(priority=priority)), members
        return
    places: dict[tuple[str, int], list[Member]] = {}
    for member in members:
        places.setdefault(spread.weight(member.endpoint.spec.locality), []).append(member)
    for (place, weight), there in sorted(places.items()):
        region, zone, subzone = (*place.split("/", 2), "", "")[:3]
        frame = pb.LocalityLbEndpoints(
            locality=pb.Locality(region=region, zone=zone, sub_zone=subzone), priority=priority
        )
        if spread.weights:
            frame.load_balancing_weight.CopyFrom(pb.uint32(weight))
        yield pb.encode(frame), there


def _frame(part: Part) -> bytes:
    """What the only group of a part has besides endpoints."""
    if not part.weight:
        return b""
    return pb.encode(
        pb.LocalityLbEndpoints(locality=pb.Locality(sub_zone=part.socket), load_balancing_weight=pb.uint32(part.weight))
    )


class Fragments:
    """Encoded endpoints of one Service. `update` costs what changed; `groups` a concatenation."""

    def __init__(self) -> None:
        self._known: dict[str, Endpoint] = {}
        self._encoded: dict[str, dict[tuple[int, str, int], bytes]] = {}

    def update(self, endpoints: Mapping[str, Endpoint]) -> None:
        known = self._known
        for name in [n for n, e in known.items() if endpoints.get(n) is not e]:
            del known[name]
            self._encoded.pop(name, None)
        if len(known) != len(endpoints):
            known.update((n, e) for n, e in endpoints.items() if n not in known and usable(e))

    @property
    def known(self) -> Iterable[tuple[str, Endpoint]]:
        """Those that are usable."""
        return self._known.items()

    def fragment(self, member: Member, status: int) -> bytes:
        """The bytes of an LbEndpoint, as a field of its group."""
        name, endpoint, _, socket, weight, far, _ = member
        cached = self._encoded.setdefault(name, {})
        found = cached.get((status, socket, weight))
        if found is None:
            encoded = pb.encode(message(endpoint, status, socket, weight, far=far))
            found = cached[status, socket, weight] = _LB_ENDPOINTS + _sized(encoded)
        return found


def encoded(assignment: Assignment, fragments: Mapping[ServiceRef, Fragments]) -> bytes:
    """The bytes of a ClusterLoadAssignment. Protobuf takes the fields of a message in any order."""
    head = _CLUSTER_NAME + _sized(assignment.name.encode())
    groups = (group for part in assignment.parts for group in _encoded_groups(part, fragments))
    return head + b"".join(_ENDPOINTS + _sized(group) for group in groups)


def _encoded_groups(part: Part, fragments: Mapping[ServiceRef, Fragments]) -> Iterator[bytes]:
    """The bytes of a part's LocalityLbEndpoints; none without endpoints."""
    members = _members(part, lambda service: fragments[service].known)
    healthy = any(m.endpoint.spec.health == "healthy" for m in members)
    for frame, those in _groups(part, members):
        yield frame + b"".join(
            fragments[m.source].fragment(m, status_of(m.endpoint, any_healthy=healthy)) for m in those
        )


def _sized(raw: bytes) -> bytes:
    """With its length before it, as a base-128 number."""
    head, length = bytearray(), len(raw)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + raw
