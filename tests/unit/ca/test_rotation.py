"""When to renew, and the steps of an issuer's rotation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.rotation import Activate, Prepare, Retire, Slot, Wait, renew_at, runway, step

DAY = 86400.0


def test_renewal_is_at_one_third_of_life_at_the_latest():
    assert renew_at(0, 30 * DAY, 0) == 10 * DAY
    assert renew_at(0, 30 * DAY, 0.999) == pytest.approx(8 * DAY, rel=0.01)


@settings(deadline=None)
@given(st.floats(0, 0.999), st.floats(60, 1e8))
def test_jitter_only_takes_from_the_first_third(jitter, life):
    at = renew_at(0, life, jitter)
    assert life / 3 * 0.8 <= at <= life / 3 + 1e-6


def test_two_days_are_left_on_a_workload_at_renewal():
    """Backdating included."""
    assert (72 * 3600) - renew_at(-300, 72 * 3600, 0) >= 48 * 3600


@pytest.mark.parametrize("jitter", [-0.1, 1, 2])
def test_impossible_jitter_is_an_error(jitter):
    with pytest.raises(ValueError, match="jitter"):
        renew_at(0, 1, jitter)


@pytest.mark.parametrize(
    ("now", "level"),
    [(0, "ok"), (49, "ok"), (50, "warn"), (74, "warn"), (75, "alarm"), (99, "alarm"), (100, "expired")],
)
def test_the_runway_warns_at_half_and_alarms_at_a_quarter(now, level):
    assert runway(0, 100, now).level == level


def test_the_steps_of_a_rotation():
    old, new = Slot(0, 30, 0), Slot(9, 39, 0)
    assert step(None, None, 0) == Prepare()
    assert step(None, old, 0) == Activate()
    assert step(old, None, 5) == Wait(10)
    assert step(old, None, 10) == Prepare()
    assert step(old, new, 10) == Activate()
    assert step(old, Slot(20, 50, 0), 10) == Wait(20)
    assert step(old, Slot(0, 9, 0), 10) == Retire()
    assert step(new, None, 10) == Wait(19)


slots = st.none() | st.tuples(st.floats(0, 100), st.floats(1, 100), st.floats(0, 0.99)).map(
    lambda t: Slot(t[0], t[0] + t[1], t[2])
)


@settings(deadline=None)
@given(slots, slots, st.floats(0, 300))
def test_interrupted_anywhere_it_comes_to_rest(current, upcoming, now):
    """From any state a few steps lead to Wait, and never leave without an issuer what had one."""
    for _ in range(4):
        match step(current, upcoming, now):
            case Wait(until):
                assert until > now
                return
            case Prepare():
                assert upcoming is None
                upcoming = Slot(now - 300, now + 1000, 0.5)
            case Activate():
                assert upcoming is not None
                current, upcoming = upcoming, None
            case Retire():
                upcoming = None
    raise AssertionError("no rest")
