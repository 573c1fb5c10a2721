"""What a TrafficPolicy says, field by field. Whether it is sound is judged beside the kind (trafficpolicy)."""

from typing import Literal

from mesh.model.base import Frozen
from mesh.model.routing import HeaderMatch

MAX_COUNT = 10_000_000
MAX_SUBSETS = MAX_LIMITS = MAX_FAULTS = 16


class PolicyTarget(Frozen, frozen=True, kw_only=True):
    service: str
    """A Service of the policy's namespace."""
    port: int = 0
    """One of its ports; 0: all. A policy for the port comes before one for all."""


class HashCookie(Frozen, frozen=True, kw_only=True):
    name: str
    ttl: str = ""
    """The proxy sets a cookie that is missing, for so long; 0s: for the session. Empty: it sets none."""
    path: str = "/"


class HashKey(Frozen, frozen=True, kw_only=True):
    """Exactly one."""

    header: str = ""
    cookie: HashCookie | None = None
    source: bool = False
    """The address of whoever calls on this host."""


class SlowStart(Frozen, frozen=True, kw_only=True):
    """A new endpoint gets its share by and by. With RoundRobin and LeastRequest."""

    window: str
    aggression: float = 1.0
    min_weight_percent: int = 10


class LoadBalancing(Frozen, frozen=True, kw_only=True):
    algorithm: Literal["RoundRobin", "LeastRequest", "Random", "RingHash", "Maglev"] = "RoundRobin"
    choices: int = 2
    """LeastRequest: of so many at random, the least busy."""
    hash: tuple[HashKey, ...] = ()
    """RingHash, Maglev: what requests of one caller have in common. All that are there count together.

    A request that a route shares out among several Services is hashed once, by the keys of all of them. A connection of
    TCP has its source only. Both find an endpoint in Maglev's table: when endpoints come or go, the keys of the others
    stay where they are, but for one or two in a hundred at most.
    """
    slow_start: SlowStart | None = None
    panic_percent: int = 0
    """If fewer endpoints than this are healthy, all are tried, healthy or not. 0: never to one that says it is not."""


class LocalityWeight(Frozen, frozen=True, kw_only=True):
    locality: str
    """`region`, `region/zone` or `region/zone/subzone`: all places in it together."""
    weight: int
    """0: nothing goes there, whatever else fails."""


class Locality(Frozen, frozen=True, kw_only=True):
    """Where calls go first. An endpoint's place is `region/zone/subzone`, as its host says.

    A TCPRoute's shares come before all of this: of each backend the nearest healthy endpoints get its share, whole.
    """

    prefer: bool = True
    """Nearest first: same subzone, zone, region, then the rest; farther ones as nearer ones are not healthy."""
    strict: bool = False
    """Never beyond the caller's region. A caller whose host says no place reaches endpoints that say none."""
    failover: tuple[str, ...] = ()
    """Places in the order in which they are tried once the preferred ones are not enough; others come last. Without
    `prefer`, those are preferred that `weights` names."""
    weights: tuple[LocalityWeight, ...] = ()
    """Shares among places that are equally near or equally far; a place that is not named weighs 1. Of several that a
    place is in, the most special counts."""


class CircuitBreaking(Frozen, frozen=True, kw_only=True):
    """Of one proxy, towards the Service. What is over a bound is answered 503 at once. 0: the mesh's default."""

    max_connections: int = 0
    max_pending_requests: int = 0
    max_requests: int = 0
    max_retries: int = 0
    max_requests_per_connection: int = 0


class OutlierDetection(Frozen, frozen=True, kw_only=True):
    """An endpoint that fails is left out for a while, by this proxy alone. 0 turns a criterion off."""

    consecutive_errors: int = 0
    """Answers 5xx in a row."""
    consecutive_gateway_errors: int = 5
    """502, 503, 504, and failures to reach it, in a row."""
    consecutive_connect_failures: int = 3
    interval: str = "2s"
    base_ejection: str = "5s"
    max_ejection: str = "60s"
    max_ejection_percent: int = 75


