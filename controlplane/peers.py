"""The leader's work with peers: a link to each, what is known of it, and the removal of what is over.

Level-triggered, as the reconciler: it wakes when Peerings change, looks, and holds nothing that a new leader would
miss. What it removes is declared: of a peering that was deleted, and, if its policy says so, of a peer lost for long.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import structlog

from ca.limits import Buckets
from controlplane.election import Election
from controlplane.importing import Import
from controlplane.mirror import Mirror
from controlplane.peered import NEWS, TOMBSTONE_SECONDS, PeerRecord, learned, same_link
from controlplane.registry import Plan, pack
from controlplane.taking import Place
from controlplane.touched import Touched
from controlplane.view import View, roots_of
from controlplane.writer import Writer
from mesh import codec, keys
from mesh.aio import Backoff, first, pause
from mesh.model import Peering, Ref, Revision
from mesh.model.duration import seconds
from mesh.store.errors import StoreError
from mesh.store.protocol import Compare, Delete, Put, Store
from multicluster.link import PeerContext
from multicluster.session import Me

log = structlog.get_logger(__name__)

RECORD_SECONDS = 1.0
"""At most so often what is known of peers is written."""
SWEEP_SECONDS = 30.0
TRY_SECONDS = 60.0
"""At least so long a leader tries by itself to reach a peer before it removes what is left of it."""


class Peers:
    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        election: Election,
        *,
        me: Me,
        author: str,
        limit: int,
        addresses: Callable[[], tuple[str, ...]],
        tls: Callable[[tuple[str, ...], str], PeerContext],
        observe: Callable[[str, float], None],
        wall: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._store, self._mirror, self._view, self._election = store, mirror, mirror.view, election
        self._author, self._limit, self._wall, self._rng = author, limit, wall, rng
        self._me, self._addresses, self._tls, self._observe = me, addresses, tls, observe
        self._writer = Writer(store, mirror.view)
        self._wake, self._deposed, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._records: dict[str, PeerRecord] = {}
        """What the links say, newer than what is written."""
        self._epoch = ""
        self._began: dict[str, float] = {}
        """Peer -> when this leader began to dial it, monotonic."""
        mirror.subscribe(self._notice)
        election.subscribe(self._turned)

    def _notice(self, touched: Touched) -> None:
        if touched.peerings or touched.bundles or self._view.epoch != self._epoch:
            self._epoch = self._view.epoch
            self._wake.set()

    def _turned(self) -> None:
        if not self._election.leading:
            self._deposed.set()

    async def run(self) -> None:
        while True:
            fence = await self._election.fence()
            await self._mirror.ready.wait()
            self._deposed.clear()
            if self._election.leading:
                await first(self._lead(fence), self._over())
                self._records.clear()  # from here on another replica knows better

    async def _over(self) -> None:
        await self._deposed.wait()

    async def _lead(self, fence: Compare) -> None:
        self._records.clear()
        place = Place(
            view=self._view,
            writer=self._writer,
            fence=fence,
            me=self._me,
            limit=self._limit,
            addresses=self._addresses,
            tls=self._tls,
            tell=self._tell,
            observe=self._observe,
            wall=self._wall,
            rng=self._rng,
        )
        links: dict[str, Running] = {}
        self._began.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_records(fence))
            while True:
                self._wake.clear()
                self._relink(links, group, place)
                await self._sweep(fence)
                try:
                    async with asyncio.timeout(SWEEP_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _relink(self, links: dict[str, "Running"], group: asyncio.TaskGroup, place: Place) -> None:
        """A link for each Peering, and none else."""
        wanted = {peering.metadata.name: peering for peering in self._view.peerings()}
        for name in [n for n, one in links.items() if n not in wanted or self._is_over(one, wanted[n])]:
            for task in links.pop(name).tasks:
                task.cancel()
        for name, one in links.items():
            links[name] = one._replace(roots=roots_of(self._view, wanted[name]))
        for name in wanted.keys() - links.keys():
            made = Import(wanted[name], place)
            tasks = [group.create_task(made.run()), group.create_task(made.refresh())]
            links[name] = Running(wanted[name], roots_of(self._view, wanted[name]), made, tasks)
            self._began[name] = asyncio.get_running_loop().time()

    def _is_over(self, running: "Running", peering: Peering) -> bool:
        """Must the link be made anew? Also for a root that was taken away: the session may stand on it."""
        if running.link.drifted():
            log.warning("what is imported was changed by others: compared anew", peer=peering.metadata.name)
            return True
        return not (same_link(running.peering, peering) and running.roots <= roots_of(self._view, peering))

    def _tell(self, name: str, record: PeerRecord) -> None:
        self._records[name] = record
        self._news.set()

    def record(self, name: str) -> PeerRecord | None:
        """As the leader's own links say it; elsewhere, and before, as it was written."""
        return self._records.get(name) or self._view.peers.get(name)

    async def _write_records(self, fence: Compare) -> None:
        backoff = Backoff(self._rng, base=0.2, cap=5.0)
        while True:
            await self._news.wait()
            self._news.clear()
            ops = [
                Put(keys.PEERS + keys.part(name), codec.encode_struct(record))
                for name, record in self._records.items()
                if record != self._view.peers.get(name) and self._view.peering(name)
            ]
            try:
                for start in range(0, len(ops), self._limit):
                    await self._store.txn((fence,), ops[start : start + self._limit])
            except StoreError as exc:
                log.warning("what is known of peers is not written", error=str(exc))
                self._news.set()
                await pause(backoff.next())
                continue
            backoff.reset()
            await pause(RECORD_SECONDS)

    async def _sweep(self, fence: Compare) -> None:
        """Remove what is over; what cannot be removed now is tried again at the next look."""
        try:
            for name in sorted(orphans(self._view)):
                await self._forget(name, fence)
            for peering in self._view.peerings():
                if self._outlived(peering):
                    await self._clear(peering.metadata.name, fence, "lost for longer than spec.removeAfter")
            await self._drop_bundles(fence)
        except StoreError as exc:
            log.warning("what is over of peers is not removed yet", error=str(exc))

    def _outlived(self, peering: Peering) -> bool:
        record, name = self.record(peering.metadata.name), peering.metadata.name
        if not peering.spec.remove_after or peering.spec.paused or record is None or not record.lost:
            return False
        now = asyncio.get_running_loop().time()
        limit, tried = seconds(peering.spec.remove_after), now - self._began.get(name, now)
        # A peer that we could not see, because we were away ourselves, gets its chance first.
        return name in self._view.imported and self._wall() - record.lost > limit and tried > min(limit, TRY_SECONDS)

    async def _forget(self, name: str, fence: Compare) -> None:
        """A peering that was deleted: its imports, its bundle; and a note, so that the peer can be told so."""
        absent = Compare(_peering_key(name), Revision(0))
        known, key, now = self._view.peers.get(name), keys.PEERS + keys.part(name), self._wall()
        self._records.pop(name, None)
        if known is None or known.state != "deleted" or name in self._view.imported:
            await self._clear(name, fence, "its Peering was deleted", absent)
        if known is not None and known.state != "deleted":
            bundle = self._view.bundle(known.trust_domain)
            roots = bundle.spec.roots if bundle else ()
            record = PeerRecord(trust_domain=known.trust_domain, state="deleted", since=now, roots=roots)
            await self._store.txn((fence, absent), (Put(key, codec.encode_struct(record)),))
        elif known is not None and now - known.since > TOMBSTONE_SECONDS:
            await self._store.txn((fence, absent), (Delete(key),))

    async def _clear(self, name: str, fence: Compare, why: str, *more: Compare) -> None:
        """All that was imported of a peer, unreadable values too."""
        items = (await self._store.list(keys.imports_of(name))).items
        if not items:
            return
        log.warning("removing what was imported", peer=name, reason=why, number=len(items))
        parts = [_deletion(item.key, item.revision) for item in items]
        await self._commit(parts, fence, more)

    async def _drop_bundles(self, fence: Compare) -> None:
        """Of trust domains that no Peering names any more."""
        known = {peering.spec.trust_domain for peering in self._view.peerings()} | {self._me.trust_domain}
        for ref, held in list(self._view.objects.items()):
            if ref.kind == "TrustBundle" and ref.name not in known and not unreadable(self._view):
                log.warning("removing a trust bundle", trust_domain=ref.name)
                await self._commit([_deletion(keys.key_for(ref), held.revision)], fence)

    async def _commit(self, parts: Sequence[Plan], fence: Compare, more: Sequence[Compare] = ()) -> None:
        for part in pack(parts, self._limit - len(more) - 1):
            for compare in more:
                part.compare(compare.key, compare.revision)
            await self._writer.commit(part, author=self._author, fence=fence)


