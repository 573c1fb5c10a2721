"""A wrapper around any store that checks both sides of the contract: the callers' and the store's own.

Tests put it around the stores they hand out, so that a misuse fails where it happens.
"""

from collections.abc import AsyncIterator, Sequence

from mesh.model import Revision
from mesh.store.protocol import MAX_GETS, Batch, Compare, Item, Lease, Listing, Op, Put, Range, Store, Watch


class BrokenContractError(AssertionError):
    """Somebody did not keep the store's contract."""


class StrictStore:
    """The wrapped store, checked."""

    def __init__(self, store: Store) -> None:
        self._store, self._closed = store, False
        self._newest = Revision(0)
        """That any answer told. A restore may set the store back between two calls: not the caller's fault."""

    async def get(self, key: str, *, at: Revision | None = None) -> Item | None:
        self._usable()
        _key(key)
        _check(at is None or at >= 1, f"no revision is {at}")
        item = await self._store.get(key, at=at)
        _check(item is None or item.key == key, f"{item} is no answer to get {key}")
        return item

    async def get_many(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        self._usable()
        _check(len(keys) <= MAX_GETS, f"{len(keys)} keys are asked for at once")
        for key in keys:
            _key(key)
        items = await self._store.get_many(keys)
        _check(len(items) == len(keys), "not an answer for each key")
        for key, item in zip(keys, items, strict=True):
            _check(item is None or item.key == key, f"{item} is no answer to get {key}")
        return items

    async def list(self, prefix: str) -> Listing:
        self._usable()
        _key(prefix)
        listing = await self._store.list(prefix)
        names = [item.key for item in listing.items]
        _check(names == sorted(set(names)), "a listing is sorted and has each key once")
        _check(all(name.startswith(prefix) for name in names), f"a key outside {prefix} was listed")
        _check(all(item.revision <= listing.revision for item in listing.items), "an item newer than its listing")
        self._newest = max(self._newest, listing.revision)
        return listing

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op]) -> Revision:
        self._usable()
        _check(bool(compares or ops), "an empty transaction")
        written, compared = [op.key for op in ops], [compare.key for compare in compares]
        _check(len(set(written)) == len(written), "one key is written twice")
        _check(len(set(compared)) == len(compared), "one key is compared twice")
        for key in (*written, *compared):
            _key(key)
        for op in ops:
            _check(not isinstance(op, Put) or isinstance(op.value, bytes), f"the value of {op.key} is not bytes")
        return await self._store.txn(compares, ops)

    async def lease(self, ttl: int) -> Lease:
        self._usable()
        _check(ttl >= 1, "a lease of no time")
        return await self._store.lease(ttl)

    def watch(self, ranges: Sequence[Range]) -> Watch:
        self._usable()
        _check(bool(ranges), "a watch of nothing")
        prefixes = [watched.prefix for watched in ranges]
        for watched in ranges:
            _key(watched.prefix)
            _check(watched.start >= 1, f"a watch from revision {watched.start}")
            inside = [p for p in prefixes if p.endswith("/") and p != watched.prefix and watched.prefix.startswith(p)]
            _check(not inside, f"{watched.prefix} lies in {inside}, so its changes would come twice")
        _check(len(set(prefixes)) == len(prefixes), "one range twice")
        return StrictWatch(self, self._store.watch(ranges), ranges)

    async def revision(self) -> Revision:
        self._usable()
        revision = await self._store.revision()
        self._newest = max(self._newest, revision)
        return revision

    async def newest(self) -> Revision:
        """The newest revision that the store has, or had."""
        await self.revision()
        return self._newest

    async def close(self) -> None:
        self._closed = True
        await self._store.close()

    def _usable(self) -> None:
        _check(not self._closed, "the store is closed")


class StrictWatch:
    """A watch, checked: starts not in the future; batches whole, in order, and of their range."""

    def __init__(self, store: StrictStore, watch: Watch, ranges: Sequence[Range]) -> None:
        self._store, self._watch, self._ranges = store, watch, tuple(ranges)
        self._last = {watched.prefix: watched.start - 1 for watched in ranges}
        self._begun = False

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if not self._begun:
            newest = await self._store.newest()
            late = [watched for watched in self._ranges if watched.start > newest + 1]
            _check(not late, f"{late} begins after the next revision, {newest + 1}")
            self._begun = True
        batch = await self._watch.__anext__()
        last = self._last.get(batch.prefix)
        _check(last is not None, f"{batch.prefix} is not watched")
        assert last is not None
        if batch.events:
            _check(batch.revision > last, f"{batch.prefix}: {batch.revision} after {last}")
            for event in batch.events:
                _check(event.revision == batch.revision, f"{event.key} of another revision in batch {batch.revision}")
                whole = event.key.startswith(batch.prefix) if batch.prefix.endswith("/") else event.key == batch.prefix
                _check(whole, f"{event.key} is not in {batch.prefix}")
        self._last[batch.prefix] = max(last, batch.revision)
        return batch

    async def aclose(self) -> None:
        await self._watch.aclose()


def _key(key: str) -> None:
    _check(key.startswith("/") and "\0" not in key, f"{key!r} is no key of ours")


def _check(holds: bool, words: str) -> None:
    if not holds:
        raise BrokenContractError(words)