class Timeouts(Frozen, frozen=True, kw_only=True):
    connect: str = ""
    idle: str = ""
    """A connection on which nothing moves: with HTTP between proxies, with TCP the caller's own. A change of it closes
    the open ones of TCP."""
    request: str = ""
    """The whole request, with all tries. 0s: without limit."""


class TcpKeepalive(Frozen, frozen=True, kw_only=True):
    idle: str = "30s"
    interval: str = "5s"
    probes: int = 3


class RetryBudget(Frozen, frozen=True, kw_only=True):
    """Retries never exceed this share of what is under way."""

    percent: float = 20.0
    min_concurrent: int = 3


RetryCondition = Literal[
    "connect-failure", "refused-stream", "reset", "reset-before-request", "gateway-error", "5xx", "retriable-4xx",
    "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
]  # fmt: skip


class Retries(Frozen, frozen=True, kw_only=True):
    attempts: int = 2
    """Tries after the first; 0: none."""
    retry_on: tuple[RetryCondition, ...] = ()
    """Besides those in which nobody has seen the request. They apply to requests that may be repeated only; gRPC's own
    (the last five) to all of its calls."""
    statuses: tuple[int, ...] = ()
    """Also on these statuses, for requests that may be repeated."""
    per_try: str = ""
    """One try."""
    backoff: str = ""
    """The least pause between tries; it doubles, with jitter, up to ten times itself."""
    budget: RetryBudget | None = None


class ClientHealthCheck(Frozen, frozen=True, kw_only=True):
    """Each calling proxy looks for itself, besides what hosts say of themselves.

    Through mTLS, as a call of the application that runs there: who may not call finds nobody healthy. `tcp` sees the
    callee's proxy alone; `http` wants 2xx of the path, `grpc` SERVING of the empty service name.
    Ports of other protocols are not asked.
    """

    type: Literal["tcp", "http", "grpc"] = "tcp"
    path: str = "/"
    interval: str = "5s"
    timeout: str = "1s"
    healthy_threshold: int = 1
    unhealthy_threshold: int = 2


class Subset(Frozen, frozen=True, kw_only=True):
    """Some of the Service's instances, by their labels. A route names it as backend `<service>.<subset>` of kind
    ServiceSubset, group holdfast.dev.
    """

    name: str
    labels: dict[str, str]


class RequestMatch(Frozen, frozen=True, kw_only=True):
    """All of it must match; empty: every request."""

    path_prefix: str = ""
    methods: tuple[str, ...] = ()
    headers: tuple[HeaderMatch, ...] = ()


class RateLimit(Frozen, frozen=True, kw_only=True):
    """So many requests in a time; what is over is answered 429. Counted at each instance for itself.

    Those by caller are asked before those of all, and narrower ones before wider ones.
    """

    name: str
    requests: int
    window: str = "1s"
    burst: int = 0
    """At most so many at once; 0: as many as `requests`."""
    by: Literal["Instance", "Caller"] = "Instance"
    """All callers together, or each calling identity for itself."""
    match: RequestMatch = RequestMatch()


class FaultDelay(Frozen, frozen=True, kw_only=True):
    duration: str
    percent: float = 100.0


class FaultAbort(Frozen, frozen=True, kw_only=True):
    status: int = 0
    """HTTP status; or"""
    grpc_status: int | None = None
    percent: float = 100.0


class Fault(Frozen, frozen=True, kw_only=True):
    """Injected by the calling proxy. Of several, the first that matches a request."""

    name: str
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    callers: tuple[str, ...] = ()
    """Identities, as in an AuthorizationPolicy. Empty: everybody."""
    match: RequestMatch = RequestMatch()


class TrafficPolicySpec(Frozen, frozen=True, kw_only=True):
    target: PolicyTarget
    load_balancing: LoadBalancing | None = None
    locality: Locality | None = None
    circuit_breaking: CircuitBreaking | None = None
    outlier_detection: OutlierDetection | None = None
    timeouts: Timeouts = Timeouts()
    tcp_keepalive: TcpKeepalive | None = None
    retries: Retries | None = None
    health_check: ClientHealthCheck | None = None
    subsets: tuple[Subset, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()
    faults: tuple[Fault, ...] = ()
