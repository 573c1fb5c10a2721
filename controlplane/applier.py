"""The thin hand of admission: reads what a plan needs, runs its transaction, and plans again after a conflict."""

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from controlplane.admission import (
    Conflicts,
    Intent,
    Invalid,
    Limits,
    Plan,
    Removal,
    Result,
    State,
    emptied,
    for_proxies,
    needs,
    plan,
    read,
    undo,
)
from controlplane.history import Change, Mark, Source, name_of
from controlplane.view import Held
from mesh import codec, keys
from mesh.model import KINDS, Object, Peering, Ref, Revision
from mesh.store.errors import Conflict
from mesh.store.protocol import Store

ATTEMPTS = 8
READS = 16
"""Objects read at once. Each may be as large as a transaction, and all of them must fit into one answer."""


@dataclass(frozen=True, slots=True)
class Applied:
    revision: Revision
    results: tuple[Result, ...]
    entry: str = ""
    """In the history; empty: nothing changed."""
    wait_for: Revision = Revision(0)
    """When this revision is in force, so is all of the call. 0: nothing of it concerns proxies."""
    changes: tuple[Change, ...] = ()
    """What was written, or in a dry run would be."""


class Applier:
    def __init__(self, store: Store, limits: Limits, wall: Callable[[], float]) -> None:
        self._store, self._limits, self._wall = store, limits, wall

    async def apply(
        self,
        documents: Sequence[object],
        removals: Sequence[Removal],
        *,
        author: str,
        source: Source,
        dry_run: bool = False,
    ) -> Applied | Invalid | Conflicts:
        """All of it in one transaction, or nothing and why.

        Raises:
            Conflict: others change the same objects faster than this can.

        """
        intent = read(documents, removals)
        return intent if isinstance(intent, Invalid) else await self._apply(intent, author, source, dry_run=dry_run)

    async def _apply(
        self, intent: Intent, author: str, source: Source, *, dry_run: bool = False
    ) -> Applied | Invalid | Conflicts:
        for _ in range(ATTEMPTS):
            found = await self.prepare(intent, author=author, source=source)
            if not isinstance(found, Plan):
                return found
            if dry_run:
                return await self._unwritten(found)
            if (done := await self.commit(found)) is not None:
                return done
        raise Conflict("these objects are being changed by others; try again")

    async def prepare(self, intent: Intent, *, author: str, source: Source) -> Plan | Invalid | Conflicts:
        """What would be written now."""
        state = await self._state(intent)
        now = self._wall()
        mark = Mark(name_of(now, uuid.uuid4().hex[:8]), author, now, source, state.epoch)
        return plan(intent, state, mark=mark, new_uid=lambda: str(uuid.uuid4()), limits=self._limits)

    async def commit(self, prepared: Plan) -> Applied | None:
        """Write it, if everything is still as it was when it was prepared; None: it is not."""
        if prepared.transaction is None:
            return await self._unwritten(prepared)
        try:
            revision = await self._store.txn(prepared.transaction.compares, prepared.transaction.ops)
        except Conflict:
            return None
        concerned = any(for_proxies(change.ref) for change in prepared.changes)
        wait_for = revision if concerned else prepared.standing
        return Applied(revision, prepared.results, prepared.entry, wait_for, prepared.changes)

    async def _unwritten(self, prepared: Plan) -> Applied:
        newest = await self._store.revision()
        return Applied(newest, prepared.results, wait_for=prepared.standing, changes=prepared.changes)

    async def put_back(self, done: Applied, *, author: str) -> Applied | Invalid | Conflicts:
        """Make the objects what they were before this was written, if nobody has changed them since.

        Raises:
            Conflict: others change the same objects faster than this can.

        """
        return await self._apply(undo(done.changes, done.revision), author, "revert")

    async def _state(self, intent: Intent) -> State:
        current: dict[Ref, Held[Object]] = {}
        unreadable: dict[Ref, Revision] = {}
        raw: dict[Ref, bytes] = {}
        for refs in batched(needs(intent), READS):
            items = await self._store.get_many([keys.key_for(ref) for ref in refs])
            for ref, item in zip(refs, items, strict=True):
                if item is None:
                    continue
                raw[ref] = item.value
                try:
                    current[ref] = Held(codec.decode(ref.kind, item.value), item.revision)
                except codec.Undecodable:
                    unreadable[ref] = item.revision
        if any(obj.kind == Peering.__name__ for obj in intent.objects):
            current = await self._peerings() | current
        contents = {namespace: await self._contents(namespace) for namespace in emptied(intent)}
        # What operators write is this cluster's own, so one total is all that it can add to.
        totals = {keys.DELETIONS: await self._store.get(keys.DELETIONS)} if intent.removals else {}
        epoch = await self._store.get(keys.EPOCH)
        return State(current, unreadable, raw, contents, totals, codec.epoch(epoch.value) if epoch else "")

    async def _peerings(self) -> dict[Ref, Held[Object]]:
        """All of them: no two may be of one trust domain."""
        found: dict[Ref, Held[Object]] = {}
        for item in (await self._store.list(keys.prefix_for(Peering.__name__))).items:
            with contextlib.suppress(codec.Undecodable):
                obj = codec.decode(Peering.__name__, item.value)
                found[obj.ref] = Held(obj, item.revision)
        return found

    async def _contents(self, namespace: str) -> list[Ref]:
        found: list[Ref] = []
        for kind, row in KINDS.items():
            if row.namespaced and row.operator:
                listing = await self._store.list(keys.prefix_for(kind, namespace))
                found.extend(ref for item in listing.items if isinstance(ref := keys.parse(item.key), Ref))
        return found


def batched(refs: Iterable[Ref], size: int) -> Iterator[tuple[Ref, ...]]:
    """In order, so many at a time."""
    rest = iter(refs)
    while some := tuple(itertools.islice(rest, size)):
        yield some
