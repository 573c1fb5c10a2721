"""What an agent tells the control plane, and hears from it: registration and the uplink's messages.

The uplink is one WebSocket per agent to any control-plane node (GET /v1/uplink): JSON text frames. An agent sends `Up`,
`hello` first, then a `report` on each change; it hears `Down`, whose `ask` it answers with an `answer` of the same id.
That it is open is the heartbeat; the server pings, and a peer that does not answer is cut.
"""

from typing import Any, Literal

from mesh.model.base import Frozen
from mesh.model.instance import Instance


class RegisterRequest(Frozen, frozen=True, kw_only=True):
    """POST /v1/register, with the node's certificate: all instances of this host, whole. What is missing is removed."""

    instances: tuple[Instance, ...]


class RegisterAnswer(Frozen, frozen=True, kw_only=True):
    revision: int
    refused: dict[str, str] = {}
    """Instance name -> reason; the others are registered."""
    notes: dict[str, str] = {}
    """Instance name -> why a Service does not take it as an endpoint, though it is registered."""


class Rejected(Frozen, frozen=True, kw_only=True):
    """An object that Envoy refused; what is in force for it instead."""

    object: str
    reason: str
    in_force: str = "nothing"
    """`nothing`, `last accepted version` or `deny all`."""


class SvidStatus(Frozen, frozen=True, kw_only=True):
    spiffe_id: str
    serial: str
    not_before: float
    not_after: float


class Report(Frozen, frozen=True, kw_only=True):
    """Sent on change and once after connecting: a few at once, then one a second at most."""

    node: str
    version: str = ""
    phase: str = "joining"
    """joining, syncing, serving, stale, draining."""
    observed: int = 0
    """Newest revision the agent has seen."""
    applied: int = 0
    """Newest revision that is in force in Envoy: acknowledged, and nothing warming."""
    epoch: str = ""
    envoy: str = "down"
    """down, starting, live."""
    envoy_version: str = ""
    failure: str = ""
    """Why the newest revision is not in force: it could not be compiled, or Envoy refused it."""
    rejected: tuple[Rejected, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What does no harm yet: limits of the host that are too low, an address that is not its own."""
    svids: tuple[SvidStatus, ...] = ()
    resources: dict[str, int] = {}
    """Short type name (cds, eds, lds, rds, sds) -> how many the proxy holds."""
    held: str = ""
    """Why a mass deletion is held back, if one is."""
    started: float = 0.0
    """Unix seconds."""
    locality: str = ""
    """Where the host says that it is; its Node's comes first."""
    maintenance: float = 0.0
    """Since when the host is out of service by an operator's word, in Unix seconds; 0: it is not."""


class Hello(Frozen, frozen=True, kw_only=True):
    """The first frame: who speaks. The node must be that of the client certificate."""

    node: str
    version: str = ""


class Ask(Frozen, frozen=True, kw_only=True):
    """The control plane wants something of this agent now."""

    id: int
    what: str
    """`config`: the proxy's configuration as Envoy tells it. `plan`: what a change would do to it; `judge`: would Envoy
    take it? `explain-call`, `explain-answer`: what would become of a call (mesh.model.explained)? `dump`: all that
    is known of the host, as `holdfast-agent debug dump` packs it. `drain`, `undrain`,
    `drained`: take the host out of service, put it back, how far is that? An agent answers what it does not know with
    an error."""
    body: str = ""
    """JSON text. Of `plan` and `judge`: a Proposal. Agents that do not know it pass it over."""


class Answer(Frozen, frozen=True, kw_only=True):
    id: int
    body: str = ""
    """JSON text."""
    error: str = ""


class Up(Frozen, frozen=True, kw_only=True):
    """One frame from an agent: exactly one of these."""

    hello: Hello | None = None
    report: Report | None = None
    answer: Answer | None = None


class Down(Frozen, frozen=True, kw_only=True):
    """One frame to an agent. Unknown content is ignored, so that newer control planes may say more."""

    ask: Ask | None = None


class Proposed(Frozen, frozen=True, kw_only=True):
    """An object as it would be stored; without one, it would be deleted."""

    kind: str
    namespace: str = ""
    name: str
    object: dict[str, Any] | None = None


class Proposal(Frozen, frozen=True, kw_only=True):
    """A change that is not written: all of it would be one transaction."""

    objects: tuple[Proposed, ...]
    limit: int = 2000
    """Resources that the answer names; the rest is counted."""


class ResourceChange(Frozen, frozen=True, kw_only=True):
    type: str
    """cds, eds, lds, rds, sds."""
    name: str
    action: Literal["add", "change", "remove"]
    before: str = ""
    """Versions by content."""
    after: str = ""


class Planned(Frozen, frozen=True, kw_only=True):
    """The answer to `plan`."""

    revision: int
    """Of the world that the change was compared with."""
    changes: tuple[ResourceChange, ...] = ()
    more: int = 0
    """Changes that are not named."""
    problems: tuple[str, ...] = ()
    """What could not be compiled as asked, and was well before."""


class Judged(Frozen, frozen=True, kw_only=True):
    """The answer to `judge`."""

    refused: str = ""
    """Envoy's words; empty: it takes the change."""
    objects: dict[str, str] = {}
    """Guilty object -> why, where they could be found."""
    problems: tuple[str, ...] = ()


MAX_FRAME_BYTES = 16 * 1024 * 1024
"""A configuration dump of a large proxy is the largest frame."""
MAX_ASK_BYTES = 4 * 1024 * 1024
"""Of a frame to an agent."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Of an answer's body: within its frame each quote is escaped."""
