"""Where calls go first, by the places of caller and endpoints. Pure, and of text only.

A place is `region`, `region/zone` or `region/zone/subzone`; empty: not known.
"""

from dataclasses import dataclass

UNNAMED = 1
"""Weight of a place that no weight names."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What a policy says of places, for callers in one place."""

    here: str = ""
    prefer: bool = True
    strict: bool = False
    failover: tuple[str, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()

    def allows(self, place: str) -> bool:
        """May anything go there? Callers of whom no region is known reach endpoints of whom none is known."""
        if self.strict and place.split("/", maxsplit=1)[0] != self.here.split("/")[0]:
            return False
        return self.weight(place)[1] > 0

    def tier(self, place: str) -> tuple[int, int]:
        """Smaller comes first; what is equal shares the calls.

        By nearness, then by the order of failover. Without preference the places that weights name are first, where
        failover says what comes after them; and without failover all are equal.
        """
        turn = next((n for n, area in enumerate(self.failover) if within(place, area)), len(self.failover))
        if self.prefer:
            return (_distance(self.here, place), turn)
        named = any(within(place, area) for area, _ in self.weights)
        return (0, -1 if named and self.failover and turn == len(self.failover) else turn)

    def weight(self, place: str) -> tuple[str, int]:
        """The place that a weight is for, and the weight: the most special one counts."""
        found = [pair for pair in self.weights if within(place, pair[0])]
        return max(found, key=lambda pair: pair[0].count("/"), default=(place, UNNAMED))


def within(place: str, area: str) -> bool:
    """Is this place in that one, or the same?"""
    return place == area or place.startswith(f"{area}/")


def _distance(here: str, place: str) -> int:
    """0: same subzone, 1: same zone, 2: same region, 3: beyond it, or not known."""
    if not here or not place:
        return 3
    mine, theirs = here.split("/"), place.split("/")
    same = 0
    while same < min(len(mine), len(theirs)) and mine[same] == theirs[same]:
        same += 1
    return 3 - same