class Running(NamedTuple):
    """A peer's link, and what it stands on."""

    peering: Peering
    roots: frozenset[str]
    link: Import
    tasks: Sequence[asyncio.Task[NoReturn]]


class Learner:
    """Keeps the addresses that a peer tells when it dials: at any replica, since it may have changed them all."""

    def __init__(self, store: Store, view: View) -> None:
        self._writer, self._view, self._news = Writer(store, view), view, Buckets(NEWS)

    async def learn(self, peer: str, addresses: tuple[str, ...]) -> str:
        """Why they are not taken, or nothing. A conflict means that somebody else wrote: the next hello tells again."""
        before = self._view.peering(peer)
        if before is None:
            return ""
        after = learned(before, addresses)
        if isinstance(after, str) or after is before:
            return after if isinstance(after, str) else ""
        if self._news.take(peer, asyncio.get_running_loop().time()):
            return "it changes them too often"
        key, part = keys.key_for(after.ref), Plan()
        part.change(Put(key, codec.encode(after)), self._view.revision_of(key, self._view.objects.get(after.ref)))
        try:
            await self._writer.commit(part, author=f"peer:{peer}")
        except StoreError as exc:
            return str(exc)
        return ""


def unreadable(view: View) -> bool:
    """Is there a Peering that cannot be read? Then nothing may be concluded from one that is missing."""
    return any(key.startswith(keys.prefix_for("Peering")) for key in view.bad)


def orphans(view: View) -> set[str]:
    """Peers of which something is left, and whose Peering is gone."""
    if unreadable(view):
        return set()
    return {name for name in view.imported.keys() | view.peers.keys() if view.peering(name) is None}


def _peering_key(name: str) -> str:
    return keys.key_for(Ref("Peering", "", name))


def _deletion(key: str, revision: int) -> Plan:
    part = Plan()
    part.change(Delete(key), revision)
    return part
