"""The machine's answers, one by one; tests/sim/agent has every order of them."""

from agent import events as ev
from agent.machine import State, handle
from mesh.model import Revision

R1, R2, R3 = Revision(1), Revision(2), Revision(3)


def run(*events: ev.Event, state: State | None = None) -> tuple[State, list[ev.Instruction]]:
    state = state or State()
    out: list[ev.Instruction] = []
    for event in events:
        state, instructions = handle(state, event)
        out += [i for i in instructions if i != ev.Report()]
    return state, out


LIVE = (
    ev.Started(identity=True), ev.WorldChanged(R1), ev.Compiled(R1, b"a"), ev.ProxyConnected(), ev.EnvoyReady(),
    ev.Acked(b"a"), ev.Warmed(b"a"), ev.ControlPlaneUp(),
)  # fmt: skip


def test_from_nothing_to_serving():
    state, out = run(ev.Started(identity=False), ev.Joined(), *LIVE[1:])
    assert out == [
        ev.Join(), ev.Renew(), ev.Follow(), ev.Compile(), ev.Publish(b"a"), ev.EnsureEnvoy(), ev.AwaitWarm(b"a"),
        ev.Save(), ev.Register(),
    ]  # fmt: skip
    assert (state.phase, state.applied) == ("serving", R1)


def test_the_disk_comes_before_any_network():
    state, out = run(ev.Started(identity=True, generations=2), ev.WorldChanged(R1, live=False), ev.Compiled(R1, b"a"))
    assert out[0] == ev.UseGeneration(0)
    assert out.index(ev.UseGeneration(0)) < out.index(ev.Follow())
    state, out = run(ev.EnvoyReady(), ev.ProxyConnected(), ev.Acked(b"a"), ev.Warmed(b"a"), state=state)
    assert state.phase == "stale"
    assert ev.Save() not in out, "what came from disk need not go there"
    state, _ = run(ev.WorldChanged(R2), ev.Compiled(R2, b"a"), state=state)
    assert (state.phase, state.applied) == ("serving", R2), "the same configuration is in force already"


def test_a_gate_serves_before_it_can_follow_unless_one_runs_already():
    _, out = run(ev.Started(identity=True, gate=True))
    assert out[0] == ev.UseGeneration(ev.MINIMAL)
    _, out = run(ev.Started(identity=True, gate=True, envoy=True))
    assert out[0] == ev.EnsureEnvoy()
    assert not any(isinstance(i, ev.UseGeneration) for i in out), "a running Envoy has more than an empty world"


def test_refused_input_is_never_offered_again():
    state, out = run(*LIVE, ev.WorldChanged(R2), ev.Compiled(R2, b"bad"), ev.Refused(b"bad", "why"))
    assert out[-1] == ev.FindGuilty(b"bad")
    assert state.failure == "why"
    state, out = run(
        ev.SearchEnded(found=False), ev.WorldChanged(R3), ev.Compiled(R3, b"b"), ev.Acked(b"b"), ev.WorldChanged(R3),
        ev.Compiled(R3, b"bad"), state=state,
    )  # fmt: skip
    assert out.count(ev.Publish(b"b")) == 1
    assert ev.Publish(b"bad") not in out
    state, out = run(ev.EnvoyGone(), ev.WorldChanged(R3), ev.Compiled(R3, b"bad"), state=state)
    assert ev.Publish(b"bad") in out, "a new process judges anew"


def test_what_one_of_two_proxies_took_and_the_other_refused_is_not_in_force():
    state, _ = run(
        *LIVE, ev.WorldChanged(R2), ev.Compiled(R2, b"b"), ev.Acked(b"b"), ev.Refused(b"b", "why"), ev.Warmed(b"b")
    )
    assert (state.applied_digest, state.applied) == (b"a", R1)


def test_what_stands_in_for_a_refused_object_may_be_what_was_in_force_before():
    state, _out = run(
        *LIVE, ev.WorldChanged(R2), ev.Compiled(R2, b"bad"), ev.Refused(b"bad", "why"), ev.SearchEnded(found=True),
        ev.Compiled(R2, b"a"), ev.Acked(b"a"), ev.Warmed(b"a"),
    )  # fmt: skip
    assert (state.applied_digest, state.applied) == (b"a", R2), "its neighbours are in force at this revision"


def test_a_late_refusal_of_an_older_offer_is_searched_too():
    state, out = run(
        *LIVE, ev.WorldChanged(R2), ev.Compiled(R2, b"b"), ev.Stalled(b"b"), ev.WorldChanged(R3), ev.Compiled(R3, b"c"),
        ev.Refused(b"b", "why"),
    )  # fmt: skip
    assert ev.FindGuilty(b"b") in out
    assert not state.in_flight, "what is held back from Envoy is never answered"


