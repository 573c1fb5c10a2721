import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ca.limits import Buckets, Rate


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
