"""One Envoy after another: hot restarts, crashes, stops, in any order."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.envoy import succession as s
from agent.envoy.succession import Process, State, handle


def run(*events, state=None, now=0.0):
    """Feed events; returns the state and the instructions of the last one."""
    state, out = state or State(), ()
    for event in events:
        state, out = handle(state, event, now)
    return state, out


def live(pid=1, epoch=0, **more):
    return State(current=Process(pid, epoch, 0.0, live=True), **more)


def test_it_begins_a_line_or_adopts_one():
    assert run(s.Began())[1] == (s.Spawn(0),)
    state, out = run(s.Began((Process(7, 2, 0.0), Process(8, 3, 0.0)), restarts=4))

    assert out == ()
    assert (state.current.pid, [e.pid for e in state.elders], state.restarts) == (8, [7], 4)


def test_a_hot_restart_replaces_the_process_when_the_next_one_is_live():
    state, out = run(s.RestartAsked(), state=live())
    assert out == (s.Spawn(1),)
    state, _ = run(s.Spawned(Process(2, 1, 0.0)), state=state)
    assert (state.phase, state.current.pid) == ("handover", 1)
    state, out = run(s.BecameLive(2), state=state)
    assert (state.phase, state.current.pid, [e.pid for e in state.elders]) == ("live", 2, [1])
    state, out = run(s.Exited(1), state=state)
    assert (state.elders, out) == ((), ())


def test_restarts_asked_for_during_one_count_as_one_more():
    state, _ = run(s.RestartAsked(), s.Spawned(Process(2, 1, 0.0)), state=live())
    state, out = run(s.RestartAsked(), s.RestartAsked(), state=state)
    assert out == ()
    state, out = run(s.BecameLive(2), state=state)
    assert out == (s.Spawn(2),)
    assert not state.restart_wanted


def test_a_restart_asked_for_before_it_is_live_waits():
    state = State(current=Process(1, 0, 0.0))
    state, out = run(s.RestartAsked(), state=state)
    assert out == ()
    assert run(s.BecameLive(1), state=state)[1] == (s.Spawn(1),)


def test_a_successor_that_dies_is_tried_again_with_the_same_epoch():
    """The current process serves on, but its admin socket has gone to the one that died."""
    state, _ = run(s.RestartAsked(), s.Spawned(Process(2, 1, 0.0)), state=live())
    state, out = run(s.Exited(2), state=state)
    assert out == (s.ClearInitializing(), s.Spawn(1))
    state, _ = run(s.Spawned(Process(3, 1, 0.0)), state=state)
    state, out = run(s.Exited(3), state=state)
    assert out == (s.ClearInitializing(),)
    assert state.refused_restarts == 2
    assert run(s.Tick(), state=state, now=0.3)[1] == (s.Spawn(1),)


def test_a_crash_begins_a_new_line_at_once_and_ends_what_hung_on_the_old_one():
    state = live(2, 1, elders=(Process(1, 0, 0.0),), successor=Process(3, 2, 0.0))

    state, out = run(s.Exited(2), state=state)

    assert out == (s.End(1, hard=True), s.End(3, hard=True), s.Spawn(0))
    assert (state.restarts, state.processes) == (1, ())


def test_crashes_in_a_row_wait_longer_and_a_long_life_is_forgiven():
    state, times, now = State(), [], 0.0
    for pid in range(12):
        state, out = run(s.Spawned(Process(pid, 0, now)), s.Exited(pid), state=state, now=now)
        times.append(0.0 if out else state.spawn_at - now)
        now = state.spawn_at or now
        state, _ = run(s.Tick(), state=state, now=now)
    assert times == pytest.approx([*s.DELAYS, 30.0, 30.0, 30.0, 30.0])

    state, out = run(s.Spawned(Process(50, 0, now)), state=state, now=now)
    assert run(s.Exited(50), state=state, now=now + 61)[1] == (s.Spawn(0),)


def test_a_stop_drains_then_ends_then_kills():
    state, out = run(s.StopAsked(20), state=live())
    assert out == (s.Drain(),)
    assert run(s.Tick(), state=state, now=19)[1] == ()
    state, out = run(s.Tick(), state=state, now=20)
    assert out == (s.End(1),)
    state, out = run(s.Tick(), state=state, now=25)
    assert out == (s.End(1, hard=True),)
    assert run(s.Exited(1), state=state)[1] == (s.Quit(),)


def test_callers_leave_before_a_drain_if_nobody_told_them():
    state, out = run(s.StopAsked(20, leave_seconds=3), state=live())
    assert (out, state.phase) == ((), "draining")
    assert run(s.Idle(), state=state)[1] == ()
    assert run(s.Tick(), state=state, now=2)[1] == ()
    assert run(s.StopAsked(20, leave_seconds=3), state=state)[1] == (s.End(1),)
    assert run(s.Exited(1), state=state)[1] == (s.Quit(),)
    state, out = run(s.Tick(), state=state, now=3)
    assert out == (s.Drain(),)
    assert run(s.Tick(), state=state, now=22)[1] == ()
    assert run(s.Tick(), state=state, now=23)[1] == (s.End(1),)


@pytest.mark.parametrize("events", [[s.StopAsked(0)], [s.StopAsked(20), s.StopAsked(20)], [s.StopAsked(20), s.Idle()]])
def test_a_stop_is_at_once_if_asked_so_or_twice_or_when_nobody_is_left(events):
    assert run(*events, state=live())[1] == (s.End(1),)


def test_a_stop_between_two_lives_quits():
    state, _ = run(s.Exited(1), s.Spawned(Process(2, 0, 0.0)), s.Exited(2), state=live())
    assert state.phase == "waiting"
    state, out = run(s.StopAsked(20), state=state)
    assert out == (s.Quit(),)


def test_what_never_became_live_is_not_drained():
    assert run(s.StopAsked(20), state=State(current=Process(1, 0, 0.0)))[1] == (s.End(1),)


events = st.sampled_from(
    ["restart", "exit current", "exit successor", "exit elder", "live", "tick", "stop", "idle", "leave"]
)


@settings(max_examples=300)
@given(st.lists(events, max_size=40))
def test_any_order_keeps_one_line_and_a_stop_always_ends(orders):
    """At most one current and one successor; epochs follow; whatever happened, a stop leads to Quit."""
    world = _World()
    for order in orders:
        world.do(order)
    world.now += 1000
    for order in ["stop", "stop"]:
        world.do(order)
    for _ in range(4):
        world.now += 10
        world.do("tick")
        for role in ["exit successor", "exit elder", "exit elder", "exit elder", "exit current"]:
            world.do(role)
    assert world.quit


class _World:
    """Does what it is told, with processes that exist on paper."""

    def __init__(self):
        self.state, self.now, self.pid, self.quit = State(), 0.0, 0, False
        self.feed(s.Began())

    def do(self, order):
        state = self.state
        self.now += 0.1
        target = {"exit current": state.current, "exit successor": state.successor}.get(order)
        if order == "exit elder" and state.elders:
            target = state.elders[0]
        if order.startswith("exit"):
            if target:
                self.feed(s.Exited(target.pid))
        elif order == "live":
            if waiting := state.successor or state.current:
                self.feed(s.BecameLive(waiting.pid))
        else:
            plain = {
                "restart": s.RestartAsked(),
                "tick": s.Tick(),
                "stop": s.StopAsked(5),
                "idle": s.Idle(),
                "leave": s.StopAsked(5, leave_seconds=3),
            }
            self.feed(plain[order])

    def feed(self, event):
        if self.quit:
            return
        self.state, out = handle(self.state, event, self.now)
        for instruction in out:
            match instruction:
                case s.Spawn(epoch):
                    assert not self.state.stopping
                    current = self.state.current
                    assert self.state.successor is None
                    assert epoch == (current.epoch + 1 if current else 0)
                    self.pid += 1
                    self.feed(s.Spawned(Process(self.pid, epoch, self.now)))
                case s.Quit():
                    assert not self.state.processes
                    self.quit = True


def test_phases_name_what_is():
    assert State().phase == "waiting"
    assert live().phase == "live"
    assert replace(live(), stopping="draining").phase == "draining"
    assert State(stopping="ending").phase == "stopped"
    assert State(current=Process(1, 0, 0.0)).phase == "starting"
