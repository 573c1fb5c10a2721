"""TrafficPolicy: how a Service is called, and how much it takes. Routing is the routes' business.

What concerns connections (balancing, circuit breaking, outlier detection, health, locality) holds wherever the Service
is a backend; what concerns requests (timeouts, retries, faults) where it is what was called; rate limits at its
instances. A route's own timeouts and retries come before the policy's.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from mesh.model.base import Frozen, Object, Ref, Violation
from mesh.model.checks import (
    at,
    imported_name_fault,
    label_fault,
    labels_faults,
    locality_fault,
    number_fault,
    port_fault,
    principal_fault,
    repeated,
    shown,
)
from mesh.model.duration import duration_fault, seconds
from mesh.model.externalservice import ExternalService
from mesh.model.httproute import header_match_faults, path_fault
from mesh.model.policyfit import aimed_at, far, outside, places, unfit
from mesh.model.policyspec import (
    MAX_COUNT,
    MAX_FAULTS,
    MAX_LIMITS,
    MAX_SUBSETS,
    CircuitBreaking,
    ClientHealthCheck,
    Fault,
    HashKey,
    LoadBalancing,
    Locality,
    OutlierDetection,
    RateLimit,
    RequestMatch,
    Retries,
    TrafficPolicySpec,
)
from mesh.model.regex import prefix_expression, regex_fault
from mesh.model.routing import header_name_fault, too_many

_COOKIE_PATH = re.compile(r"/[!-~]{0,255}\Z")


class TrafficPolicy(Object, frozen=True, kw_only=True):
    """Of several for the same target the oldest counts, then the first by name; the others say so in their status."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["TrafficPolicy"] = "TrafficPolicy"
    spec: TrafficPolicySpec

    def looks_at(self) -> Iterator[Ref]:
        yield from places(self.spec.target, self.metadata.namespace)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        yield from self._unfit(existing)
        spec = self.spec
        yield from at("spec.target.service", _target_fault(spec.target.service))
        if spec.target.port:
            yield from at("spec.target.port", port_fault(spec.target.port))
        if spec.load_balancing:
            yield from _balancing_faults("spec.loadBalancing", spec.load_balancing)
        if spec.locality:
            yield from _locality_faults("spec.locality", spec.locality)
        if spec.circuit_breaking:
            yield from _counts("spec.circuitBreaking", spec.circuit_breaking)
        if spec.outlier_detection:
            yield from _outlier_faults("spec.outlierDetection", spec.outlier_detection)
        yield from _times(
            "spec.timeouts", {"connect": (0.01, 60), "idle": (1, 86400), "request": (0, 86400)}, spec.timeouts
        )
        if spec.tcp_keepalive:
            where = "spec.tcpKeepalive"
            yield from _times(where, {"idle": (1, 7200), "interval": (1, 600)}, spec.tcp_keepalive)
            yield from at(f"{where}.probes", number_fault(spec.tcp_keepalive.probes, 1, 50))
        if spec.retries:
            yield from _retries_faults("spec.retries", spec.retries)
        if spec.health_check:
            yield from _health_faults("spec.healthCheck", spec.health_check)
        yield from _lists(spec)
        if "." in spec.target.service:
            for _, path, reason in far(spec):
                yield Violation(path=path, reason=reason)

    def _unfit(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        """What nothing that it is for can have, as far as that is known by now."""
        found, ports = aimed_at(self.spec.target, self.metadata.namespace, existing)
        faults = {f.path: f.reason for f in unfit(self.spec, ports) if f.all}
        if isinstance(found, ExternalService):
            faults |= {path: reason for _, path, reason in outside(self.spec)}
        for path, reason in faults.items():
            yield Violation(path=path, reason=f"{reason} ({found.kind} {found.service})" if found else reason)


def _target_fault(text: str) -> str:
    return imported_name_fault(text) if "." in text else label_fault(text)


def _times(where: str, bounds: Mapping[str, tuple[float, float]], value: Frozen) -> Iterator[Violation]:
    """Durations of a Struct, by field; a field that is empty is left out."""
    for field, (low, high) in bounds.items():
        head, *rest = re.split(r"(?=[A-Z])", field)
        text = getattr(value, "_".join([head, *(word.lower() for word in rest)]))
        if text:
            yield from at(f"{where}.{field}", duration_fault(text, low, high))


def _counts(where: str, breaking: CircuitBreaking) -> Iterator[Violation]:
    yield from at(f"{where}.maxConnections", number_fault(breaking.max_connections, 0, MAX_COUNT))
    yield from at(f"{where}.maxPendingRequests", number_fault(breaking.max_pending_requests, 0, MAX_COUNT))
    yield from at(f"{where}.maxRequests", number_fault(breaking.max_requests, 0, MAX_COUNT))
    yield from at(f"{where}.maxRetries", number_fault(breaking.max_retries, 0, MAX_COUNT))
    yield from at(f"{where}.maxRequestsPerConnection", number_fault(breaking.max_requests_per_connection, 0, MAX_COUNT))


def _balancing_faults(where: str, balancing: LoadBalancing) -> Iterator[Violation]:
    hashed = balancing.algorithm in {"RingHash", "Maglev"}
    if hashed and not balancing.hash:
        yield Violation(path=f"{where}.hash", reason=f"{balancing.algorithm} needs to know what to hash")
    if balancing.hash and not hashed:
        yield Violation(path=f"{where}.hash", reason=f"{balancing.algorithm} hashes nothing: use RingHash or Maglev")
    yield from too_many(f"{where}.hash", balancing.hash, 8)
    for index, key in enumerate(balancing.hash):
        yield from _hash_faults(f"{where}.hash[{index}]", key)
    yield from at(f"{where}.choices", number_fault(balancing.choices, 2, 100))
    yield from at(f"{where}.panicPercent", number_fault(balancing.panic_percent, 0, 100))
    if slow := balancing.slow_start:
        if balancing.algorithm not in {"RoundRobin", "LeastRequest"}:
            yield Violation(path=f"{where}.slowStart", reason=f"{balancing.algorithm} cannot start slowly")
        yield from _times(f"{where}.slowStart", {"window": (1, 3600)}, slow)
        if not slow.window:
            yield Violation(path=f"{where}.slowStart.window", reason="is missing")
        yield from at(f"{where}.slowStart.aggression", number_fault(slow.aggression, 0.01, 100))
        yield from at(f"{where}.slowStart.minWeightPercent", number_fault(slow.min_weight_percent, 1, 100))


def _hash_faults(where: str, key: HashKey) -> Iterator[Violation]:
    if [bool(key.header), key.cookie is not None, key.source].count(True) != 1:
        yield Violation(path=where, reason="exactly one of header, cookie and source is needed")
    if key.header:
        yield from at(f"{where}.header", header_name_fault(key.header))
    if key.cookie:
        yield from at(f"{where}.cookie.name", header_name_fault(key.cookie.name))
        if key.cookie.ttl:
            yield from at(f"{where}.cookie.ttl", duration_fault(key.cookie.ttl, 0, 366 * 86400))
        if not _COOKIE_PATH.match(key.cookie.path):
            yield Violation(path=f"{where}.cookie.path", reason=f"{shown(key.cookie.path)} is not a path")


def _locality_faults(where: str, locality: Locality) -> Iterator[Violation]:
    if locality.strict and locality.failover:
        yield Violation(path=f"{where}.failover", reason="strict leaves nowhere to fail over to")
    yield from too_many(f"{where}.failover", locality.failover, 32)
    for index, place in enumerate(locality.failover):
        yield from at(f"{where}.failover[{index}]", locality_fault(place))
    yield from repeated(f"{where}.failover", "", locality.failover)
    yield from too_many(f"{where}.weights", locality.weights, 64)
    for index, weighed in enumerate(locality.weights):
        yield from at(f"{where}.weights[{index}].locality", locality_fault(weighed.locality))
        yield from at(f"{where}.weights[{index}].weight", number_fault(weighed.weight, 0, 1000))
    yield from repeated(f"{where}.weights", ".locality", (w.locality for w in locality.weights))


def _outlier_faults(where: str, outliers: OutlierDetection) -> Iterator[Violation]:
    yield from at(f"{where}.consecutiveErrors", number_fault(outliers.consecutive_errors, 0, 1000))
    yield from at(f"{where}.consecutiveGatewayErrors", number_fault(outliers.consecutive_gateway_errors, 0, 1000))
    yield from at(f"{where}.consecutiveConnectFailures", number_fault(outliers.consecutive_connect_failures, 0, 1000))
    yield from at(f"{where}.maxEjectionPercent", number_fault(outliers.max_ejection_percent, 0, 100))
    bounds = {"interval": (0.1, 3600.0), "baseEjection": (0.1, 86400.0), "maxEjection": (0.1, 86400.0)}
    faults = list(_times(where, bounds, outliers))
    yield from faults
    if not faults and seconds(outliers.max_ejection) < seconds(outliers.base_ejection):
        yield Violation(path=f"{where}.maxEjection", reason="is shorter than baseEjection")


def _retries_faults(where: str, retries: Retries) -> Iterator[Violation]:
    yield from at(f"{where}.attempts", number_fault(retries.attempts, 0, 10))
    yield from repeated(f"{where}.retryOn", "", retries.retry_on)
    for index, status in enumerate(retries.statuses):
        yield from at(f"{where}.statuses[{index}]", number_fault(status, 400, 599))
    yield from repeated(f"{where}.statuses", "", retries.statuses)
    yield from _times(where, {"perTry": (0.001, 86400), "backoff": (0.001, 3600)}, retries)
    if retries.budget:
        yield from at(f"{where}.budget.percent", number_fault(retries.budget.percent, 0, 100))
        yield from at(f"{where}.budget.minConcurrent", number_fault(retries.budget.min_concurrent, 0, MAX_COUNT))


def _health_faults(where: str, check: ClientHealthCheck) -> Iterator[Violation]:
    yield from at(f"{where}.path", path_fault("Exact", check.path))
    yield from _times(where, {"interval": (0.1, 3600), "timeout": (0.05, 600)}, check)
    yield from at(f"{where}.healthyThreshold", number_fault(check.healthy_threshold, 1, 100))
    yield from at(f"{where}.unhealthyThreshold", number_fault(check.unhealthy_threshold, 1, 100))


def _lists(spec: TrafficPolicySpec) -> Iterator[Violation]:
    for field, names, most in (
        ("subsets", [item.name for item in spec.subsets], MAX_SUBSETS),
        ("rateLimits", [item.name for item in spec.rate_limits], MAX_LIMITS),
        ("faults", [item.name for item in spec.faults], MAX_FAULTS),
    ):
        yield from too_many(f"spec.{field}", names, most)
        for index, name in enumerate(names):
            yield from at(f"spec.{field}[{index}].name", label_fault(name))
        yield from repeated(f"spec.{field}", ".name", names)
    for index, subset in enumerate(spec.subsets):
        yield from labels_faults(f"spec.subsets[{index}].labels", subset.labels)
        if not subset.labels:
            yield Violation(path=f"spec.subsets[{index}].labels", reason="without labels it would be the whole Service")
    for index, limit in enumerate(spec.rate_limits):
        yield from _limit_faults(f"spec.rateLimits[{index}]", limit)
    for index, fault in enumerate(spec.faults):
        yield from _fault_faults(f"spec.faults[{index}]", fault)


def _limit_faults(where: str, limit: RateLimit) -> Iterator[Violation]:
    yield from at(f"{where}.requests", number_fault(limit.requests, 1, MAX_COUNT))
    yield from at(f"{where}.burst", number_fault(limit.burst, 0, MAX_COUNT))
    # Envoy fills a bucket every 50 ms at the most often.
    yield from at(f"{where}.window", duration_fault(limit.window, 0.05, 86400))
    yield from _match_faults(f"{where}.match", limit.match)


def _fault_faults(where: str, fault: Fault) -> Iterator[Violation]:
    if not fault.delay and not fault.abort:
        yield Violation(path=where, reason="a delay, an abort or both are needed")
    if fault.delay:
        yield from at(f"{where}.delay.duration", duration_fault(fault.delay.duration, 0.001, 3600))
        yield from at(f"{where}.delay.percent", number_fault(fault.delay.percent, 0, 100))
    if fault.abort:
        if bool(fault.abort.status) == (fault.abort.grpc_status is not None):
            yield Violation(path=f"{where}.abort", reason="exactly one of status and grpcStatus is needed")
        if fault.abort.status:
            yield from at(f"{where}.abort.status", number_fault(fault.abort.status, 200, 599))
        if fault.abort.grpc_status is not None:
            yield from at(f"{where}.abort.grpcStatus", number_fault(fault.abort.grpc_status, 1, 16))
        yield from at(f"{where}.abort.percent", number_fault(fault.abort.percent, 0, 100))
    yield from too_many(f"{where}.callers", fault.callers, 64)
    for index, caller in enumerate(fault.callers):
        yield from at(f"{where}.callers[{index}]", principal_fault(caller))
    yield from _match_faults(f"{where}.match", fault.match)


def _match_faults(where: str, match: RequestMatch) -> Iterator[Violation]:
    if match.path_prefix:
        yield from at(f"{where}.pathPrefix", path_fault("PathPrefix", match.path_prefix))
        yield from at(f"{where}.pathPrefix", regex_fault(prefix_expression(match.path_prefix)))
    yield from too_many(f"{where}.methods", match.methods, 9)
    for index, method in enumerate(match.methods):
        if not (method.isascii() and method.isalpha() and method.isupper() and len(method) <= 32):
            yield Violation(path=f"{where}.methods[{index}]", reason=f"{shown(method)} is not a method, such as GET")
    yield from too_many(f"{where}.headers", match.headers, 16)
    for index, header in enumerate(match.headers):
        yield from header_match_faults(f"{where}.headers[{index}]", header)
