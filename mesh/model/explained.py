"""What `holdfast explain` asks of agents, and what they answer: one call, seen from the caller's host and the callee's.

Asked over the uplink (`explain-call`, `explain-answer`); computed by mesh.compile.explain.
"""

from typing import Literal

from mesh.model.base import Frozen

VerdictKind = Literal["to", "deny", "redirect", "answer", "fault", "no route", "closed"]
"""`to`: sent on. `answer`: the proxy answers by itself. `closed`: the connection ends without an answer."""


class CallQuestion(Frozen, frozen=True, kw_only=True):
    """An application's call, at its host."""

    name: str
    namespace: str
    """The calling service, as its host defines it."""
    service: str
    service_namespace: str
    port: int = 0
    """0: the only port of that Service that is called here."""
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    host: str = ""


class AnswerQuestion(Frozen, frozen=True, kw_only=True):
    """The same call, at a host that it reaches."""

    service: str
    namespace: str
    port: int
    caller: str
    """SPIFFE id."""
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    host: str = ""


class Reason(Frozen, frozen=True, kw_only=True):
    """One step of the decision."""

    kind: str
    resource: str
    """Type and name in Envoy's configuration."""
    field: str
    said: str
    objects: tuple[str, ...] = ()
    """The objects that the resource was made from."""


class Outcome(Frozen, frozen=True, kw_only=True):
    """One thing that may become of the call."""

    share: float
    """Its probability."""
    verdict: VerdictKind
    service: str = ""
    """`<name>.<namespace>:<port>`, where it is sent to."""
    cluster: str = ""
    route: str = ""
    """`<kind>/<namespace>/<route>/<rule>/<match>`; empty: no route object decided."""
    rule: str = ""
    """The rule that let it in or refused it."""
    status: int = 0
    location: str = ""
    words: str = ""
    """What the caller reads, or why the connection ends."""
    path: str = ""
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """As they are sent on."""
    timeout_seconds: float | None = None
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    per_try_seconds: float | None = None
    delay_seconds: float = 0.0
    mirrors: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    """All objects that had a say in it."""
    reasons: tuple[Reason, ...] = ()


class Reached(Frozen, frozen=True, kw_only=True):
    """An endpoint behind an outcome."""

    service: str
    """As in Outcome.service."""
    instance: str
    node: str
    address: str
    health: str
    service_account: str
    locality: str = ""
    cluster: str = ""
    """The peer whose Service is reached by it; empty: it is of this cluster. Then node and address are those of a
    gateway, of that cluster or of this one, or of an instance on a flat network."""
    sni: str = ""
    """What a peer's Service is called by."""
    identities: tuple[str, ...] = ()
    """SPIFFE ids of a peer: the only ones that may answer."""


class Called(Frozen, frozen=True, kw_only=True):
    """The caller's side."""

    node: str
    spiffe_id: str
    listen: str
    """Where the application connects: a port or socket, or a name and its virtual address."""
    revision: int
    outcomes: tuple[Outcome, ...]
    endpoints: tuple[Reached, ...]
    not_after: float = 0.0
    """End of the certificate that is shown, unix seconds."""


class Answered(Frozen, frozen=True, kw_only=True):
    """The callee's side."""

    node: str
    sni: str
    revision: int
    outcomes: tuple[Outcome, ...]
    spiffe_id: str = ""
    not_after: float = 0.0
