"""Follow prefixes of a store for ever: list, watch, resume, list again. The only way to watch.

What the consumer may rely on, for each prefix by itself (the contract suite tests it):

    ordered      revisions only grow, except that a Listed after a restore may go back
    unique       no change twice
    atomic       one revision's changes come in one event, whole
    gap-free     nothing that happened is missing, or a Listed makes up for it, deletes included
    resumable    after a break, also of this process (`known`), it goes on behind what was seen
    converged    what was emitted, applied in order, is what the store holds

A store that was restored from an older snapshot is recognised, though its id is the same and its revisions may have
passed ours: its epoch differs, or a change that we remember is not there. Then everything is listed anew.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from mesh import keys
from mesh.aio import Backoff, pause
from mesh.model import Frozen, Revision
from mesh.store.errors import Compacted, Refused, Unavailable
from mesh.store.protocol import Batch, Event, Item, Range, Store

BASE_SECONDS, CAP_SECONDS = 0.05, 5.0
WITNESSES = 3
"""How many remembered changes are compared after a break: the newest of all prefixes."""


@dataclass(frozen=True, slots=True)
class Listed:
    """All differences between this prefix and what was known of it; at first, everything."""

    prefix: str
    revision: Revision
    events: tuple[Event, ...]
    restored: bool = False
    """The store's history is another one, so revisions may go back."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What one revision changed."""

    prefix: str
    revision: Revision
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Progressed:
    """Nothing new in this prefix up to here."""

    prefix: str
    revision: Revision


@dataclass(frozen=True, slots=True)
class Broken:
    """No connection; for status only. Said once for each reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Restored:
    """Connected, for the first time or again; for status only."""


FollowEvent = Listed | Changed | Progressed | Broken | Restored


class Witness(Frozen, frozen=True, kw_only=True):
    """A change that this history has; another one hardly has it too."""

    key: str
    revision: int
    digest: int
    """Of the value; 0: it was deleted."""


class Known(Frozen, frozen=True, kw_only=True):
    """What is known of one prefix; to be kept over a restart beside the values themselves."""

    revision: int
    """Everything up to it was seen."""
    epoch: str = ""
    keys: dict[str, tuple[int, int]] = {}
    """Key -> revision of its last change, and digest of its value."""
    witnesses: tuple[Witness, ...] = ()
    """The newest put and the newest delete."""
    doubtful: bool = False
    """The store's history was found to be another one, or gone, and this prefix was not listed since."""


class _Place:
    """One prefix: how far it was followed. Mutable; the Follower's own."""

    def __init__(self, prefix: str, known: Known | None) -> None:
        self.prefix = prefix
        self.revision = Revision(known.revision if known else 0)
        self.keys = dict(known.keys) if known else {}
        self.must_list = known is None or known.doubtful
        self._put: Witness | None = None
        self._delete: Witness | None = None
        for witness in known.witnesses if known else ():
            self._remember(witness)

    @property
    def witnesses(self) -> tuple[Witness, ...]:
        return tuple(w for w in (self._put, self._delete) if w is not None)

    def known(self, epoch: str) -> Known:
        return Known(
            revision=self.revision,
            epoch=epoch,
            keys=dict(self.keys),
            witnesses=self.witnesses,
            doubtful=self.must_list,
        )

    def changed(self, revision: Revision, events: Sequence[Event]) -> None:
        for event in events:
            witness = Witness(key=event.key, revision=event.revision, digest=digest(event.value))
            if event.value is None:
                self.keys.pop(event.key, None)
            else:
                self.keys[event.key] = (event.revision, witness.digest)
            self._remember(witness)
        self.revision = revision

    def listed(self, items: Sequence[Item], revision: Revision) -> tuple[Event, ...]:
        """Take a listing; the differences to what was known.

        By revision and by value: after a restore another value may stand at the same revision.
        """
        keys_now = {item.key: (int(item.revision), digest(item.value)) for item in items}
        events = [
            Event(item.key, item.value, item.revision, item.created)
            for item in items
            if self.keys.get(item.key) != keys_now[item.key]
        ]
        gone = sorted(self.keys.keys() - keys_now.keys())
        # When something was deleted a listing does not tell, so no delete that we remember is worth anything now.
        self._put = self._delete = None
        if items:
            newest = max(items, key=lambda item: item.revision)
            self._put = Witness(key=newest.key, revision=newest.revision, digest=keys_now[newest.key][1])
        self.keys, self.revision, self.must_list = keys_now, revision, False
        return (*events, *(Event(key, None, revision) for key in gone))

    def _remember(self, witness: Witness) -> None:
        if witness.digest:
            self._put = witness
        else:
            self._delete = witness


