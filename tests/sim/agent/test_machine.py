"""Every order of events keeps the promises that agent.machine makes at its top."""

import random
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import events as ev
from agent.machine import State, handle
from mesh.model import Revision


@dataclass
class Host:
    """A world around the machine: it answers instructions as the runtime would, in any order it likes."""

    state: State = field(default_factory=State)
    revision: int = 1
    config: bytes = b"c0"
    """What the newest world compiles to."""
    compiling: bool = False
    inputs: tuple[int, bytes] = (0, b"")
    """Revision and configuration of the compile that is under way."""
    compiled_any: bool = False
    offered: list[bytes] = field(default_factory=list)
    refused: set[bytes] = field(default_factory=set)
    adopted: bool = False
    stopped: bool = False
    exited: bool = False
    draining: bool = False
    searching: int = 0
    warm_asked: list[bytes] = field(default_factory=list)
    applied_once: bool = False
    out: list[ev.Instruction] = field(default_factory=list)

    def feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.Compiled | ev.CompileFailed):
            assert self.compiling
            self.compiling = False
            self.compiled_any = self.compiled_any or isinstance(event, ev.Compiled)
        if isinstance(event, ev.EnvoyGone):
            self.refused.clear()
        if isinstance(event, ev.Refused):
            self.refused.add(event.digest)
        if isinstance(event, ev.SearchEnded):
            self.searching -= 1
        if isinstance(event, ev.Stop):
            self.stopped = True
        before = self.state
        self.state, out = handle(self.state, event)
        for instruction in out:
            self.check(instruction, before)
        self.out.extend(out)
        self.invariants()

    def check(self, instruction: ev.Instruction, before: State) -> None:
        match instruction:
            case ev.Compile():
                assert not self.compiling, "two compiles at once"
                assert self.state.identity, "identity before listening"
                self.compiling = True
                self.inputs = (self.revision, self.config)
            case ev.Publish(digest):
                assert digest not in self.refused, "refused input was offered again"
                assert digest != before.offered, "the same was offered twice in a row"
                self.offered.append(digest)
            case ev.EnsureEnvoy():
                assert self.state.identity
                assert self.compiled_any or self.adopted, "nothing to serve yet"
                assert not self.stopped
            case ev.Register():
                assert self.state.applied_digest, "a configuration in force before registering"
                assert self.state.envoy == "live"
                assert self.state.controlplane
                assert not self.stopped, "a host that leaves registers again"
            case ev.FindGuilty():
                self.searching += 1
                assert self.searching == 1, "two searches at once"
            case ev.AwaitWarm(digest):
                self.warm_asked.append(digest)
            case ev.Exit():
                assert self.stopped, "left without being told to"
                self.exited = True
            case ev.StopEnvoy():
                assert self.state.stopping == "drain"
            case ev.Save():
                assert self.state.world == "live"
                assert self.state.applied_digest
            case _:
                pass

    def invariants(self) -> None:
        state = self.state
        assert state.compiling == self.compiling
        if state.phase == "serving":
            assert state.identity
            assert state.applied_digest
            assert state.world == "live"
            assert not state.broken
        assert not (state.applied_digest and state.applied_digest in state.refused)
        if state.dirty and not self.exited:
            assert state.compiling or state.in_flight, "a change waits for nothing"


STEPS = st.lists(
    st.sampled_from(
        [
            "join", "identities", "definitions", "health", "world", "world-new", "world-back", "observed",
            "compiled", "failed", "connected", "disconnected", "acked", "acked-eds", "warmed", "refused", "refused-old",
            "withheld", "stalled", "found", "not-found", "ready", "gone", "unfit", "cp-up", "cp-down", "broken",
            "restored", "renew", "registered", "deregistered", "stop", "drain",
        ]
    ),
    max_size=60,
)  # fmt: skip


