"""Capture is armed first, and undone unless somebody comes in by a new connection."""

from dataclasses import replace

from agent.hostd import arming
from agent.hostd.arming import ARMED_SECONDS, Arming
from agent.hostd.wanted import Inbound, Name, Outbound, Wanted

FIRST = Wanted(outbound=Outbound(("10.0.0.0/8",)))
SECOND = Wanted(outbound=Outbound(("10.0.0.0/8",)), inbound=Inbound((8080,)))


def armed() -> Arming:
    return arming.want(Arming(), FIRST, 100.0)


def test_what_is_not_confirmed_is_undone_and_stays_undone():
    held = armed()
    assert (held.state, held.until) == ("armed", 100.0 + ARMED_SECONDS)
    assert arming.tick(held, held.until - 0.1).state == "armed"
    gone = arming.tick(held, held.until)
    assert gone.state == "reverted"
    assert arming.want(gone, FIRST, held.until + 1).state == "reverted"  # the agent says it again and again
    assert arming.arm(gone, 500.0).state == "armed"


def test_only_a_newer_connection_confirms():
    held = armed()
    assert "older" in str(arming.confirm(held, 110.0, came=99.0))
    assert "older" in str(arming.confirm(held, 110.0, came=100.0))
    confirmed = arming.confirm(held, 110.0, came=105.0)
    assert isinstance(confirmed, Arming)
    assert confirmed.state == "confirmed"
    assert arming.tick(confirmed, 1e9).state == "confirmed"
    assert isinstance(arming.confirm(held, 110.0, came=None), Arming)


def test_where_a_control_plane_moves_to_is_nothing_to_confirm():
    """Names lead elsewhere by themselves: nobody is there to confirm it, and no capture may fall back for it."""
    confirmed = arming.confirm(armed(), 110.0, came=105.0)
    assert isinstance(confirmed, Arming)
    moved = replace(FIRST, lifelines=("192.0.2.1",))
    assert arming.want(confirmed, moved, 200.0) == confirmed
    changed = arming.want(confirmed, SECOND, 200.0)
    gone = arming.tick(changed, changed.until)
    _, rules = arming.in_force(gone, replace(SECOND, lifelines=("192.0.2.1",)))
    assert rules == moved, "also of what stands instead of a change that nobody confirmed"


def test_too_late_is_too_late():
    assert "not confirmed in time" in str(arming.confirm(armed(), 100.0 + ARMED_SECONDS, came=110.0))
    assert "not asked for" in str(arming.confirm(Arming(), 1.0, came=1.0))


def test_what_was_confirmed_is_remembered_and_a_change_arms_anew():
    confirmed = arming.confirm(armed(), 110.0, came=105.0)
    assert isinstance(confirmed, Arming)
    booted = Arming(confirmed=confirmed.confirmed)
    assert arming.want(booted, FIRST, 3.0).state == "confirmed"
    changed = arming.want(confirmed, SECOND, 200.0)
    assert changed.state == "armed"
    assert arming.want(changed, FIRST, 201.0).state == "confirmed"  # back to what was shown to be safe


def test_to_arm_what_is_confirmed_does_not_undo_it():
    confirmed = arming.confirm(armed(), 110.0, came=105.0)
    assert isinstance(confirmed, Arming)
    assert arming.arm(confirmed, 200.0) == confirmed


def test_a_change_that_nobody_confirms_leaves_what_was_confirmed_before_in_force():
    """Else a new definition, with a port that is to be closed, would open all that are."""
    confirmed = arming.confirm(armed(), 110.0, came=105.0)
    assert isinstance(confirmed, Arming)
    changed = arming.want(confirmed, SECOND, 200.0)
    assert arming.in_force(changed, SECOND) == ("armed", SECOND)
    lapsed = arming.tick(changed, changed.until)
    assert lapsed.state == "reverted"
    for held in (lapsed, arming.want(lapsed, SECOND, 300.0), arming.want(arming.remembered(lapsed), SECOND, 3.0)):
        assert arming.in_force(held, SECOND) == ("confirmed", FIRST)
    rest = Wanted(names=(Name("a.b.mesh", "127.64.0.1"),), inbound=Inbound((8080,)))
    assert arming.in_force(lapsed, rest)[1].names == rest.names
    # The operator's word takes that out, too; so does an agent that asks for none.
    assert arming.in_force(arming.off(lapsed), SECOND) == ("reverted", SECOND)
    assert arming.in_force(arming.want(lapsed, Wanted(), 300.0), Wanted()) == ("none", Wanted())
    none = arming.want(confirmed, Wanted(), 200.0)
    after = arming.tick(arming.want(none, SECOND, 210.0), 1e9)
    assert arming.in_force(after, SECOND) == ("reverted", SECOND)  # what was given up in between does not come back
    # Nothing was confirmed before; or what was cannot be read.
    alone = arming.tick(armed(), 1e9)
    assert arming.in_force(alone, FIRST) == ("reverted", FIRST)
    for text in ("{", "[]", '{"inbound": {"ports": [22]}}', '{"more": 1}'):
        assert arming.in_force(replace(lapsed, stands=text), SECOND) == ("reverted", SECOND)


def test_an_operator_takes_it_out_and_it_stays_out():
    confirmed = arming.confirm(armed(), 110.0, came=105.0)
    assert isinstance(confirmed, Arming)
    out = arming.off(confirmed)
    assert arming.want(out, FIRST, 300.0).state == "reverted"
    assert arming.want(arming.remembered(out), FIRST, 3.0).state == "reverted"
    assert arming.arm(arming.want(arming.remembered(out), FIRST, 3.0), 4.0).state == "armed"
    assert arming.want(arming.remembered(armed()), FIRST, 3.0).state == "reverted"  # a helper that crashes arms once
    assert arming.want(confirmed, Wanted(), 300.0).state == "none"
