"""Random choices of a proxy, as it makes them.

Envoy draws one number for each request, and takes all choices of routing (runtime fractions, weights, copies) from it
by division with remainder. So they are not independent: of two halves by the same number, the second is decided by the
first. Filters, and TCP, draw anew for each choice.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Protocol


class Chance(Protocol):
    def stable(self, modulus: int, cuts: Sequence[int]) -> int:
        """Where the request's number modulo this lies: i if below cuts[i] (ascending), len(cuts) if below none."""
        ...

    def fresh(self, modulus: int, cuts: Sequence[int]) -> int:
        """The same with a new number."""
        ...


class Drawn:
    """One outcome. `draw` in [0, 1) stands for all numbers; for a single choice it is the place in its range."""

    def __init__(self, draw: float) -> None:
        if not 0 <= draw < 1:
            raise ValueError(f"a draw is at least 0 and less than 1, not {draw}")
        self._left = Fraction(draw)
        """What of the draw has not been used yet; uniform, whatever was."""
        self._modulus, self._residue = 1, 0
        """All that is known of the request's number."""

    def stable(self, modulus: int, cuts: Sequence[int]) -> int:
        common = math.gcd(self._modulus, modulus)
        value = self._residue % common + common * self._digit(modulus // common)
        # The number that has both residues (Chinese remainder theorem).
        step = (value - self._residue) // common * pow(self._modulus // common, -1, modulus // common)
        self._residue += self._modulus * (step % (modulus // common))
        self._modulus = math.lcm(self._modulus, modulus)
        return bisect_right(cuts, value)

    def fresh(self, modulus: int, cuts: Sequence[int]) -> int:
        return bisect_right(cuts, self._digit(modulus))

    def _digit(self, base: int) -> int:
        whole = self._left * base
        digit = math.floor(whole)
        self._left = whole - digit
        return digit


class Scripted:
    """One of all possible outcomes: the first choices as told, then the first possible one each time."""

    def __init__(self, script: tuple[int, ...] = ()) -> None:
        self._script = script
        self.taken: list[int] = []
        self.others: list[tuple[int, ...]] = []
        """Beside each choice taken, what else was possible."""
        self._known: dict[int, tuple[int, int]] = {}
        """Modulus -> the range in which the request's number modulo this lies."""
        self._fresh = Fraction(1)

    @property
    def probability(self) -> Fraction:
        return joint(self._known) * self._fresh

    def stable(self, modulus: int, cuts: Sequence[int]) -> int:
        low, high = self._known.get(modulus, (0, modulus))
        ranges = {
            index: (max(low, begin), min(high, end))
            for index, (begin, end) in enumerate(_between(modulus, cuts))
            if max(low, begin) < min(high, end)
        }
        possible = [index for index, found in ranges.items() if joint({**self._known, modulus: found})]
        taken = self._take(possible)
        self._known[modulus] = ranges[taken]
        return taken

    def fresh(self, modulus: int, cuts: Sequence[int]) -> int:
        ranges = dict(enumerate(_between(modulus, cuts)))
        taken = self._take([index for index, (begin, end) in ranges.items() if begin < end])
        self._fresh *= Fraction(ranges[taken][1] - ranges[taken][0], modulus)
        return taken

    def _take(self, possible: list[int]) -> int:
        place = len(self.taken)
        taken = self._script[place] if place < len(self._script) else possible[0]
        self.taken.append(taken)
        self.others.append(tuple(index for index in possible if index != taken))
        return taken

    def alternatives(self) -> list[tuple[int, ...]]:
        """Scripts of the outcomes that branch off behind this script."""
        return [
            (*self.taken[:place], other)
            for place in range(len(self._script), len(self.taken))
            for other in self.others[place]
        ]


def _between(modulus: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    ends = [min(cut, modulus) for cut in cuts] + [modulus]
    return list(zip([0, *ends], ends, strict=False))


def joint(known: dict[int, tuple[int, int]]) -> Fraction:
    """How probable it is that one number lies, modulo each of these, in the range beside it."""
    moduli = sorted(known)
    shared = 1
    for index, one in enumerate(moduli):
        for other in moduli[:index]:
            shared = math.lcm(shared, math.gcd(one, other))
    # Once the number modulo `shared` is known, its residues are independent of each other. How many numbers of a range
    # leave a residue changes only where the range begins and ends.
    steps = [(math.gcd(modulus, shared), low, high) for modulus, (low, high) in known.items()]
    edges = {place for step, *ends in steps for end in ends for place in range(end % step, shared, step)}
    total = 0
    for begin, end in pairwise(sorted({0, shared, *edges})):
        counts = [step * _count(low, high, step, begin % step) for step, low, high in steps]
        total += (end - begin) * math.prod(counts)
    return Fraction(total, shared * math.prod(moduli))


def _count(low: int, high: int, step: int, residue: int) -> int:
    """Numbers in [low, high) that leave this residue."""
    return max(0, -((residue - high) // step)) - max(0, -((residue - low) // step))
