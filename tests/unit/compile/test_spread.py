"""Which places come first for whom."""

import pytest

from mesh.compile.spread import Spread

PLACES = ("eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "us/b/1", "asia/a/1", "")


def order(spread: Spread) -> list[str]:
    """Places, those that are equal in one word, left out what gets nothing."""
    tiers: dict[tuple[int, int], list[str]] = {}
    for place in PLACES:
        if spread.allows(place):
            tiers.setdefault(spread.tier(place), []).append(place)
    return [" ".join(tiers[tier]) for tier in sorted(tiers)]


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        (Spread("eu/a/1"), ["eu/a/1", "eu/a/2", "eu/b/1", "us/a/1 us/b/1 asia/a/1 "]),
        (Spread("eu/a"), ["eu/a/1 eu/a/2", "eu/b/1", "us/a/1 us/b/1 asia/a/1 "]),
        (Spread("eu"), ["eu/a/1 eu/a/2 eu/b/1", "us/a/1 us/b/1 asia/a/1 "]),
        (Spread(""), ["eu/a/1 eu/a/2 eu/b/1 us/a/1 us/b/1 asia/a/1 "]),
        (
            Spread("eu/a/1", failover=("asia", "us/b")),
            ["eu/a/1", "eu/a/2", "eu/b/1", "asia/a/1", "us/b/1", "us/a/1 "],
        ),
        # Among those that are equally near, too.
        (Spread("eu", failover=("eu/b", "us")), ["eu/b/1", "eu/a/1 eu/a/2", "us/a/1 us/b/1", "asia/a/1 "]),
        (Spread("eu/a/1", strict=True), ["eu/a/1", "eu/a/2", "eu/b/1"]),
        (Spread("eu/a/1", strict=True, prefer=False), ["eu/a/1 eu/a/2 eu/b/1"]),
        (Spread("", strict=True), [""]),
        (Spread("eu/a/1", prefer=False), ["eu/a/1 eu/a/2 eu/b/1 us/a/1 us/b/1 asia/a/1 "]),
        (
            Spread("eu/a/1", prefer=False, failover=("us", "eu/b")),
            ["us/a/1 us/b/1", "eu/b/1", "eu/a/1 eu/a/2 asia/a/1 "],
        ),
        # Weights say what is preferred, failover what comes next.
        (
            Spread("eu/a/1", prefer=False, failover=("us",), weights=(("eu/a", 80), ("eu/b", 20))),
            ["eu/a/1 eu/a/2 eu/b/1", "us/a/1 us/b/1", "asia/a/1 "],
        ),
        (Spread("eu/a/1", weights=(("us", 0),)), ["eu/a/1", "eu/a/2", "eu/b/1", "asia/a/1 "]),
    ],
)
def test_order_of_places(spread: Spread, expected: list[str]):
    assert order(spread) == expected


def test_the_most_special_weight_counts_and_others_weigh_one():
    spread = Spread(weights=(("eu", 5), ("eu/a/1", 7), ("us/a", 0)))
    assert spread.weight("eu/a/1") == ("eu/a/1", 7)
    assert spread.weight("eu/a/2") == ("eu", 5)
    assert spread.weight("eu") == ("eu", 5)
    assert spread.weight("europe/a") == ("europe/a", 1)
    assert not spread.allows("us/a/1")
    assert spread.allows("us/b/1")
