"""Follows the mesh: events of the store -> guard -> World. Tells of a new world at once; no timer stands in the way.

One watch stream for everything this host is interested in. When that changes, the follower is replaced by one that
goes on where it was; only ranges that are new are listed.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
import structlog

from agent import metrics
from agent.gather import Gathered
from agent.losses import TOTALS, Losses
from agent.state import StoredWorld
from mesh import codec, keys
from mesh.aio import unless
from mesh.model import Peering, Revision, ServiceRef, World
from mesh.model.world import Commit
from mesh.store import guard
from mesh.store.errors import StoreError
from mesh.store.follow import Broken, Changed, Follower, FollowEvent, Listed, Progressed, Restored
from mesh.store.protocol import Event, Store

log = structlog.get_logger(__name__)

ALWAYS = (keys.OBJECTS, keys.BUNDLES)


@dataclass(frozen=True, slots=True)
class Told:
    """Whom the watch tells what; called on the loop, must not block."""

    world: Callable[[World], None]
    """There is another world, complete for what this host is interested in."""
    observed: Callable[[Revision], None]
    """Nothing in it changed up to here."""
    broken: Callable[[str], None]
    restored: Callable[[], None]


class Watch:
    def __init__(
        self, told: Told, *, interest: Callable[[World], Iterable[ServiceRef]], rng: random.Random,
        counters: metrics.Counters,
    ) -> None:  # fmt: skip
        self._told, self._interest, self._rng, self._counters = told, interest, rng, counters
        self._gathered = Gathered()
        self._store: Store | None = None
        self._follower: Follower | None = None
        self._prefixes: tuple[str, ...] = ()
        self._again = asyncio.Event()
        self._one = asyncio.Lock()
        """Held while an event is taken."""
        self._taken = asyncio.Event()
        """Not set from the moment at which the follower counts an event as known until it was taken."""
        self._taken.set()
        self._live = False
        self._untold = False
        """The world changed in what it leads to, and that is not known whole yet."""
        self._losses = Losses(self._gathered)

    @property
    def held(self) -> str:
        """Why deletions are held back; empty: none are."""
        return self._losses.held

    @property
    def world(self) -> World:
        return self._gathered.world

    @property
    def newest(self) -> Revision:
        return self._gathered.newest

    def use(self, stored: StoredWorld | None) -> World:
        """Begin with what is on disk, or with nothing. Not once the store was heard."""
        if not self._live:
            self._gathered = Gathered(stored)
            self._losses = Losses(self._gathered, stored)
            self._again.set()
        return self._gathered.world

    def follow(self, store: Store) -> None:
        """From now on, and from this store; a former one is left."""
        self._store = store
        self._again.set()

    def interested(self) -> None:
        """What this host is interested in may have changed."""
        if set(self._wanted()) != set(self._prefixes):
            self._again.set()

    async def stored(self) -> StoredWorld:
        """What to write to disk: between two events, when what is known and what was taken agree."""
        while not self._taken.is_set():
            await self._taken.wait()
        async with self._one:
            if self._follower is not None:
                self._gathered.followed(self._follower.known())
            return msgspec.structs.replace(self._gathered.stored(), held=self.held, accounts=self._losses.accounts)

    async def release(self) -> int:
        """An operator's word: obey the deletions that are held back. Returns how many."""
        async with self._one:
            count = self._gathered.held
            if self._losses.release():
                log.warning("held deletions were released", keys=count)
                self._changed()
            return count

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            self._again.clear()
            if self._store is None:
                await self._again.wait()
                continue
            await self._session(self._store)

    def _wanted(self) -> tuple[str, ...]:
        world = self._gathered.world
        peers = sorted(found.metadata.name for found in world.objects.values() if isinstance(found, Peering))
        services = sorted(set(self._interest(world)))
        # The totals of declared deletions are listed last: until then what we know of them is as old as the rest.
        return (
            *ALWAYS,
            *(keys.imported_services_of(peer) for peer in peers),
            *(keys.endpoints_of(service) for service in services),
            *TOTALS,
        )

    async def _session(self, store: Store) -> None:
        """Until the follower is replaced. What it has emitted is always taken: its successor goes on behind it."""
        async with self._one:
            follower = self._follower = self._begin(store)
        try:
            async with aclosing(follower.run()) as events:
                while not self._again.is_set():
                    event = await unless(self._again, self._next(events))
                    if event is not None:
                        async with self._one:
                            await self._take(store, event)
                            self._taken.set()
        finally:
            if not self._taken.is_set():  # cancelled in between: it knows of an event that was not taken
                self._follower = None
                self._taken.set()

    async def _next(self, events: AsyncGenerator[FollowEvent, None]) -> FollowEvent:
        event = await anext(events)
        self._taken.clear()  # nobody else runs between these two
        return event

    def _begin(self, store: Store) -> Follower:
        if self._follower is not None:
            self._gathered.followed(self._follower.known())
        wanted = self._wanted()
        lost = False
        for prefix in self._prefixes:
            if prefix not in wanted:
                lost = self._gathered.forget(prefix) or lost
        self._prefixes = wanted
        self._losses.follow(wanted)
        if lost:
            self._changed()
        known = self._gathered.known(wanted)
        return Follower(store, wanted, rng=self._rng, known=known, on_epoch=self._gathered.epoch, insist=True)

    async def _take(self, store: Store, event: FollowEvent) -> None:
        match event:
            case Listed(prefix, revision, events):
                changed = await self._guarded(store, prefix, revision, events, listed=True)
                self._after(changed=changed or not self._live, revision=revision)
            case Changed(prefix, revision, events):
                changed = await self._guarded(store, prefix, revision, events, listed=False)
                self._after(changed=changed, revision=revision)
            case Progressed(prefix, revision):
                self._gathered.progressed(prefix, revision)
                self._after(changed=self._losses.again(prefix), revision=revision)
            case Broken(reason):
                log.warning("the mesh cannot be followed; what is known stays in force", reason=reason)
                self._told.broken(reason)
            case Restored():
                log.info("following the mesh", ranges=len(self._prefixes))
                self._told.restored()
                # Also nothing new is news to who begins with a world from disk.
                self._after(changed=not self._live, revision=self._gathered.world.revision)

    def _after(self, *, changed: bool, revision: Revision) -> None:
        if changed or self._untold:
            self._changed()
        elif self._live and revision == self._gathered.world.revision:
            self._told.observed(revision)

    def _changed(self) -> None:
        """Tell, once everything of interest is known whole.

        A half-known world would take endpoints from Envoy, or send requests to a Service of which none is known yet: a
        route goes into force with the endpoints that it leads to.
        """
        self.interested()
        self._untold = not self._gathered.listed(self._wanted())
        if self._untold:
            return
        self._live = self._store is not None
        self._told.world(self._gathered.world)

    # --- the guard ---

    async def _guarded(
        self, store: Store, prefix: str, revision: Revision, events: tuple[Event, ...], *, listed: bool
    ) -> bool:
        """Apply what the guard lets through. True: the world is another one."""
        self._counters.count(metrics.CHANGES, amount=len(events))
        deleted = [event for event in events if event.value is None]
        if deleted:
            declared = 0
            if len(deleted) >= guard.LEAST:
                ask = self._declared_since if listed else self._declared_at
                declared = await ask(store, prefix, revision)
            if not self._losses.obeys(prefix, deleted, declared):
                events = tuple(event for event in events if event.value is not None)
        changed = self._gathered.take(prefix, revision, events, listed=listed)
        return self._losses.again(prefix) or changed

    async def _declared_at(self, store: Store, prefix: str, revision: Revision) -> int:
        """What the transaction of this revision says that it deleted, of whose this range is."""
        try:
            item = await store.get(keys.COMMIT, at=revision)
            if item is None or item.revision != revision:
                return 0
            return codec.decode_struct(Commit, item.value).deleted_of(keys.peer_of(prefix))
        except (StoreError, codec.Undecodable) as exc:
            log.warning("what a transaction declared cannot be read", revision=revision, error=str(exc))
            return 0

    async def _declared_since(self, store: Store, prefix: str, revision: Revision) -> int:
        """How many deletions were declared until this revision since we knew this range."""
        try:
            item = await store.get(keys.total_of(keys.peer_of(prefix)), at=revision)
            return self._losses.declared(prefix, item.value if item else None)
        except StoreError as exc:
            log.warning("what was declared meanwhile cannot be read", error=str(exc))
            return 0
