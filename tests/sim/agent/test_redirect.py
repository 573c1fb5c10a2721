"""When the host's helper is told what: make before break, in every order of events."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import redirect as r
from agent.capture import common
from agent.hostd.wanted import Caller, Name, Outbound, Wanted

API = Name("api.shop.mesh", "127.64.0.1")
WEB, CRON = Caller("shop/web", 16400, ("web",)), Caller("shop/cron", 16401, (), ("cron.service",))
NONE, ONE, TWO = Wanted(), Wanted((API,), (WEB,)), Wanted((API,), (WEB, CRON))


def run(*events: r.Event, state: r.State | None = None) -> tuple[r.State, list[r.Order]]:
    state, out = state or r.State(), list[r.Order]()
    for event in events:
        state, orders = r.handle(state, event)
        out += orders
    return state, out


def in_force(wanted: Wanted) -> r.State:
    state, _ = run(r.Offered(b"1", wanted), r.InForce(wanted), r.Answered())
    assert state.told == wanted
    return state


def test_callers_are_redirected_once_envoy_listens():
    assert run(r.Offered(b"1", ONE))[1] == [r.Publish(b"1")]
    assert run(r.Offered(b"1", ONE), r.InForce(ONE))[1] == [r.Publish(b"1"), r.Tell(ONE)]
    _, out = run(r.Offered(b"2", TWO), r.InForce(TWO), state=in_force(ONE))
    assert out == [r.Publish(b"2"), r.Tell(TWO)]


def test_before_a_listener_goes_nobody_is_redirected_to_it():
    state, out = run(r.Offered(b"2", ONE), state=in_force(TWO))
    assert out == [r.Tell(ONE)]
    _, out = run(r.Answered(), r.InForce(ONE), state=state)
    assert out == [r.Publish(b"2")]


def test_an_identity_whose_port_moves_is_let_go_in_between():
    moved = Wanted((API,), (Caller("shop/web", 16999, ("web",)),))
    _, out = run(r.Offered(b"2", moved), r.Answered(), r.InForce(moved), state=in_force(ONE))
    assert out == [r.Tell(Wanted((API,))), r.Publish(b"2"), r.Tell(moved)]


def test_what_was_told_earlier_is_no_word_on_what_waits():
    state, _ = run(r.Offered(b"2", TWO), r.InForce(TWO), state=in_force(ONE))
    state, out = run(r.Offered(b"3", NONE), state=state)
    assert out == [], "the helper is at work on the one before"
    state, out = run(r.Answered(), state=state)
    assert out == [r.Tell(NONE)]
    assert run(r.Answered(), state=state)[1] == [r.Publish(b"3")]


def test_nothing_waits_long_and_without_a_helper_all_goes_on():
    state, _ = run(r.Offered(b"2", NONE), state=in_force(ONE))
    state, out = run(r.Late(b"1"), r.Late(b"2"), state=state)
    assert out == [r.Publish(b"2")]
    assert run(r.Failed("gone"), state=state)[1] == []
    state, out = run(r.Offered(b"1", ONE), r.InForce(ONE), r.Failed("nothing listens at /x"))
    assert out == [r.Publish(b"1"), r.Tell(ONE)]
    assert "nothing listens at /x" in state.problems[0]
    state, out = run(r.Offered(b"2", TWO), state=state)
    assert out == [r.Publish(b"2")]


def test_who_calls_nothing_by_name_does_not_miss_it():
    state, _ = run(r.Offered(b"1", NONE), r.InForce(NONE), r.Failed("nothing listens"))
    assert state.problems == ()


def test_a_helper_that_starts_is_told_again_and_so_is_any_now_and_then():
    for event in (r.HelperStarted(), r.Due()):
        assert run(event, state=in_force(ONE))[1] == [r.Tell(ONE)]
        assert run(event)[1] == [], "nothing is in force yet"
    busy, _ = run(r.HelperStarted(), state=in_force(ONE))
    assert run(r.HelperStarted(), r.Answered(), state=busy)[1] == [r.Tell(ONE)]


def test_problems_are_those_of_the_last_answer():
    state, _ = run(r.HelperStarted(), r.Answered(("there is no user web",), "none"), state=in_force(ONE))
    assert state.problems == ("there is no user web",)
    assert run(r.Due(), r.Answered(), state=state)[0].problems == ()


def test_the_helper_is_told_where_control_planes_are_as_soon_as_that_is_known():
    out_there = Wanted((API,), (WEB,), Outbound(("0.0.0.0/0",)))
    state, out = run(r.Resolved(("192.0.2.1",)), r.Offered(b"1", out_there), r.InForce(out_there), r.Answered())
    assert out == [r.Publish(b"1"), r.Tell(replace(out_there, lifelines=("192.0.2.1",)))]
    state, out = run(r.Resolved(("192.0.2.9",)), state=state)
    assert out == [r.Tell(replace(out_there, lifelines=("192.0.2.9",)))]
    state, out = run(r.Answered(), r.Resolved(("192.0.2.9",)), state=state)
    assert out == [], "no news"
    both = replace(out_there, callers=(WEB, CRON))
    state, out = run(r.Offered(b"2", both), state=state)
    assert out == [r.Publish(b"2")], "no configuration waits for where a control plane is"


def test_who_captures_nothing_more_leaves_nothing_alone():
    _, out = run(r.Resolved(("192.0.2.1",)), state=in_force(ONE))
    assert out == []


CALLERS = st.frozensets(
    st.sampled_from([Caller(f"n/{c}", port, (c,)) for c in "ab" for port in (1, 2)]), max_size=2
).map(lambda found: Wanted((API,), tuple(sorted({c.identity: c for c in found}.values(), key=lambda c: c.identity))))
STEPS = st.lists(st.tuples(st.sampled_from(["offer", "apply", "answer", "fail", "late", "due"]), CALLERS), max_size=25)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_happens_nobody_is_redirected_to_a_listener_that_is_not_there(steps):
    """But for a helper that failed or is late, for which nothing waits."""
    state, offered, pending, reliable = r.State(), NONE, b"", True
    published, listening, kernel, asked = {}, NONE, NONE, []
    for number, (what, wanted) in enumerate(steps):
        match what:
            case "offer" if not pending:
                offered, pending = wanted, str(number).encode()
                published[pending] = wanted
                event: r.Event = r.Offered(pending, wanted)
            case "apply" if not pending:
                listening, event = offered, r.InForce(offered)
            case "answer" if asked:
                kernel, event = asked.pop(0), r.Answered()
            case "fail" if asked:
                asked.pop(0)
                reliable, event = False, r.Failed("x")
            case "late":
                reliable, event = reliable and not state.held, r.Late(state.held)
            case "due":
                event = r.Due()
            case _:
                continue
        state, orders = r.handle(state, event)
        for order in orders:
            if isinstance(order, r.Publish):
                assert order.digest == pending
                # Envoy may take it at any time from now on: what is redirected must fit both.
                pending = b""
                if reliable:
                    assert common(kernel, offered).callers == kernel.callers
            else:
                asked.append(order.wanted)
                assert common(order.wanted, listening) == order.wanted
        assert len(asked) <= 1
        assert bool(state.held) == bool(pending)
