"""Is a mass loss meant? Pure.

Every control-plane transaction declares what it deletes. A loss of many keys that nobody declared is more likely a
broken store or a wrong restore than somebody's wish, so it is held until a declared write, or an operator's word.
"""

from dataclasses import dataclass

SHARE = 0.30
LEAST = 10
"""Over SHARE of what is known, and at least LEAST: a smaller loss is everyday life."""


@dataclass(frozen=True, slots=True)
class Allow:
    """Obey."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep what is known, say so loudly, and judge again after the next change."""

    reason: str


def judge(known_count: int, lost: int, declared: int) -> Allow | Hold:
    """Judge one change, or the differences of one listing.

    Args:
        known_count: How many keys were known before.
        lost: How many of them are gone.
        declared: How many deletions control-plane transactions have declared for it: the Commit of that revision, or
            by how much Deletions.total grew since the last listing. Of this range's owner alone: what a peer takes
            back is no word on what is ours.

    """
    if lost < LEAST or lost <= SHARE * known_count or declared >= lost:
        return Allow()
    said = f"only {declared} deletions were declared" if declared > 0 else "no control-plane transaction declared it"
    return Hold(f"{lost} of {known_count} keys are gone from the store, and {said}")