def step(host: Host, name: str) -> None:
    match name:
        case "join":
            host.feed(ev.Joined())
        case "identities":
            host.config += b"i"
            host.feed(ev.IdentitiesChanged())
        case "definitions":
            host.config += b"d"
            host.feed(ev.DefinitionsChanged())
        case "health":
            host.feed(ev.HealthChanged())
        case "world" | "world-new":
            host.revision += 1
            host.config += b"w" if name == "world-new" else b""
            host.feed(ev.WorldChanged(Revision(host.revision)))
        case "world-back" if host.refused:
            # Somebody undid and redid what Envoy refused.
            host.revision += 1
            host.config = min(host.refused)
            host.feed(ev.WorldChanged(Revision(host.revision)))
        case "observed":
            host.revision += 1
            host.feed(ev.Observed(Revision(host.revision)))
        case "compiled" if host.compiling:
            revision, config = host.inputs
            host.feed(ev.Compiled(Revision(revision), config))
        case "failed" if host.compiling:
            host.feed(ev.CompileFailed("fault"))
        case "connected":
            host.feed(ev.ProxyConnected())
        case "disconnected":
            host.feed(ev.ProxyDisconnected())
        case "acked" | "acked-eds" if host.offered and host.offered[-1] not in host.refused:
            host.feed(ev.Acked(host.offered[-1], endpoints_only=name == "acked-eds"))
        case "warmed" if host.warm_asked:
            host.feed(ev.Warmed(host.warm_asked[-1]))
        case "refused" if host.offered and host.offered[-1] != host.state.applied_digest:
            host.feed(ev.Refused(host.offered[-1], "no"))
        case "refused-old" if len(host.offered) > 1 and host.offered[-2] != host.state.applied_digest:
            host.feed(ev.Refused(host.offered[-2], "no"))
        case "withheld" if host.refused and host.offered and host.offered[-1] not in host.refused:
            host.feed(ev.Withheld(host.offered[-1], "no"))
        case "stalled" if host.offered:
            host.feed(ev.Stalled(host.offered[-1]))
        case "found" if host.searching:
            host.config += b"q"
            host.feed(ev.SearchEnded(found=True))
        case "not-found" if host.searching:
            host.feed(ev.SearchEnded(found=False))
        case "ready" if any(isinstance(o, ev.EnsureEnvoy) for o in host.out):
            host.feed(ev.EnvoyReady())
        case "gone" if any(isinstance(o, ev.EnsureEnvoy) for o in host.out):
            host.feed(ev.EnvoyGone())
        case "unfit":
            host.feed(ev.EnvoyUnfit())
        case "cp-up":
            host.feed(ev.ControlPlaneUp())
        case "cp-down":
            host.feed(ev.ControlPlaneDown())
        case "broken":
            host.feed(ev.StoreBroken())
        case "restored":
            host.feed(ev.StoreRestored())
        case "renew":
            host.feed(ev.RenewDue())
        case "registered":
            host.feed(ev.Registered())
        case "deregistered" if host.state.stopping == "drain":
            host.feed(ev.Deregistered())
        case "stop":
            host.feed(ev.Stop())
        case "drain":
            host.feed(ev.Stop(drain=True))
        case _:
            pass


AND_BACK = ["world", "compiled", "refused", "not-found", "world-new", "compiled", "acked", "world-back", "compiled"]
"""What was refused is undone and done again."""

GONE_WHILE_DRAINING = ["join", "world", "connected", "drain", "identities", "compiled", "gone"]
"""Envoy ends by a drain while a change waits for its answer: the host leaves, and the change with it."""

TAKEN_AND_REFUSED = ["join", "world", "compiled", "acked", "refused", "warmed"]
"""One of two Envoys of a hot restart takes what the other refuses: it does not count as applied."""


@settings(max_examples=400, deadline=None)
@example(identity=True, generations=0, gate=False, envoy=False, names=AND_BACK)
@example(identity=False, generations=0, gate=False, envoy=False, names=TAKEN_AND_REFUSED)
@example(identity=False, generations=0, gate=False, envoy=True, names=GONE_WHILE_DRAINING)
@given(identity=st.booleans(), generations=st.integers(0, 2), gate=st.booleans(), envoy=st.booleans(), names=STEPS)
def test_any_order_of_events_keeps_the_promises(identity, generations, gate, envoy, names):
    host = Host(adopted=envoy)
    host.feed(ev.Started(identity=identity, generations=generations, gate=gate, envoy=envoy))
    for name in names:
        step(host, name)
        if host.exited:
            break


@settings(max_examples=200, deadline=None)
@given(names=STEPS, identity=st.booleans())
def test_whatever_happened_a_quiet_host_converges_to_the_newest_world(names, identity):
    """After any disturbance that did not stop it, a host whose neighbours all work again serves the newest world."""
    host = Host()
    host.feed(ev.Started(identity=identity))
    for name in names:
        if name not in {"stop", "drain"}:
            step(host, name)
    for name in ("join", "connected", "ready", "cp-up", "restored", "world-new"):
        step(host, name)
    rng = random.Random(0)
    for _ in range(30):
        if host.state.compiling:
            step(host, "observed")
        for name in rng.sample(["compiled", "not-found", "acked", "warmed", "ready", "connected"], 6):
            step(host, name)
    assert host.state.applied_digest == host.config
    assert host.state.applied == host.state.observed == host.revision
    assert host.state.phase == "serving"
    assert ev.Register() in host.out
    assert host.out.index(ev.EnsureEnvoy()) < host.out.index(ev.Register())
