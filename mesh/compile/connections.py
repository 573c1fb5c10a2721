"""What TrafficPolicies say of connections to a Service's port, as clusters and load assignments need it."""

from collections.abc import Iterator

from mesh.compile.attach import Policy
from mesh.compile.spread import Spread
from mesh.compile.view import Connections
from mesh.model import Protocol, Ref
from mesh.model.policyfit import ASKED, outside
from mesh.model.policyspec import HashKey


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
        health=check if check and protocol in ASKED[check.type] else None,
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
    for section, path, reason in outside(policy.spec):
        yield policy.origin(section), path, reason
