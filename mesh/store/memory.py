"""The store's contract in memory, with real semantics: revisions, compare-and-swap, history, leases, watches.

It can also fail as a real one does: members that are gone, watches that break, history that is compacted, a snapshot
that is restored. Tests and single-process tools use it.
"""

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from mesh.model import Revision
from mesh.store.errors import Compacted, Conflict, Refused, StoreError, Unavailable
from mesh.store.protocol import Batch, Compare, Delete, Event, Item, Listing, Op, Put, Range

MAX_TXN_OPS = 10_000
MAX_TXN_BYTES = 4 * 2**20
"""As the clusters that we set up have them."""

LEASE_POLL_SECONDS = 0.05
"""How often a waiting watch looks for leases that ran out, while there are any."""


class Snapshot(NamedTuple):
    """All data at one revision, without history and leases."""

    items: tuple[Item, ...]
    revision: Revision


class MemoryStore:
    """A store of one process."""

    def __init__(self, history: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            history: How many revisions are kept before they are compacted. None: all.
            clock: For leases.

        """
        self._history, self._clock = history, clock
        self._revision = Revision(1)
        self._compacted = Revision(0)
        self._versions: dict[str, list[tuple[Revision, Item | None]]] = {}
        """Each key's past, oldest first; None: deleted."""
        self._leased: dict[str, int] = {}
        self._log: deque[tuple[Revision, tuple[Event, ...]]] = deque()
        self._leases: dict[int, tuple[int, float]] = {}
        """Id -> ttl, end."""
        self._last_lease = 0
        self._watches: set[MemoryWatch] = set()
        self._down = self._closed = False

    # -- the contract

    async def get(self, key: str, *, at: Revision | None = None) -> Item | None:
        await self._enter()
        if at is None:
            return self._now(key)
        if at < self._compacted or at > self._revision:
            raise Compacted(f"get {key} at {at}: history runs from {self._compacted} to {self._revision}")
        versions = self._versions.get(key, [])
        place = bisect_right(versions, at, key=lambda version: version[0])
        return versions[place - 1][1] if place else None

    async def get_many(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        await self._enter()
        return tuple(self._now(key) for key in keys)

    async def list(self, prefix: str) -> Listing:
        await self._enter()
        found = sorted(key for key in self._versions if key.startswith(prefix))
        return Listing(tuple(item for key in found if (item := self._now(key))), self._revision)

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op]) -> Revision:
        await self._enter()
        if len({op.key for op in ops}) < len(ops):
            raise Refused("write: one key twice in a transaction")
        if len(ops) > MAX_TXN_OPS or len(compares) > MAX_TXN_OPS:
            raise Refused("write: too many operations")
        if sum(len(op.key) + (len(op.value) if isinstance(op, Put) else 0) for op in ops) > MAX_TXN_BYTES:
            raise Refused("write: too large")
        for compare in compares:
            item = self._now(compare.key)
            if compare.revision != (item.revision if item else 0):
                raise Conflict(f"write: {compare.key} was changed by somebody else")
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self._leases:
                raise Refused(f"write {op.key}: its lease is not there")
        return self._write(ops)

    async def lease(self, ttl: int) -> "MemoryLease":
        await self._enter()
        self._last_lease += 1
        self._leases[self._last_lease] = (ttl, self._clock() + ttl)
        return MemoryLease(self, self._last_lease)

    def watch(self, ranges: Sequence[Range]) -> "MemoryWatch":
        return MemoryWatch(self, ranges)

    async def revision(self) -> Revision:
        await self._enter()
        return self._revision

    async def close(self) -> None:
        self._closed = True
        self._break(Unavailable("the store is closed"))

    # -- what happens to real stores

    @property
    def down(self) -> bool:
        """True: nothing answers, and watches break."""
        return self._down

    @down.setter
    def down(self, value: bool) -> None:
        self._down = value
        if value:
            self.break_watches()

    def break_watches(self, reason: str = "the stream broke") -> None:
        """All open watches end, as if their member had died."""
        self._break(Unavailable(reason))

    def compact(self, revision: Revision) -> None:
        """Forget the history before this revision."""
        self._compacted = max(self._compacted, min(revision, self._revision))
        while self._log and self._log[0][0] < self._compacted:
            self._log.popleft()
        for key, versions in list(self._versions.items()):
            place = bisect_right(versions, self._compacted, key=lambda version: version[0])
            del versions[: max(0, place - 1)]
            if len(versions) == 1 and versions[0][1] is None and versions[0][0] <= self._compacted:
                del self._versions[key]
        self._wake()

    def snapshot(self) -> Snapshot:
        """What a backup holds."""
        return Snapshot(tuple(item for key in self._versions if (item := self._now(key))), self._revision)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot: keys, their revisions, and the store's revision. Watches break."""
        self._revision = snapshot.revision
        self._compacted = snapshot.revision
        self._versions = {item.key: [(item.revision, item)] for item in snapshot.items}
        self._leased, self._leases = {}, {}
        self._log.clear()
        self.break_watches("the store was restored")

    def tick(self) -> None:
        """End the leases whose time is over by the clock."""
        now = self._clock()
        for lease_id in [i for i, (_, end) in self._leases.items() if end <= now]:
            self._end_lease(lease_id)

    # -- parts

    async def _enter(self) -> None:
        # As a real store: other tasks run between a call and its effect.
        await asyncio.sleep(0)
        if self._closed or self._down:
            raise Unavailable("the store is closed" if self._closed else "the store does not answer")
        self.tick()

    def _now(self, key: str) -> Item | None:
        versions = self._versions.get(key)
        return versions[-1][1] if versions else None

    def _write(self, ops: Sequence[Op]) -> Revision:
        revision, events = Revision(self._revision + 1), []
        for op in ops:
            old = self._now(op.key)
            if isinstance(op, Put):
                item = Item(op.key, op.value, revision, old.created if old else revision)
                self._versions.setdefault(op.key, []).append((revision, item))
                self._leased[op.key] = op.lease
                events.append(Event(op.key, op.value, revision, item.created))
            elif old is not None:
                self._versions[op.key].append((revision, None))
                self._leased.pop(op.key, None)
                events.append(Event(op.key, None, revision))
        if events:
            self._revision = revision
            self._log.append((revision, tuple(events)))
            if self._history is not None and revision - self._compacted > self._history:
                self.compact(Revision(revision - self._history))
            self._wake()
        return self._revision

    def _end_lease(self, lease_id: int) -> None:
        if self._leases.pop(lease_id, None) is None:
            return
        gone = [key for key, lease in self._leased.items() if lease == lease_id]
        if gone:
            self._write([Delete(key) for key in sorted(gone)])

    def _keep_alive(self, lease_id: int) -> bool:
        held = self._leases.get(lease_id)
        if held is not None:
            self._leases[lease_id] = (held[0], self._clock() + held[0])
        return held is not None

    def _wake(self) -> None:
        for watch in self._watches:
            watch.woken.set()

    def _break(self, error: StoreError) -> None:
        for watch in self._watches:
            watch.broken = error
        self._wake()


