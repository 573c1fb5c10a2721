"""The words of the agent's state machine: events (past tense) and instructions (imperative). Pure."""

from dataclasses import dataclass

from mesh.model import Revision

MINIMAL = -1
"""The generation that is always there: an empty world, so that only what the host itself defines is served."""


# --- events: what happened -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The agent has read its disk and looked for a running Envoy."""

    identity: bool
    """A node identity is held, valid or expired."""
    generations: int = 0
    """Worlds on disk that can be read, newest first."""
    gate: bool = False
    """This host stands in front of the store: it must serve its gate before anybody, itself included, can follow."""
    envoy: bool = False
    """An Envoy of an earlier run is alive, with whatever configuration it had."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The node identity is held and on disk."""


@dataclass(frozen=True, slots=True)
class IdentitiesChanged:
    """Certificates of local services, the gate or the node are new, or roots are."""


@dataclass(frozen=True, slots=True)
class DefinitionsChanged:
    """services.d says something else."""


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """An instance passed or failed its check."""


@dataclass(frozen=True, slots=True)
class WorldChanged:
    """There is a newer world to compile."""

    revision: Revision
    live: bool = True
    """False: it came from disk."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Nothing changed for this host up to this revision."""

    revision: Revision


@dataclass(frozen=True, slots=True)
class Compiled:
    revision: Revision
    digest: bytes


@dataclass(frozen=True, slots=True)
class CompileFailed:
    """A fault of ours; the last good configuration goes on."""

    reason: str


@dataclass(frozen=True, slots=True)
class ProxyConnected:
    """Envoy opened its stream to us."""


@dataclass(frozen=True, slots=True)
class ProxyDisconnected:
    """Its last stream closed; it may well go on serving."""


@dataclass(frozen=True, slots=True)
class Acked:
    """Envoy holds all of it."""

    digest: bytes
    endpoints_only: bool = False
    """Nothing but load assignments had changed, so nothing can be warming because of it."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """Envoy holds this one and nothing of it is warming."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """Envoy refused something of it."""

    digest: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """Not all of it was offered: the rest would be what Envoy has refused already."""

    digest: bytes
    reason: str = ""
    """That refusal's."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """Envoy has said nothing to this offer for too long; later changes need not wait for it."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """The guilty objects of a refusal are known, or it is known that they cannot be found."""

    found: bool


@dataclass(frozen=True, slots=True)
class EnvoyReady:
    """The process is live."""


@dataclass(frozen=True, slots=True)
class EnvoyGone:
    """The process ended, or cannot be reached."""


@dataclass(frozen=True, slots=True)
class EnvoyUnfit:
    """It crashes again and again with what it was given."""

    reason: str = "Envoy crashes again and again"


@dataclass(frozen=True, slots=True)
class ControlPlaneUp:
    pass


@dataclass(frozen=True, slots=True)
class ControlPlaneDown:
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StoreBroken:
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StoreRestored:
    pass


@dataclass(frozen=True, slots=True)
class RenewDue:
    """A certificate has used up its share of life, or is missing."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The control plane knows our instances as they were when asked."""


@dataclass(frozen=True, slots=True)
class Deregistered:
    """It knows that we have none, or could not be told in time."""


@dataclass(frozen=True, slots=True)
class Stop:
    """SIGTERM: the agent leaves and Envoy goes on. With drain: the host leaves the mesh."""

    drain: bool = False


@dataclass(frozen=True, slots=True)
class Beat:
    """Time went by, and somebody wants to know whether the agent goes with it."""


Event = (
    Started
    | Joined
    | IdentitiesChanged
    | DefinitionsChanged
    | HealthChanged
    | WorldChanged
    | Observed
    | Compiled
    | CompileFailed
    | ProxyConnected
    | ProxyDisconnected
    | Acked
    | Warmed
    | Refused
    | Withheld
    | Stalled
    | SearchEnded
    | EnvoyReady
    | EnvoyGone
    | EnvoyUnfit
    | ControlPlaneUp
    | ControlPlaneDown
    | StoreBroken
    | StoreRestored
    | RenewDue
    | Registered
    | Deregistered
    | Stop
    | Beat
)


# --- instructions: what to do ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Join:
    """Get a node identity; try until it is there. Answer: Joined."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Watch the mesh from now on. Answers: WorldChanged, Observed, StoreBroken, StoreRestored."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Get or renew the certificates that are missing or due. Answer: IdentitiesChanged."""


@dataclass(frozen=True, slots=True)
class UseGeneration:
    """Take the world from disk. Answer: WorldChanged(live=False)."""

    number: int
    """0 is the newest; MINIMAL is an empty world."""


@dataclass(frozen=True, slots=True)
class Compile:
    """Compile what is known now. Answer: Compiled or CompileFailed."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Offer the compiled snapshot to Envoy. Answer: Acked, Refused, Withheld or Stalled."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class AwaitWarm:
    """Ask Envoy until nothing is warming. Answer: Warmed."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class FindGuilty:
    """Search what Envoy refused, away from the hot path. Answer: SearchEnded."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class EnsureEnvoy:
    """Start Envoy, or adopt the one that runs. Answers: EnvoyReady, EnvoyGone, EnvoyUnfit."""


@dataclass(frozen=True, slots=True)
class Register:
    """Tell the control plane all instances of this host. Answer: Registered."""


@dataclass(frozen=True, slots=True)
class Deregister:
    """Tell it that there are none; bounded in time. Answer: Deregistered."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write the world that is in force to disk; coalesced."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is observed, applied or refused changed; tell whoever listens."""


@dataclass(frozen=True, slots=True)
class StopEnvoy:
    """Drain Envoy and end it. Answer: EnvoyGone."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Leave; what must be written is written first."""


@dataclass(frozen=True, slots=True)
class SayAlive:
    """The answer to a beat."""


Instruction = (
    Join
    | Follow
    | Renew
    | UseGeneration
    | Compile
    | Publish
    | AwaitWarm
    | FindGuilty
    | EnsureEnvoy
    | Register
    | Deregister
    | Save
    | Report
    | StopEnvoy
    | Exit
    | SayAlive
)
