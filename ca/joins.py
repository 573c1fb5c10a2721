"""When a node last joined: certificates issued before that are of an earlier host of this name, and void (pure).

The record lies under mesh.keys.JOINS, beside the Node and not in it: it outlives a deleted Node, and no operator writes
it. The transaction that uses up a token does.

No host is locked out by clocks that differ, and none gets in by them, as long as replicas differ by less than LEEWAY: a
join is dated that far ahead, and whatever is issued to the node from then on is dated at the join or later
(Grant.since), whatever the clock of the replica that issues says.
"""

import math

from ca.policy import DAY
from ca.template import BACKDATE
from mesh import codec
from mesh.model import Frozen

LEEWAY = 10.0
"""Seconds. Certificates start BACKDATE in the past, so being dated ahead by this costs none of them its first use."""
KEEP = (366 + 90) * DAY
"""The longest life that a mesh may give to a node's certificate, and the time in which it may be renewed after its end:
then nothing is left that the record could void."""


class Join(Frozen, frozen=True, kw_only=True):
    at: float
    """Unix seconds, whole."""
    token: str
    """Id of the token that was used: only this one may still be repeated."""
    expires: float
    """When the record may go."""


def read(value: bytes) -> Join | None:
    """None: it cannot be read."""
    try:
        return codec.decode_struct(Join, value)
    except codec.Undecodable:
        return None


def since(value: bytes | None) -> float:
    """What was issued before this moment is void: 0 without a record, infinity if it cannot be read."""
    if value is None:
        return 0.0
    join = read(value)
    return join.at if join else math.inf


def next_join(before: Join | None, token: str, now: float) -> Join:
    """The record of a join that happens now, later than the one before.

    Certificates count whole seconds, so it is dated at the start of one that no earlier certificate can be dated in.
    """
    at = math.floor(now) + 1 + LEEWAY
    # A record that lies further ahead than clocks may be off was written by a clock that nobody should wait for.
    if before is not None and before.at <= now + BACKDATE:
        at = max(at, math.floor(before.at) + 1.0)
    return Join(at=at, token=token, expires=at + KEEP)
