"""What becomes of a request or a connection, and why: the words of the answer."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

Headers = tuple[tuple[str, str], ...]
"""In order; a name may repeat. Names are in lower case. Bytes that are not UTF-8 are surrogate escapes."""

Kind = Literal[
    "listener",
    "filter chain",
    "tls",
    "network filter",
    "request",
    "virtual host",
    "route",
    "cluster",
    "filter",
    "reply",
]

Action = Literal["append", "add-if-absent", "overwrite", "overwrite-if-exists"]


class Unsupported(ValueError):  # noqa: N818 - a state of what was asked
    """The configuration, or the request, has something that is not simulated: an answer would be a guess."""

    def __init__(self, field: str, why: str = "") -> None:
        super().__init__(f"{field} is not simulated{': ' if why else ''}{why}")
        self.field = field
        """Message and field, as in Envoy's documentation."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision on the way."""

    kind: Kind
    resource: str
    """Type and name, as `rds outbound|80|api.shop|shop/web`; empty where no resource decided."""
    field: str
    """Path in it."""
    said: str
    decided: bool = True
    """False: it was tried, and passed over."""


@dataclass(frozen=True, slots=True)
class Change:
    """One header to add or set."""

    name: str
    value: str
    action: Action


@dataclass(frozen=True, slots=True)
class Edits:
    """What one level of the configuration does to headers: first it removes, then it overwrites, then it adds."""

    where: str
    remove: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed try is repeated, and how often."""

    on: tuple[str, ...]
    retries: int
    per_try_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class To:
    """Sent on. Of a TCP connection only the cluster is told."""

    cluster: str
    path: str = ""
    """As the cluster gets it, with its query."""
    host: str = ""
    headers: Headers = ()
    """As the cluster gets them, without `host` and without those that the proxy makes (see `PROXY_MADE`)."""
    route: str = ""
    """The route's own name, if it has one."""
    rule: str = ""
    """The rule that let it in, if any was asked."""
    timeout: float | None = None
    """Seconds for the whole answer; None: no limit."""
    stream_limit: float | None = None
    """Seconds for both directions together; None: no limit of the route's own."""
    retry: Retry | None = None
    hashed_by: tuple[str, ...] = ()
    """What chooses among the cluster's hosts, if the cluster hashes. (A cookie that is missing may be set: the answer's
    `set-cookie` is not foretold.)"""
    mirrors: tuple[str, ...] = ()
    """Clusters that get a copy."""
    delay: float = 0.0
    """Seconds that the fault filter holds it back."""
    limits: tuple[str, ...] = ()
    """Rate limits that apply. They are not counted here: a full bucket is assumed."""
    response: tuple[Edits, ...] = ()
    """What is done to the answer's headers, in this order (see `edited`)."""
    cors: Headers = ()
    """Headers that the CORS filter sets in the answer, after that."""
    trace: tuple[Step, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """An answer by the proxy itself."""

    status: int
    """Of HTTP. To a gRPC request it is sent as 200 with `grpc_status`."""
    grpc_status: int | None = None
    """None: the request was not gRPC."""
    response: tuple[Edits, ...] = ()
    cors: Headers = ()
    trace: tuple[Step, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny(_Reply):
    """Refused by a rule. Status 0: a TCP connection, which is closed."""

    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect(_Reply):
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct(_Reply):
    """A fixed answer: the configuration's, or the proxy's to what it cannot send on."""

    body: str = ""
    headers: Headers = ()
    """Of the answer, beside those that every answer has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(_Reply):
    """An injected failure."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRoute(_Reply):
    """No route is for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The connection ends without an answer."""

    reason: str
    trace: tuple[Step, ...] = field(default=(), repr=False)


Verdict = To | Deny | Redirect | Direct | Fault | NoRoute | Closed


@dataclass(frozen=True, slots=True)
class Share:
    probability: Fraction
    verdict: Verdict


PROXY_MADE = frozenset(
    {"x-request-id", "x-forwarded-client-cert", "x-envoy-external-address", "x-envoy-expected-rq-timeout-ms"}
)
"""Headers with values of the proxy's own making (random, an address, a certificate's): not foretold. The first is
left alone if the caller sent one."""
