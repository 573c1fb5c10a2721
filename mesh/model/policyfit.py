"""What of a TrafficPolicy the ports that it is for can have, by what they speak and where they are.

Connections of TCP have no requests: nothing that counts, delays, repeats or refuses one can be had there. What none of
its ports can have is refused where that is known (TrafficPolicy.check), and otherwise said: by the policy's status,
and by the hosts that call.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mesh.model.base import Object, Ref
from mesh.model.externalservice import ExternalPort, ExternalService
from mesh.model.peering import ImportedService
from mesh.model.policyspec import PolicyTarget, TrafficPolicySpec
from mesh.model.service import Protocol, Service, ServicePort

ASKED: dict[str, frozenset[Protocol]] = {
    "tcp": frozenset({"tcp", "http", "http2", "grpc"}),
    "http": frozenset({"http", "http2"}),
    "grpc": frozenset({"grpc", "http2"}),
}
"""Kind of check -> protocols of ports that can answer it."""

_HTTP = frozenset[Protocol]({"http", "http2", "grpc"})


class Unfit(NamedTuple):
    """A part of a policy that ports cannot have. There it is left out."""

    path: str
    reason: str
    ports: tuple[int, ...]
    """Those that cannot."""
    all: bool
    """No port that the policy is for can."""


def places(place: PolicyTarget, namespace: str) -> tuple[Ref, ...]:
    """What a policy may be for: the first of these that there is."""
    kinds = ("ImportedService",) if "." in place.service else ("Service", "ExternalService")
    return tuple(Ref(kind, namespace, place.service) for kind in kinds)


def aimed_at(
    place: PolicyTarget, namespace: str, objects: Mapping[Ref, Object]
) -> tuple[Service | ImportedService | ExternalService | None, tuple[ServicePort | ExternalPort, ...]]:
    """What a policy is for, and which of its ports."""
    found = next((objects[ref] for ref in places(place, namespace) if ref in objects), None)
    if not isinstance(found, Service | ImportedService | ExternalService):
        return None, ()
    ports: tuple[ServicePort | ExternalPort, ...] = found.spec.ports
    return found, tuple(port for port in ports if place.port in {0, port.port})


def unfit(spec: TrafficPolicySpec, ports: Iterable[ServicePort | ExternalPort]) -> Iterator[Unfit]:
    """Whatever at least one of these ports cannot have."""
    spoken = {port.port: port.protocol for port in ports}
    for path, reason, able in _needs(spec):
        without = tuple(sorted(port for port, protocol in spoken.items() if protocol not in able))
        if without:
            yield Unfit(path, reason, without, len(without) == len(spoken))


def _needs(spec: TrafficPolicySpec) -> Iterator[tuple[str, str, frozenset[Protocol]]]:
    """What the policy says, why some ports cannot have it, and the protocols of those that can."""
    if spec.health_check:
        asks = spec.health_check.type
        yield "spec.healthCheck", f"what {asks} asks is not spoken there: nobody is asked", ASKED[asks]
    keys = spec.load_balancing.hash if spec.load_balancing else ()
    if keys and not any(key.source for key in keys):
        reason = "connections of TCP have only their source in common: each goes anywhere"
        yield "spec.loadBalancing.hash", reason, _HTTP
    breaking, outliers = spec.circuit_breaking, spec.outlier_detection
    for path, said in (
        ("spec.timeouts.request", spec.timeouts.request),
        ("spec.retries", spec.retries is not None),
        ("spec.rateLimits", spec.rate_limits),
        ("spec.faults", spec.faults),
        ("spec.circuitBreaking.maxRequests", breaking and breaking.max_requests),
        ("spec.circuitBreaking.maxRetries", breaking and breaking.max_retries),
        ("spec.circuitBreaking.maxRequestsPerConnection", breaking and breaking.max_requests_per_connection),
        ("spec.outlierDetection.consecutiveErrors", outliers and outliers.consecutive_errors),
    ):
        if said:
            yield path, "connections of TCP have no requests: it does nothing on ports of protocol tcp", _HTTP


def outside(spec: TrafficPolicySpec) -> Iterator[tuple[str, str, str]]:
    """What cannot be had of an ExternalService: the section, its path, and the reason."""
    for section, path, reason in (
        ("health_check", "spec.healthCheck", "nobody asks a server outside of the mesh for its health"),
        ("locality", "spec.locality", "nobody knows where a server outside of the mesh is"),
        ("subsets", "spec.subsets", "a server outside of the mesh has no labels"),
        ("rate_limits", "spec.rateLimits", "nobody of ours stands in front of a server outside of the mesh"),
    ):
        if getattr(spec, section):
            yield section, path, reason


def far(spec: TrafficPolicySpec) -> Iterator[tuple[str, str, str]]:
    """What cannot be had of another cluster's Service: the section, its path, and the reason."""
    for section, path, reason in (
        ("health_check", "spec.healthCheck", "a gateway answers for many instances: their own cluster asks them"),
        ("subsets", "spec.subsets", "labels of instances are not told to other clusters"),
        ("rate_limits", "spec.rateLimits", "another cluster's instances take their limits from their own cluster"),
    ):
        if getattr(spec, section):
            yield section, path, reason
