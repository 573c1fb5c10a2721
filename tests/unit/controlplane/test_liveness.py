"""When a host counts as lost."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.liveness import Liveness
from controlplane.view import Presence

GRACE = 15.0


def presence(*connected, replica="a", **left):
    return {replica: Presence(replica=replica, advertise="https://x", connected=connected, left=left)}


def test_a_silent_host_is_lost_after_the_grace_and_not_before():
    live = Liveness()
    live.restart(100.0)
    live.observe(presence("n1"), 100.0)
    live.observe(presence(), 200.0)
    assert live.lost(["n1"], 214.9, GRACE) == frozenset()
    assert live.lost(["n1"], 215.0, GRACE) == {"n1"}
    assert live.next(["n1"], 210.0, GRACE) == 5.0


def test_the_silence_before_the_cut_counts():
    live = Liveness()
    live.restart(100.0)
    live.observe(presence("n1"), 100.0)
    live.observe(presence(n1=6.0), 206.0)
    assert live.lost(["n1"], 215.0, GRACE) == {"n1"}


def test_an_election_starts_the_count_anew():
    live = Liveness()
    live.restart(100.0)
    live.observe(presence(), 100.0)
    live.restart(300.0)
    assert live.lost(["n1"], 314.0, GRACE) == frozenset()
    assert live.lost(["n1"], 315.0, GRACE) == {"n1"}


def test_no_silence_from_before_the_election_counts():
    live = Liveness()
    live.restart(100.0)
    live.observe(presence("n1"), 100.0)
    live.observe(presence(n1=50.0), 101.0)
    assert live.lost(["n1"], 114.0, GRACE) == frozenset()


def test_a_host_that_moved_to_another_replica_was_never_silent():
    live = Liveness()
    live.restart(100.0)
    live.observe(presence("n1", replica="a"), 100.0)
    live.observe(presence(replica="a", n1=3.0) | presence("n1", replica="b"), 110.0)
    assert live.lost(["n1"], 1000.0, GRACE) == frozenset()


def test_what_a_former_replica_says_of_an_earlier_connection_does_not_count():
    live = Liveness()
    live.restart(0.0)
    live.observe(presence("n1", replica="a"), 100.0)
    moved = presence(replica="a", n1=1.0)
    live.observe(moved | presence("n1", replica="b"), 110.0)
    # b stops, and its record goes with it; a still tells of the connection that ended 90 s ago.
    live.observe(presence(replica="a", n1=90.0), 200.0)
    assert live.lost(["n1"], 214.9, GRACE) == frozenset()
    assert live.lost(["n1"], 215.0, GRACE) == {"n1"}


def test_a_replica_that_vanishes_gives_its_hosts_a_whole_grace():
    live = Liveness()
    live.restart(0.0)
    live.observe(presence("n1", replica="a") | presence("n2", replica="b"), 100.0)
    live.observe(presence("n2", replica="b"), 200.0)
    assert live.lost(["n1", "n2"], 214.0, GRACE) == frozenset()
    assert live.lost(["n1", "n2"], 215.0, GRACE) == {"n1"}


# Eighths are exact, so that adding them up in another order makes no difference.
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 240).map(lambda n: n / 8)), max_size=30))
def test_nobody_is_lost_who_was_connected_within_the_grace(steps):
    """Over any history of connecting and leaving."""
    live, now, last = Liveness(), 1000.0, 1000.0
    live.restart(now)
    for connected, wait in steps:
        live.observe(presence("n1") if connected else presence(), now)
        now += wait
        if connected:
            last = now
            assert live.lost(["n1"], now, GRACE) == frozenset()
            live.observe(presence(), now)
        assert (now - last >= GRACE) or live.lost(["n1"], now, GRACE) == frozenset()
