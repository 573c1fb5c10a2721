"""The agent's life: events in, instructions out.

Rule 1: every decision about *when* the agent acts lives in this file.
Rule 2: nothing here awaits, reads a clock or opens anything; `runtime` does that.

    joining --Joined--> syncing --applied from the store--> serving <--StoreBroken/Restored--> stale
                           '------applied from disk------------------------------------------> stale
    any --Stop(drain)--> draining

What holds for every order of events (tests/sim/agent): identity before listening, a configuration in force before
registering, at most one compile under way and no change lost meanwhile, nothing refused is offered again to the same
Envoy.
"""

from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from agent import events as ev
from mesh.model import Revision

Phase = Literal["joining", "syncing", "serving", "stale", "draining"]

REFUSALS_KEPT = 64
"""How many refused digests are remembered; older ones have long been replaced by other worlds."""


class State(Struct, frozen=True):
    identity: bool = False
    gate: bool = False
    world: Literal["none", "disk", "live"] = "none"
    generation: int = 0
    """Which world from disk is in use, while `world` is disk."""
    generations: int = 0
    broken: bool = False
    """The store does not answer."""
    controlplane: bool = False
    envoy: Literal["unknown", "starting", "live", "gone"] = "unknown"
    stream: bool = False
    compiling: bool = False
    dirty: bool = False
    """Something changed while a compile or an unanswered offer was under way."""
    failure: str = ""
    """Why the newest world could not be compiled or was refused."""
    observed: Revision = Revision(0)
    offered: bytes = b""
    offered_revision: Revision = Revision(0)
    in_flight: bool = False
    """Envoy has not answered the offer yet."""
    acked: bytes = b""
    acked_revision: Revision = Revision(0)
    applied_digest: bytes = b""
    """In force now; empty when Envoy is gone or was never seen to take anything."""
    applied: Revision = Revision(0)
    refused: tuple[bytes, ...] = ()
    searching: bool = False
    search_next: bytes = b""
    """Refused while a search was under way."""
    fruitless: str = ""
    """The failure for which a search found no object to blame."""
    wants_register: bool = True
    stopping: Literal["", "leave", "drain"] = ""

    @property
    def phase(self) -> Phase:
        if self.stopping:
            return "draining"
        if not self.identity:
            return "joining"
        if not self.applied_digest or self.world == "none" or (self.world, self.generation) == ("disk", ev.MINIMAL):
            return "syncing"
        return "stale" if self.broken or self.world == "disk" else "serving"


Step = tuple[State, tuple[ev.Instruction, ...]]


def handle(state: State, event: ev.Event) -> Step:
    """One event. A Report is added whenever what others can see has changed."""
    before = _visible(state)
    state, out = _dispatch(state, event)
    changed = _visible(state) != before or isinstance(event, ev.IdentitiesChanged | ev.SearchEnded)
    if changed and ev.Report() not in out:
        out = (*out, ev.Report())
    return state, out


def _visible(state: State) -> tuple[object, ...]:
    return (state.phase, state.observed, state.applied, state.applied_digest, state.envoy, state.failure)


def _dispatch(state: State, event: ev.Event) -> Step:  # noqa: PLR0911 - a table
    match event:
        case ev.Started() | ev.Joined() | ev.Stop() | ev.Deregistered():
            return _life(state, event)
        case ev.IdentitiesChanged() | ev.DefinitionsChanged() | ev.HealthChanged() | ev.RenewDue():
            return _host(state, event)
        case ev.EnvoyDrains():
            return _register(replace(state, wants_register=True))  # what is registered says so
        case ev.WorldChanged() | ev.Observed() | ev.Compiled() | ev.CompileFailed():
            return _world(state, event)
        case ev.Acked() | ev.Warmed() | ev.Refused() | ev.Withheld() | ev.Stalled() | ev.SearchEnded():
            return _answer(state, event)
        case ev.ProxyConnected() | ev.ProxyDisconnected() | ev.EnvoyReady() | ev.EnvoyGone() | ev.EnvoyUnfit():
            return _envoy(state, event)
        case ev.ControlPlaneUp() | ev.ControlPlaneDown() | ev.StoreBroken() | ev.StoreRestored() | ev.Registered():
            return _register(_links(state, event))
        case ev.Beat():
            return state, (ev.SayAlive(),)
        case _:
            assert_never(event)


# --- start and stop --------------------------------------------------------------------------------------------------


def _life(state: State, event: ev.Started | ev.Joined | ev.Stop | ev.Deregistered) -> Step:  # noqa: PLR0911 - a table
    match event:
        case ev.Started(identity, generations, gate, envoy):
            state = replace(
                state, identity=identity, generations=generations, gate=gate, envoy="starting" if envoy else "unknown"
            )
            return _begin(state) if identity else (state, (ev.Join(),))
        case ev.Joined():
            if state.identity or state.stopping:
                return state, ()
            return _begin(replace(state, identity=True))
        case ev.Stop(drain=True) if not state.stopping:
            return replace(state, stopping="drain"), (ev.Deregister(),)
        case ev.Stop(drain=True):
            return state, ()
        case ev.Stop():
            return replace(state, stopping="leave"), (ev.Exit(),)
        case ev.Deregistered() if state.stopping == "drain":
            return state, (ev.Exit(),) if state.envoy == "unknown" else (ev.StopEnvoy(),)
        case ev.Deregistered():
            return state, ()
        case _:
            assert_never(event)