class MemoryLease:
    """A lease of a MemoryStore."""

    def __init__(self, store: MemoryStore, lease_id: int) -> None:
        self._store, self._id = store, lease_id

    @property
    def id(self) -> int:
        return self._id

    async def keep_alive(self) -> bool:
        await self._store._enter()  # noqa: SLF001 - a part of the store
        return self._store._keep_alive(self._id)  # noqa: SLF001

    async def revoke(self) -> None:
        await self._store._enter()  # noqa: SLF001
        self._store._end_lease(self._id)  # noqa: SLF001


class MemoryWatch:
    """A watch of a MemoryStore: a place in its log."""

    def __init__(self, store: MemoryStore, ranges: Sequence[Range]) -> None:
        self._store, self._ranges = store, tuple(ranges)
        self._next = Revision(max(1, min(r.start for r in ranges)))
        self._marked = Revision(0)
        self._out: deque[Batch] = deque()
        self._open = self._closed = False
        self.woken = asyncio.Event()
        self.broken: StoreError | None = None

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        try:
            if not self._open:
                await self._store._enter()  # noqa: SLF001
                self._open = True
                self._store._watches.add(self)  # noqa: SLF001
            while not self._out:
                await self._fill()
            return self._out.popleft()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        self._closed = True
        self._store._watches.discard(self)  # noqa: SLF001
        self.woken.set()

    async def _fill(self) -> None:
        """Take one revision out of the log, or a mark at its end, or wait for either."""
        store = self._store
        if self.broken is not None or self._closed:
            raise self.broken or Unavailable("the watch is closed")
        if self._next < store._compacted:  # noqa: SLF001
            raise Compacted(f"watch from {self._next}: history begins at {store._compacted}")  # noqa: SLF001
        # The log holds the newest revisions without a gap, unless they changed nothing.
        for revision, events in _from(store._log, self._next):  # noqa: SLF001
            self._next = Revision(revision + 1)
            self._out.extend(self._batches(revision, events))
            if self._out:
                return
        newest = store._revision  # noqa: SLF001
        if self._next > newest + 1:
            raise Unavailable(f"watch from {self._next}: the store is at {newest}")
        if self._marked < newest:
            self._marked = newest
            self._out.extend(Batch(r.prefix, newest, ()) for r in self._ranges if r.start <= newest + 1)
            return
        await self._wait()

    def _batches(self, revision: Revision, events: tuple[Event, ...]) -> list[Batch]:
        batches = []
        for watched in self._ranges:
            mine = tuple(event for event in events if _within(event.key, watched.prefix))
            if mine and revision >= watched.start:
                batches.append(Batch(watched.prefix, revision, mine))
        return batches

    async def _wait(self) -> None:
        self.woken.clear()
        leases = bool(self._store._leases)  # noqa: SLF001
        try:
            async with asyncio.timeout(LEASE_POLL_SECONDS if leases else None):
                await self.woken.wait()
        except TimeoutError:
            self._store.tick()


def _within(key: str, prefix: str) -> bool:
    return key.startswith(prefix) if prefix.endswith("/") else key == prefix


def _from(log: deque[tuple[Revision, tuple[Event, ...]]], start: Revision) -> list[tuple[Revision, tuple[Event, ...]]]:
    """The end of the log, from a revision on. Found from its end, since readers are mostly there."""
    found = []
    for entry in reversed(log):
        if entry[0] < start:
            break
        found.append(entry)
    return found[::-1]