class Follower:
    """Follows prefixes (each ends with a slash, or is one whole key) on one watch stream."""

    def __init__(
        self,
        store: Store,
        prefixes: Sequence[str],
        *,
        rng: random.Random,
        known: Mapping[str, Known] | None = None,
        on_epoch: Callable[[str], None] | None = None,
        insist: bool = False,
    ) -> None:
        """Describe it; `run` does it.

        Args:
            store: Not closed by this.
            prefixes: Distinct, and none within another.
            rng: For the jitter of retries.
            known: What the consumer holds already, by prefix, from `Follower.known`.
            on_epoch: Called with the store's epoch whenever it is another one than before.
            insist: A store without an epoch, in the place of one that had one, is not followed: it was lost, or is
                being restored, and what it lacks is nobody's wish.

        """
        self._store, self._on_epoch, self._insist = store, on_epoch, insist
        self._backoff = Backoff(rng, base=BASE_SECONDS, cap=CAP_SECONDS)
        known = known or {}
        self._places = {prefix: _Place(prefix, known.get(prefix)) for prefix in prefixes}
        # Prefixes that were followed under different epochs cannot all be right.
        epochs = {known[prefix].epoch for prefix in prefixes if prefix in known}
        self._epoch = epochs.pop() if len(epochs) == 1 else None
        self._restored = bool(epochs) or any(known[prefix].doubtful for prefix in prefixes if prefix in known)
        self._reason: str | None = None

    def known(self) -> dict[str, Known]:
        """What was emitted so far, for a successor. Call it between two events of `run`."""
        epoch = self._epoch or ""
        return {prefix: place.known(epoch) for prefix, place in self._places.items() if place.revision > 0}

    async def run(self) -> AsyncGenerator[FollowEvent, None]:
        """Never ends by itself; close it."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                async with aclosing(self._session()) as session:
                    async for event in session:
                        yield event
            except Compacted:
                self._list_all()
            except (Unavailable, Refused) as exc:
                if (reason := str(exc)) != self._reason:
                    self._reason = reason
                    yield Broken(reason)
            if loop.time() - started > CAP_SECONDS:
                self._backoff.reset()
            await pause(self._backoff.next())

    async def _session(self) -> AsyncGenerator[FollowEvent, None]:
        """From a connection to its end, which is a StoreError, or to a doubt about the store's history."""
        await self._compare_history()
        while waiting := [place for place in self._places.values() if place.must_list]:
            yield await self._list(waiting[0])
        self._restored = False
        ranges = [Range(place.prefix, Revision(place.revision + 1)) for place in self._places.values()]
        async with aclosing(self._store.watch(ranges)) as watch:
            fresh = True
            async for batch in watch:
                if fresh:
                    # Only now is it sure that the stream and what is compared come from the same history: a restore
                    # ends every stream.
                    fresh = False
                    if not await self._compare_history():
                        return
                    self._reason = None
                    yield Restored()
                if (event := self._advance(batch)) is not None:
                    yield event

    def _list_all(self) -> None:
        for place in self._places.values():
            place.must_list = True

    async def _list(self, place: _Place) -> Listed:
        listing = await self._store.list(place.prefix)
        if listing.revision < place.revision:
            # Restored since we compared.
            self._restored = True
            self._list_all()
        # A whole key's listing may hold longer keys.
        items = [item for item in listing.items if place.prefix.endswith("/") or item.key == place.prefix]
        events = place.listed(items, listing.revision)
        return Listed(place.prefix, listing.revision, events, restored=self._restored)

    def _advance(self, batch: Batch) -> Changed | Progressed | None:
        place = self._places[batch.prefix]
        if batch.revision <= place.revision:
            return None
        if not batch.events:
            place.revision = batch.revision
            return Progressed(batch.prefix, batch.revision)
        place.changed(batch.revision, batch.events)
        return Changed(batch.prefix, batch.revision, batch.events)

    async def _compare_history(self) -> bool:
        """Is the store's history surely the one that we followed? If not, everything must be listed."""
        item = await self._store.get(keys.EPOCH)
        epoch = item.value.decode(errors="replace") if item else ""
        if self._insist and self._epoch and not epoch:
            raise Unavailable("the store holds no mesh: it was lost, or is being restored")
        verdict: bool | None = True
        if any(place.revision for place in self._places.values()):
            verdict = epoch == self._epoch and await self._same_history()
        if epoch != self._epoch:
            self._epoch = epoch
            if self._on_epoch is not None:
                self._on_epoch(epoch)
        if not verdict:
            self._restored = self._restored or verdict is False
            self._list_all()
        return bool(verdict)

    async def _same_history(self) -> bool | None:
        """None: it cannot be told any more."""
        if await self._store.revision() < max(place.revision for place in self._places.values()):
            return False
        witnesses = [w for place in self._places.values() for w in place.witnesses]
        witnesses.sort(key=lambda witness: witness.revision, reverse=True)
        for witness in witnesses[:WITNESSES]:
            try:
                if not await self._testifies(witness):
                    return False
            except Compacted:
                return None
        return True

    async def _testifies(self, witness: Witness) -> bool:
        item = await self._store.get(witness.key)
        if item is None and not witness.digest:
            return True
        if item is None or item.revision > witness.revision:
            # It has changed since. What was it then?
            item = await self._store.get(witness.key, at=Revision(witness.revision))
        if item is None:
            return not witness.digest
        return item.revision == witness.revision and digest(item.value) == witness.digest


def digest(value: bytes | None) -> int:
    """A short hash of a value, never 0; 0 for none."""
    if value is None:
        return 0
    return int.from_bytes(hashlib.blake2b(value, digest_size=6).digest()) or 1
