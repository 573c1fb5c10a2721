"""What TrafficPolicies say of connections to a Service's port, as clusters and load assignments need it."""

from collections.abc import Collection, Iterator

from mesh.compile.attach import Policy
from mesh.compile.spread import Spread
from mesh.compile.view import Connections
from mesh.model import Protocol, Ref
from mesh.model.trafficpolicy import HashKey, TrafficPolicySpec

_ASKED: dict[str, frozenset[Protocol]] = {
    "tcp": frozenset({"tcp", "http", "http2", "grpc"}),
    "http": frozenset({"http", "http2"}),
    "grpc": frozenset({"grpc", "http2"}),
}
"""Kind of check -> protocols of ports that can answer it. A policy may be for all ports of a Service."""


def connections(policy: Policy | None, protocol: Protocol) -> Connections:
    """The part of it that a cluster is made from."""
    if policy is None:
        return Connections()
    spec, check = policy.spec, policy.spec.health_check
    return Connections(
        balancing=spec.load_balancing,
        breaking=spec.circuit_breaking,
        outliers=spec.outlier_detection,
        keepalive=spec.tcp_keepalive,
        health=check if check and protocol in _ASKED[check.type] else None,
        budget=spec.retries.budget if spec.retries else None,
        connect=spec.timeouts.connect,
        idle=spec.timeouts.idle,
    )


def spread(policy: Policy | None, here: str) -> Spread | None:
    """For callers on a host that is here."""
    said = policy.spec.locality if policy else None
    if said is None:
        return None
    weights = tuple((weighed.locality, weighed.weight) for weighed in said.weights)
    return Spread(here, said.prefer, said.strict, said.failover, weights)


def hash_keys(policy: Policy | None) -> tuple[HashKey, ...]:
    balancing = policy.spec.load_balancing if policy else None
    return balancing.hash if balancing else ()


def outside_faults(policy: Policy) -> Iterator[tuple[Ref, str, str]]:
    """What cannot be had of an ExternalService: whose word it is, the path, and the reason."""
    for section, path, reason in (
        ("health_check", "spec.healthCheck", "nobody asks a server outside of the mesh for its health"),
        ("locality", "spec.locality", "nobody knows where a server outside of the mesh is"),
        ("subsets", "spec.subsets", "a server outside of the mesh has no labels"),
        ("rate_limits", "spec.rateLimits", "nobody of ours stands in front of a server outside of the mesh"),
    ):
        if getattr(policy.spec, section):
            yield policy.origin(section), path, reason


def unfit(spec: TrafficPolicySpec, protocols: Collection[Protocol]) -> Iterator[tuple[str, str]]:
    """What none of the ports that it is for can have, with the reason. There it is left out."""
    check = spec.health_check
    if check and _ASKED[check.type].isdisjoint(protocols):
        yield "spec.healthCheck", f"no port of it speaks what {check.type} asks: nobody is asked"
    keys = spec.load_balancing.hash if spec.load_balancing else ()
    if keys and set(protocols) == {"tcp"} and not any(key.source for key in keys):
        yield "spec.loadBalancing.hash", "connections of TCP have only their source in common: each goes anywhere"