def _begin(state: State) -> Step:
    """An identity is held: serve what the disk has, before any network, and follow the mesh."""
    running = state.envoy != "unknown"
    out: tuple[ev.Instruction, ...] = (ev.EnsureEnvoy(),) if running else ()
    if state.generations:
        out = (*out, ev.UseGeneration(0))
    elif state.gate and not running:
        # An Envoy that still runs has a better configuration than an empty world would give it, gate included.
        state, out = replace(state, generation=ev.MINIMAL), (ev.UseGeneration(ev.MINIMAL),)
    return state, (*out, ev.Renew(), ev.Follow())


# --- what the configuration is made from -----------------------------------------------------------------------------


def _host(state: State, event: ev.IdentitiesChanged | ev.DefinitionsChanged | ev.HealthChanged | ev.RenewDue) -> Step:
    match event:
        case ev.IdentitiesChanged():
            return _recompile(replace(state, wants_register=True))
        case ev.DefinitionsChanged():
            # No registration yet: it follows once what serves the new definitions is in force.
            state, out = _recompile(replace(state, wants_register=True))
            return state, (ev.Renew(), *out) if state.identity and not state.stopping else out
        case ev.HealthChanged():
            return _register(replace(state, wants_register=True))
        case ev.RenewDue():
            return state, (ev.Renew(),) if state.identity and not state.stopping else ()
        case _:
            assert_never(event)


def _world(state: State, event: ev.WorldChanged | ev.Observed | ev.Compiled | ev.CompileFailed) -> Step:
    match event:
        case ev.WorldChanged(_, live=False) if state.world == "live":
            return state, ()  # a late word from disk
        case ev.WorldChanged(revision, live):
            return _recompile(replace(state, world="live" if live else "disk", observed=revision))
        case ev.Observed(revision):
            state = replace(state, observed=revision)
            if state.compiling or state.dirty:
                return state, ()
            return _same(state, revision), ()
        case ev.Compiled(revision, digest):
            return _compiled(replace(state, compiling=False), revision, digest)
        case ev.CompileFailed(reason):
            # The same input would fail again; the next change is the next try.
            return _next(replace(state, compiling=False, failure=reason))
        case _:
            assert_never(event)


def _recompile(state: State) -> Step:
    if state.world == "none" or not state.identity:
        return state, ()  # identity before listening
    if state.compiling or state.in_flight:
        return replace(state, dirty=True), ()
    return replace(state, compiling=True, dirty=False), (ev.Compile(),)


def _next(state: State) -> Step:
    """What waited for a compile or an answer goes out now."""
    return _recompile(state) if state.dirty else (state, ())


def _same(state: State, revision: Revision) -> State:
    """Nothing changes for Envoy up to this revision, so what it said of its configuration stands for it."""
    if state.offered in state.refused:
        return state
    applied = revision if state.applied_digest and state.applied_digest == state.offered else state.applied
    return replace(state, offered_revision=revision, applied=applied)


def _compiled(state: State, revision: Revision, digest: bytes) -> Step:
    out: tuple[ev.Instruction, ...] = ()
    if not state.dirty:
        revision = state.observed  # nothing changed between what was compiled and this
    if digest in state.refused:
        pass  # refused input is never resent unchanged; `failure` still says why
    elif digest == state.offered:
        state = replace(_same(state, revision), failure="")
        if state.world == "live" and state.applied_digest == digest:
            out = (ev.Save(),)  # nothing for Envoy, but the world on disk should not fall far behind
    else:
        state = replace(state, offered=digest, offered_revision=revision, in_flight=state.stream, failure="")
        out = (ev.Publish(digest),)
    if state.envoy == "unknown" and not state.stopping:
        state = replace(state, envoy="starting")
        out = (*out, ev.EnsureEnvoy())
    state, more = _next(state)
    return state, (*out, *more)


# --- what Envoy says to it -------------------------------------------------------------------------------------------


def _answer(  # noqa: PLR0911 - a table
    state: State, event: ev.Acked | ev.Warmed | ev.Refused | ev.Withheld | ev.Stalled | ev.SearchEnded
) -> Step:
    match event:
        case ev.Acked(digest, endpoints_only):
            return _acked(state, digest, endpoints_only=endpoints_only)
        case ev.Warmed(digest) if digest != state.acked or digest in state.refused:
            return state, ()  # while a hot restart has two Envoys, one may refuse what the other took
        case ev.Warmed(digest):
            revision = state.offered_revision if digest == state.offered else state.acked_revision
            if (digest, revision) == (state.applied_digest, state.applied):
                return state, ()
            return _applied(state, digest, revision)
        case ev.Refused(digest, reason):
            return _refused(state, digest, reason)
        case ev.Withheld(digest, reason):
            return _withheld(state, digest, reason)
        case ev.Stalled(digest):
            return _next(replace(state, in_flight=state.in_flight and digest != state.offered))
        case ev.SearchEnded(found=True):
            return _recompile(replace(state, searching=False, search_next=b""))
        case ev.SearchEnded():
            again = state.search_next
            state = replace(state, searching=bool(again), search_next=b"", fruitless=state.failure)
            return state, (ev.FindGuilty(again),) if again else ()
        case _:
            assert_never(event)


