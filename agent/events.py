"""The words of the agent's state machine: events (past tense) and instructions (imperative). Pure.

Structs, not dataclasses: 45 of those would cost every host half a megabyte.
"""

from msgspec import Struct

from mesh.model import Revision

MINIMAL = -1
"""The generation that is always there: an empty world, so that only what the host itself defines is served."""


# --- events: what happened -------------------------------------------------------------------------------------------


class Started(Struct, frozen=True):
    """The agent has read its disk and looked for a running Envoy."""

    identity: bool
    """A node identity is held, valid or expired."""
    generations: int = 0
    """Worlds on disk that can be read, newest first."""
    gate: bool = False
    """This host stands in front of the store: it must serve its gate before anybody, itself included, can follow."""
    envoy: bool = False
    """An Envoy of an earlier run is alive, with whatever configuration it had."""


class Joined(Struct, frozen=True):
    """The node identity is held and on disk."""


class IdentitiesChanged(Struct, frozen=True):
    """Certificates of local services, the gate or the node are new, or roots are."""


class DefinitionsChanged(Struct, frozen=True):
    """services.d says something else."""


class HealthChanged(Struct, frozen=True):
    """An instance passed or failed its check."""


class WorldChanged(Struct, frozen=True):
    """There is a newer world to compile."""

    revision: Revision
    live: bool = True
    """False: it came from disk."""


class Observed(Struct, frozen=True):
    """Nothing changed for this host up to this revision."""

    revision: Revision


class Compiled(Struct, frozen=True):
    revision: Revision
    digest: bytes


class CompileFailed(Struct, frozen=True):
    """A fault of ours; the last good configuration goes on."""

    reason: str


class ProxyConnected(Struct, frozen=True):
    """Envoy opened its stream to us."""


class ProxyDisconnected(Struct, frozen=True):
    """Its last stream closed; it may well go on serving."""


class Acked(Struct, frozen=True):
    """Envoy holds all of it."""

    digest: bytes
    endpoints_only: bool = False
    """Nothing but load assignments had changed, so nothing can be warming because of it."""


class Warmed(Struct, frozen=True):
    """Envoy holds this one and nothing of it is warming."""

    digest: bytes


class Refused(Struct, frozen=True):
    """Envoy refused something of it."""

    digest: bytes
    reason: str


class Withheld(Struct, frozen=True):
    """Not all of it was offered: the rest would be what Envoy has refused already."""

    digest: bytes
    reason: str = ""
    """That refusal's."""


class Stalled(Struct, frozen=True):
    """Envoy has said nothing to this offer for too long; later changes need not wait for it."""

    digest: bytes


class SearchEnded(Struct, frozen=True):
    """The guilty objects of a refusal are known, or it is known that they cannot be found."""

    found: bool


class EnvoyReady(Struct, frozen=True):
    """The process is live."""


class EnvoyGone(Struct, frozen=True):
    """The process ended, or cannot be reached."""


class EnvoyDrains(Struct, frozen=True):
    """Its launcher was told to stop it, and lets it drain first; or, `begun` False, that is over."""

    begun: bool


class EnvoyUnfit(Struct, frozen=True):
    """It crashes again and again with what it was given."""

    reason: str = "Envoy crashes again and again"


class ControlPlaneUp(Struct, frozen=True):
    pass


class ControlPlaneDown(Struct, frozen=True):
    reason: str = ""


class StoreBroken(Struct, frozen=True):
    reason: str = ""


class StoreRestored(Struct, frozen=True):
    pass


class RenewDue(Struct, frozen=True):
    """A certificate has used up its share of life, or is missing."""


class Registered(Struct, frozen=True):
    """The control plane knows our instances as they were when asked."""


class Deregistered(Struct, frozen=True):
    """It knows that we have none, or could not be told in time."""


class Stop(Struct, frozen=True):
    """SIGTERM: the agent leaves and Envoy goes on. With drain: the host leaves the mesh."""

    drain: bool = False


class Beat(Struct, frozen=True):
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
    | EnvoyDrains
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


class Join(Struct, frozen=True):
    """Get a node identity; try until it is there. Answer: Joined."""


class Follow(Struct, frozen=True):
    """Watch the mesh from now on. Answers: WorldChanged, Observed, StoreBroken, StoreRestored."""


class Renew(Struct, frozen=True):
    """Get or renew the certificates that are missing or due. Answer: IdentitiesChanged."""


class UseGeneration(Struct, frozen=True):
    """Take the world from disk. Answer: WorldChanged(live=False)."""

    number: int
    """0 is the newest; MINIMAL is an empty world."""


class Compile(Struct, frozen=True):
    """Compile what is known now. Answer: Compiled or CompileFailed."""


class Publish(Struct, frozen=True):
    """Offer the compiled snapshot to Envoy. Answer: Acked, Refused, Withheld or Stalled."""

    digest: bytes


class AwaitWarm(Struct, frozen=True):
    """Ask Envoy until nothing is warming. Answer: Warmed."""

    digest: bytes


class FindGuilty(Struct, frozen=True):
    """Search what Envoy refused, away from the hot path. Answer: SearchEnded."""

    digest: bytes


class EnsureEnvoy(Struct, frozen=True):
    """Start Envoy, or adopt the one that runs. Answers: EnvoyReady, EnvoyGone, EnvoyUnfit."""


class Register(Struct, frozen=True):
    """Tell the control plane all instances of this host. Answer: Registered."""


class Deregister(Struct, frozen=True):
    """Tell it that there are none; bounded in time. Answer: Deregistered."""


class Save(Struct, frozen=True):
    """Write the world that is in force to disk; coalesced."""


class Report(Struct, frozen=True):
    """What is observed, applied or refused changed; tell whoever listens."""


class StopEnvoy(Struct, frozen=True):
    """Drain Envoy and end it. Answer: EnvoyGone."""


class Exit(Struct, frozen=True):
    """Leave; what must be written is written first."""


class SayAlive(Struct, frozen=True):
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
