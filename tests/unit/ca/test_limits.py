import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ca.limits import Buckets, Rate, Strangers, source_of


def test_a_burst_then_the_rate():
    buckets = Buckets(Rate(2, 3))
    assert [buckets.take("a", 0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 0) == 0
    assert buckets.take("a", 0.5) == 0
    assert buckets.take("a", 0.5) > 0


def test_memory_is_bounded():
    buckets = Buckets(Rate(1, 5), capacity=100)
    for number in range(1000):
        buckets.take(str(number), 0)
    assert len(buckets) == 100


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), max_size=60))
def test_never_more_than_burst_and_rate_whatever_the_clock_does(times):
    buckets = Buckets(Rate(1, 5))
    served = sum(buckets.take("a", now) == 0 for now in times)
    rises = sum(max(0.0, b - a) for a, b in itertools.pairwise(times))
    assert served <= 5 + rises + 1e-6


def test_a_stranger_has_a_burst_and_leaves_others_theirs():
    strangers = Strangers(Rate(1, 2), Rate(100, 100))
    assert [strangers.take("10.0.0.1", 0) for _ in range(3)] == [0, 0, 1]
    assert strangers.take("10.0.0.2", 0) == 0
    assert strangers.take("10.0.0.1", 1) == 0


def test_many_addresses_are_bounded_together():
    strangers = Strangers(Rate(1, 2), Rate(10, 50))
    waits = [strangers.take(f"10.0.{number >> 8}.{number & 255}", 0) for number in range(1000)]
    assert waits.count(0) == 50
    assert strangers.take("10.1.0.1", 0) > 0
    assert strangers.take("10.1.0.1", 0.5) == 0


def test_who_is_held_up_by_himself_takes_nothing_from_all():
    strangers = Strangers(Rate(1, 1), Rate(0.001, 10))
    assert sum(strangers.take("10.0.0.1", 0) == 0 for _ in range(1000)) == 1
    assert sum(strangers.take(f"10.0.0.{number}", 0) == 0 for number in range(2, 30)) == 9


def test_one_host_is_one_source_whatever_address_it_takes():
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:1") != source_of("2001:db8:0:1::1")
    assert source_of("::ffff:10.0.0.1") == source_of("10.0.0.1") != source_of("10.0.0.2")
    for text in ("", "nonsense", "fe80::1%eth0", "10.0.0.1:80"):
        assert isinstance(source_of(text), str)
