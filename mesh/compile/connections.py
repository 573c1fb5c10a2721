"""What TrafficPolicies say of connections to a Service's port, as clusters and load assignments need it."""

from collections.abc import Iterator

from mesh.compile.attach import Policy
from mesh.compile.spread import Spread
from mesh.compile.view import Connections
from mesh.model import Protocol
from mesh.model.trafficpolicy import HashKey, TrafficPolicySpec


def connections(policy: Policy | None) -> Connections:
    """The part of it that a cluster is made from."""
    if policy is None:
        return Connections()
    spec = policy.spec
    return Connections(
        balancing=spec.load_balancing,
        breaking=spec.circuit_breaking,
        outliers=spec.outlier_detection,
        keepalive=spec.tcp_keepalive,
        health=spec.health_check,
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


def unfit(spec: TrafficPolicySpec, protocol: Protocol) -> Iterator[tuple[str, str]]:
    """What a port of this protocol cannot have, with the reason; it is left out there."""
    if protocol != "tcp":
        return
    if spec.health_check and spec.health_check.type == "grpc":
        yield "spec.healthCheck", "a port of TCP cannot be asked by gRPC: nobody asks"
    keys = spec.load_balancing.hash if spec.load_balancing else ()
    if keys and not any(key.source for key in keys):
        yield "spec.loadBalancing.hash", "connections of TCP have only their source in common: each goes anywhere"
