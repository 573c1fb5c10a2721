"""Which losses are obeyed, and which are held back until they are declared. Over what was gathered; no store, no clock.

Every declared deletion is accounted for by whose the keys are (keys.peer_of): this cluster's own, and the imports of
each peer. What a peer takes back so counts for its imports alone, whatever it takes back and how often; and of what was
declared, nothing counts twice.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog

from agent.gather import Gathered
from agent.state import StoredWorld
from mesh import codec, keys
from mesh.codec import StoredEvent
from mesh.model.world import Deletions
from mesh.store import guard

log = structlog.get_logger(__name__)

TOTALS = (keys.WITHDRAWALS, keys.DELETIONS)
"""Ranges that hold the running totals of what was declared."""


@dataclass(slots=True)
class _Account:
    """Declared deletions of one owner's keys."""

    settled: int
    """The running total up to which nothing is open: what was declared before excuses no later loss."""
    used: int = 0
    """Of what was declared since: deletions that were obeyed."""


class Losses:
    def __init__(self, gathered: Gathered, stored: StoredWorld | None = None) -> None:
        """Begin with what was gathered from disk, or with nothing."""
        self._gathered = gathered
        self._accounts = {owner: _Account(*account) for owner, account in (stored.accounts if stored else {}).items()}
        self._open = set(self._accounts)
        """Owners whose account may not be settled."""
        self._ranges: dict[str, list[str]] = {}
        """Owner -> ranges of its keys, the last that is heard of first."""
        self._first = {prefix for prefix in TOTALS if not gathered.listed((prefix,))}
        """Totals that were never heard: they say nothing of what was known before."""
        held = {keys.peer_of(prefix) for prefix in gathered.prefixes() if gathered.held_in(prefix)}
        self._holding = dict.fromkeys(sorted(held), stored.held if stored else "")
        self._open |= held

    def follow(self, prefixes: Sequence[str]) -> None:
        """These ranges are followed from now on, and none else."""
        self._ranges = {"": []}
        for prefix in reversed(prefixes):
            if prefix not in TOTALS:
                self._ranges.setdefault(keys.peer_of(prefix), []).append(prefix)
        for owner in self._ranges:
            self._account(owner)

    @property
    def held(self) -> str:
        """Why deletions are held back; empty: none are."""
        return "; ".join(dict.fromkeys(self._holding.values()))

    @property
    def accounts(self) -> dict[str, tuple[int, int]]:
        """For the disk."""
        return {owner: (account.settled, account.used) for owner, account in self._accounts.items()}

    def declared(self, prefix: str, total: bytes | None) -> int:
        """How many deletions in this range's account are declared and open, if its running total is this now."""
        return self._left(keys.peer_of(prefix), _number(total))

    def obeys(self, prefix: str, lost: Collection[StoredEvent], declared: int) -> bool:
        """Judge the loss of these keys; if they are held back, that is noted."""
        owner = keys.peer_of(prefix)
        verdict = guard.judge(self._gathered.count(prefix), len(lost), declared)
        if isinstance(verdict, guard.Hold):
            self._gathered.hold(prefix, lost)
            self._open.add(owner)
            self._holding[owner] = (
                f"{prefix}: {verdict.reason}; they stay in force here until a declared write, or `release`"
            )
            log.critical("a mass deletion is held back", prefix=prefix, keys=len(lost), reason=verdict.reason)
            return False
        self._account(owner).used += len(lost)
        self._open.add(owner)
        return True

    def again(self, prefix: str) -> bool:
        """After an event of this range: obey what is held and was declared after all.

        True: the world is another one.
        """
        if prefix in TOTALS:
            touched = {owner for owner in self._accounts if _total_range(owner) == prefix}
            if prefix in self._first:
                self._accounts |= {owner: _Account(self._total(owner)) for owner in touched}
            self._first.discard(prefix)
            self._open |= touched
        changed = False
        for owner in list(self._open):
            changed = self._again(owner) or changed
        return changed

    def release(self) -> bool:
        """An operator's word: obey all that is held back. True: the world is another one."""
        changed = self._gathered.release()
        for owner in list(self._holding):
            self._settle(owner)
        return changed

    def _again(self, owner: str) -> bool:
        if not self._in_step(owner):
            return False
        held = sum(self._gathered.held_in(prefix) for prefix in self._ranges.get(owner, ()))
        total = self._total(owner)
        if held and total < self._account(owner).settled:
            # The store is another one, or was restored: what it declares from now on counts.
            self._accounts[owner] = _Account(total)
        if held and self._left(owner, total) < held:
            return False
        changed = False
        if held:
            log.warning("held deletions were declared after all", keys=held, peer=owner)
            changed = self._gathered.release(self._ranges[owner])
        self._settle(owner)
        return changed

    def _settle(self, owner: str) -> None:
        self._accounts[owner] = _Account(self._total(owner))
        self._holding.pop(owner, None)
        self._open.discard(owner)

    def _in_step(self, owner: str) -> bool:
        """Was just that seen which the total counts? Ranges come in no order: either may be ahead of the other."""
        at = self._gathered.revision(_total_range(owner))
        return all(self._gathered.revision(prefix) == at for prefix in self._ranges.get(owner, ()))

    def _left(self, owner: str, total: int) -> int:
        account = self._account(owner)
        return total - account.settled - account.used

    def _account(self, owner: str) -> _Account:
        return self._accounts.setdefault(owner, _Account(self._total(owner)))

    def _total(self, owner: str) -> int:
        """As far as it was followed."""
        return _number(self._gathered.value(_total_range(owner), keys.total_of(owner)))


def _total_range(owner: str) -> str:
    return keys.WITHDRAWALS if owner else keys.DELETIONS


def _number(raw: bytes | None) -> int:
    try:
        return codec.decode_struct(Deletions, raw).total if raw else 0
    except codec.Undecodable:
        return 0
