"""Load assignments, spliced from endpoints that were encoded once.

Who gets traffic: the healthy. Unhealthy and draining endpoints say of themselves that they should get none, so none
goes there, ever: a call fails at once rather than reach an application that is not ready. `lost` is what others say of
a host that they cannot hear; it may well serve. So lost endpoints get traffic if nobody is healthy, and only then.
"""

from collections.abc import Iterable, Mapping

from mesh import pb
from mesh.model import Endpoint, Health
from mesh.model.checks import address_fault, port_fault

MAX_WEIGHT = 1_000_000

STATUS: dict[Health, int] = {
    "healthy": pb.HealthStatus.HEALTHY,
    "unhealthy": pb.HealthStatus.UNHEALTHY,
    "draining": pb.HealthStatus.DRAINING,
    "lost": pb.HealthStatus.TIMEOUT,
}

# Field numbers, as keys on the wire (envoy/config/endpoint/v3/endpoint.proto and endpoint_components.proto).
_CLUSTER_NAME, _ENDPOINTS, _LB_ENDPOINTS = b"\x0a", b"\x12", b"\x12"


def message(endpoint: Endpoint, status: int) -> pb.LbEndpoint:
    spec = endpoint.spec
    address = pb.Address(socket_address=pb.SocketAddress(address=spec.address, port_value=spec.port))
    return pb.LbEndpoint(
        endpoint=pb.Endpoint(address=address),
        health_status=status,
        load_balancing_weight=pb.uint32(min(max(spec.weight, 1), MAX_WEIGHT)),
    )


def status_of(endpoint: Endpoint, *, any_healthy: bool) -> int:
    """An unknown word, from a newer writer, counts as unhealthy."""
    if endpoint.spec.health == "lost" and not any_healthy:
        return int(pb.HealthStatus.HEALTHY)
    return STATUS.get(endpoint.spec.health, int(pb.HealthStatus.UNHEALTHY))


def usable(endpoint: Endpoint) -> bool:
    """What Envoy would refuse, and the whole assignment with it, is left out."""
    return not address_fault(endpoint.spec.address) and not port_fault(endpoint.spec.port)


def straightforward(name: str, port: int, endpoints: Mapping[str, Endpoint]) -> pb.ClusterLoadAssignment:
    """The same through protobuf's own tree: what `Fragments` must give, byte for byte."""
    chosen = [
        endpoints[key] for key in sorted(endpoints) if usable(endpoints[key]) and port in endpoints[key].spec.ports
    ]
    healthy = any(e.spec.health == "healthy" for e in chosen)
    encoded = [message(e, status_of(e, any_healthy=healthy)) for e in chosen]
    groups = [pb.LocalityLbEndpoints(lb_endpoints=encoded)] if encoded else []
    return pb.ClusterLoadAssignment(cluster_name=name, endpoints=groups)


class Fragments:
    """Encoded endpoints of one Service. `update` costs what changed; `assignment` a concatenation."""

    def __init__(self) -> None:
        self._known: dict[str, Endpoint] = {}
        self._encoded: dict[tuple[str, int], bytes] = {}

    def update(self, endpoints: Mapping[str, Endpoint]) -> None:
        known = self._known
        for name in [n for n, e in known.items() if endpoints.get(n) is not e]:
            del known[name]
            for status in _STATUSES:
                self._encoded.pop((name, status), None)
        if len(known) != len(endpoints):
            known.update((n, e) for n, e in endpoints.items() if n not in known and usable(e))

    def assignment(self, name: str, port: int) -> bytes:
        """The bytes of the ClusterLoadAssignment of one port."""
        chosen = sorted((n, e) for n, e in self._known.items() if port in e.spec.ports)
        healthy = any(e.spec.health == "healthy" for _, e in chosen)
        parts = [self._fragment(n, e, status_of(e, any_healthy=healthy)) for n, e in chosen]
        head = _CLUSTER_NAME + _sized(name.encode())
        return head + _ENDPOINTS + _sized(b"".join(parts)) if parts else head

    def _fragment(self, name: str, endpoint: Endpoint, status: int) -> bytes:
        found = self._encoded.get((name, status))
        if found is None:
            found = _LB_ENDPOINTS + _sized(pb.encode(message(endpoint, status)))
            self._encoded[name, status] = found
        return found


_STATUSES: Iterable[int] = tuple(sorted({*STATUS.values()}))


def _sized(raw: bytes) -> bytes:
    """With its length before it, as a base-128 number."""
    head, length = bytearray(), len(raw)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + raw