def _acked(state: State, digest: bytes, *, endpoints_only: bool) -> Step:
    if digest != state.offered or digest in state.refused:
        return state, ()  # a late answer about an older offer
    # Load assignments warm nothing; but what was acknowledged before them may still be warming.
    warm = endpoints_only and bool(state.acked) and state.acked == state.applied_digest
    state = replace(state, in_flight=False, acked=digest, acked_revision=state.offered_revision)
    state, out = _applied(state, digest, state.offered_revision) if warm else (state, (ev.AwaitWarm(digest),))
    state, more = _next(state)
    return state, (*out, *more)


def _applied(state: State, digest: bytes, revision: Revision) -> Step:
    state = replace(state, applied_digest=digest, applied=revision)
    saved: tuple[ev.Instruction, ...] = (ev.Save(),) if state.world == "live" else ()
    state, out = _register(state)
    return state, (*saved, *out)


def _refused(state: State, digest: bytes, reason: str) -> Step:
    if digest in state.refused:
        return state, ()
    # Also when a newer one is offered by now: whatever of the refused one is still in it is held back from Envoy.
    state = replace(state, in_flight=False, refused=(*state.refused, digest)[-REFUSALS_KEPT:], failure=reason)
    if state.world == "disk":
        # There is no newer world to correct it, and what was accepted before is not known any more.
        return _older(state)
    if state.searching:
        state, out = _next(replace(state, search_next=digest))
        return state, out
    state, out = _next(replace(state, searching=True))
    return state, (ev.FindGuilty(digest), *out)


def _withheld(state: State, digest: bytes, reason: str) -> Step:
    """No answer will come. What holds it back is searched, unless that was in vain already."""
    if digest != state.offered or digest in state.refused:
        return state, ()
    state = replace(state, in_flight=False, failure=reason)
    if state.world == "disk":
        return _older(state)
    if state.searching or reason == state.fruitless:
        return _next(state)
    state, out = _next(replace(state, searching=True))
    return state, (ev.FindGuilty(digest), *out)


def _older(state: State) -> Step:
    """Envoy cannot live with the world from disk: the one before it, and at last only what the host itself defines."""
    if state.world != "disk" or state.generation == ev.MINIMAL:
        return state, ()
    following = state.generation + 1
    number = following if following < state.generations else ev.MINIMAL
    return replace(state, generation=number), (ev.UseGeneration(number),)


# --- Envoy's process and its stream ----------------------------------------------------------------------------------


def _envoy(
    state: State,
    event: ev.ProxyConnected | ev.ProxyDisconnected | ev.EnvoyReady | ev.EnvoyGone | ev.EnvoyUnfit,
) -> Step:
    match event:
        case ev.ProxyConnected():
            return replace(state, stream=True), ()
        case ev.ProxyDisconnected():
            return _next(replace(state, stream=False, in_flight=False))
        case ev.EnvoyReady():
            return _register(replace(state, envoy="live"))
        case ev.EnvoyGone():
            return _gone(state)
        case ev.EnvoyUnfit(reason):
            return _older(replace(state, failure=reason))
        case _:
            assert_never(event)


def _gone(state: State) -> Step:
    """Nothing is in force in a process that is not there; a new one judges everything anew."""
    known = state.envoy != "unknown"
    state = replace(
        state,
        envoy="gone" if known else "unknown",
        in_flight=False,
        acked=b"",
        applied_digest=b"",
        refused=(),
        fruitless="",
    )
    if state.stopping == "drain":
        return state, (ev.Exit(),)
    state, out = _next(state)
    return state, (ev.EnsureEnvoy(), *out) if known and not state.stopping else out


# --- links -----------------------------------------------------------------------------------------------------------


def _register(state: State) -> Step:
    """A configuration in force before registering; and never again once the host is leaving."""
    ready = state.controlplane and state.envoy == "live" and state.applied_digest and not state.stopping
    if not (state.wants_register and ready):
        return state, ()
    return replace(state, wants_register=False), (ev.Register(),)


def _links(
    state: State,
    event: ev.ControlPlaneUp | ev.ControlPlaneDown | ev.StoreBroken | ev.StoreRestored | ev.Registered,
) -> State:
    match event:
        case ev.ControlPlaneUp():
            # It may have lost what it knew of us, or be another one: say it again.
            return replace(state, controlplane=True, wants_register=True)
        case ev.ControlPlaneDown():
            return replace(state, controlplane=False)
        case ev.StoreBroken():
            return replace(state, broken=True)
        case ev.StoreRestored():
            return replace(state, broken=False)
        case ev.Registered():
            return state
        case _:
            assert_never(event)