def test_what_is_held_back_from_envoy_holds_up_nothing():
    """An endpoint changes while a refusal is searched: the offer with it is held back, and never answered."""
    searching = (*LIVE, ev.WorldChanged(R2), ev.Compiled(R2, b"bad"), ev.Refused(b"bad", "why"))
    state, out = run(*searching, ev.WorldChanged(R3), ev.Compiled(R3, b"bad, too"), ev.Withheld(b"bad, too", "why"))
    assert (state.failure, state.applied) == ("why", R1)
    assert out.count(ev.FindGuilty(b"bad")) == 1
    assert ev.FindGuilty(b"bad, too") not in out, "it is being searched"
    _, out = run(ev.SearchEnded(found=True), ev.Compiled(R3, b"mended"), state=state)
    assert out == [ev.Compile(), ev.Publish(b"mended")]


def test_what_is_held_back_is_searched_unless_that_was_in_vain():
    state, _ = run(
        *LIVE, ev.WorldChanged(R2), ev.Compiled(R2, b"b"), ev.Refused(b"b", "no"), ev.SearchEnded(found=False)
    )
    state, out = run(ev.WorldChanged(R3), ev.Compiled(R3, b"c"), ev.Withheld(b"c", "no"), state=state)
    assert out == [ev.Compile(), ev.Publish(b"c")]
    assert state.failure == "no", "it is not in force, and status says why"
    state, out = run(ev.WorldChanged(R3), ev.Compiled(R3, b"d"), ev.Withheld(b"d", "another"), state=state)
    assert out[-1] == ev.FindGuilty(b"d")


def test_a_world_from_disk_that_is_held_back_is_left_for_an_older_one():
    disk = (ev.Started(identity=True, generations=2), ev.WorldChanged(R2, live=False), ev.Compiled(R2, b"a"))
    state, out = run(*disk, ev.ProxyConnected(), ev.Refused(b"a", "no"))
    assert out[-1] == ev.UseGeneration(1)
    _, out = run(ev.WorldChanged(R1, live=False), ev.Compiled(R1, b"b"), ev.Withheld(b"b", "no"), state=state)
    assert out[-1] == ev.UseGeneration(ev.MINIMAL)


def test_endpoints_alone_need_no_question_unless_something_older_is_warming():
    state, out = run(*LIVE, ev.WorldChanged(R2), ev.Compiled(R2, b"b"), ev.Acked(b"b", endpoints_only=True))
    assert state.applied == R2
    assert ev.AwaitWarm(b"b") not in out
    warming = (ev.WorldChanged(R2), ev.Compiled(R2, b"b"), ev.Acked(b"b"), ev.WorldChanged(R3), ev.Compiled(R3, b"c"))
    state, out = run(*LIVE, *warming, ev.Acked(b"c", endpoints_only=True))
    assert state.applied == R1
    assert out[-1] == ev.AwaitWarm(b"c")


def test_nothing_is_in_force_in_an_envoy_that_is_gone():
    state, out = run(*LIVE, ev.EnvoyGone())
    assert (state.phase, state.applied_digest) == ("syncing", b"")
    assert out[-1] == ev.EnsureEnvoy()


def test_callers_are_told_while_envoy_still_drains():
    state, out = run(*LIVE, ev.EnvoyDrains(begun=True))
    assert out[-1] == ev.Register()
    state, out = run(ev.EnvoyGone(), ev.EnvoyDrains(begun=False), state=state)
    assert ev.Register() not in out, "nobody is sent to what is not there"
    _, out = run(ev.EnvoyReady(), ev.ProxyConnected(), ev.Acked(b"a"), ev.Warmed(b"a"), state=state)
    assert out[-1] == ev.Register()


def test_a_crash_loop_on_the_state_from_disk_falls_back_twice():
    state, out = run(ev.Started(identity=True, generations=2), ev.WorldChanged(R2, live=False), ev.EnvoyUnfit())
    assert out[-1] == ev.UseGeneration(1)
    state, out = run(ev.EnvoyUnfit(), state=state)
    assert out == [ev.UseGeneration(ev.MINIMAL)]
    assert run(ev.EnvoyUnfit(), state=state)[1] == []
    assert run(*LIVE, ev.EnvoyUnfit("crashes"))[1][-1] == ev.Register(), "a live world is not left"


def test_a_stop_leaves_envoy_and_a_drain_ends_it():
    _, out = run(*LIVE, ev.Stop())
    assert out[-1] == ev.Exit()
    state, out = run(*LIVE, ev.Stop(drain=True), ev.HealthChanged(), ev.ControlPlaneUp())
    assert state.phase == "draining"
    assert out[-1] == ev.Deregister(), "it does not register again"
    _, out = run(ev.Deregistered(), ev.EnvoyGone(), state=state)
    assert out == [ev.StopEnvoy(), ev.Exit()]


def test_what_an_operator_sees_is_reported_when_it_changes_only():
    state, _ = run(*LIVE)
    assert ev.Report() in handle(state, ev.Observed(R2))[1]
    assert ev.Report() not in handle(state, ev.HealthChanged())[1]
    assert handle(state, ev.Observed(R2))[0].applied == R2
