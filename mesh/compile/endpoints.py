"""Load assignments, spliced from endpoints that were encoded once.

Who gets traffic: the healthy. Unhealthy and draining endpoints say of themselves that they should get none, so none
goes there, ever: a call fails at once rather than reach an application that is not ready. `lost` is what others say of
a host that they cannot hear; it may well serve. So lost endpoints get traffic if nobody is healthy, and only then.
"""

from collections.abc import Iterable, Iterator, Mapping

from mesh import pb
from mesh.compile.spread import Spread
from mesh.compile.view import Assignment, Part
from mesh.model import Endpoint, Health, ServiceRef
from mesh.model.checks import address_fault, port_fault

MAX_WEIGHT = 1_000_000
_MAX_PRIORITY = 127
"""Envoy takes 128 priorities; what comes later shares the last."""

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


def message(endpoint: Endpoint, status: int, socket: str = "") -> pb.LbEndpoint:
    spec = endpoint.spec
    address = pb.Address(socket_address=pb.SocketAddress(address=spec.address, port_value=spec.port))
    found = pb.LbEndpoint(
        endpoint=pb.Endpoint(address=address),
        health_status=status,
        load_balancing_weight=pb.uint32(min(max(spec.weight, 1), MAX_WEIGHT)),
    )
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
    """The same through protobuf's own tree: what `Fragments` must give, byte for byte."""
    groups = []
    for part in assignment.parts:
        known = endpoints.get(part.target.service, {})
        chosen = _chosen(part, ((name, e) for name, e in known.items() if usable(e)))
        healthy = any(e.spec.health == "healthy" for _, e in chosen)
        for frame, members in _groups(part, chosen):
            group = pb.LocalityLbEndpoints()
            group.MergeFromString(frame)
            group.lb_endpoints.extend(message(e, status_of(e, any_healthy=healthy), part.socket) for _, e in members)
            groups.append(group)
    return pb.ClusterLoadAssignment(cluster_name=assignment.name, endpoints=groups)


Named = tuple[str, Endpoint]
"""An endpoint, with its name."""


def _chosen(part: Part, known: Iterable[Named]) -> list[Named]:
    """Endpoints that belong to a part, by name."""
    port, labels, spread = part.target.port, dict(part.labels).items(), part.spread
    return sorted(
        (name, e)
        for name, e in known
        if port in e.spec.ports
        and (not labels or labels <= e.metadata.labels.items())
        and (spread is None or spread.allows(e.spec.locality))
    )


def _groups(part: Part, chosen: list[Named]) -> Iterator[tuple[bytes, list[Named]]]:
    """A part's groups of endpoints, none of them empty, each with what it has besides."""
    spread = part.spread
    if spread is None or not chosen:
        if chosen:
            yield _frame(part), chosen
        return
    tiers: dict[tuple[int, int], list[Named]] = {}
    for named in chosen:
        tiers.setdefault(spread.tier(named[1].spec.locality), []).append(named)
    ordered = [tiers[tier] for tier in sorted(tiers)]
    if part.weight:
        # Shares come first, and Envoy would count the health of all parts of a priority together. So each part has the
        # nearest endpoints that are healthy, and no others.
        yield _frame(part), next((m for m in ordered if any(e.spec.health == "healthy" for _, e in m)), chosen)
        return
    for priority, members in enumerate(ordered):
        yield from _places(spread, min(priority, _MAX_PRIORITY), members)


def _places(spread: Spread, priority: int, members: list[Named]) -> Iterator[tuple[bytes, list[Named]]]:
    """What shares a priority, by place."""
    places: dict[tuple[str, int], list[Named]] = {}
    for named in members:
        places.setdefault(spread.weight(named[1].spec.locality), []).append(named)
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
        self._encoded: dict[str, dict[tuple[int, str], bytes]] = {}

    def update(self, endpoints: Mapping[str, Endpoint]) -> None:
        known = self._known
        for name in [n for n, e in known.items() if endpoints.get(n) is not e]:
            del known[name]
            self._encoded.pop(name, None)
        if len(known) != len(endpoints):
            known.update((n, e) for n, e in endpoints.items() if n not in known and usable(e))

    def groups(self, part: Part) -> Iterator[bytes]:
        """The bytes of a part's LocalityLbEndpoints; none without endpoints."""
        chosen = _chosen(part, self._known.items())
        healthy = any(e.spec.health == "healthy" for _, e in chosen)
        for frame, members in _groups(part, chosen):
            yield frame + b"".join(
                self._fragment(n, e, status_of(e, any_healthy=healthy), part.socket) for n, e in members
            )

    def _fragment(self, name: str, endpoint: Endpoint, status: int, socket: str) -> bytes:
        cached = self._encoded.setdefault(name, {})
        found = cached.get((status, socket))
        if found is None:
            found = cached[status, socket] = _LB_ENDPOINTS + _sized(pb.encode(message(endpoint, status, socket)))
        return found


def encoded(assignment: Assignment, fragments: Mapping[ServiceRef, Fragments]) -> bytes:
    """The bytes of a ClusterLoadAssignment. Protobuf takes the fields of a message in any order."""
    head = _CLUSTER_NAME + _sized(assignment.name.encode())
    groups = (group for part in assignment.parts for group in fragments[part.target.service].groups(part))
    return head + b"".join(_ENDPOINTS + _sized(group) for group in groups)


def _sized(raw: bytes) -> bytes:
    """With its length before it, as a base-128 number."""
    head, length = bytearray(), len(raw)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + raw
