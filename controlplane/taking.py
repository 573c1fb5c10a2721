"""What of a peer's offer is taken is written here: its items, its trust bundle, its addresses. At the leader only.

`imports` and `trust` say what that is. Each offer is whole in the store, or tried again, before the peer hears of it.
"""

import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import structlog

from ca.limits import Buckets
from controlplane.peered import NEWS, PeerRecord, learned
from controlplane.registry import Plan, pack
from controlplane.view import View
from controlplane.writer import Writer
from mesh import codec, keys
from mesh.model import Object, Peering, TrustBundle
from mesh.model.reach import Reach
from mesh.store.errors import Conflict, StoreError
from mesh.store.protocol import Compare, Delete, Put
from multicluster import imports, trust
from multicluster.imports import Holding
from multicluster.link import PeerContext
from multicluster.session import Me
from multicluster.wire import Offer

log = structlog.get_logger(__name__)
T = TypeVar("T")

ATTEMPTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer's word is written, and by whom."""

    view: View
    writer: Writer
    fence: Compare
    me: Me
    limit: int
    """Operations of one transaction."""
    addresses: Callable[[], tuple[str, ...]]
    tls: Callable[[tuple[str, ...], str], PeerContext]
    """(roots, trust domain) -> how to dial."""
    tell: Callable[[str, PeerRecord], None]
    observe: Callable[[str, float], None]
    """(peer, seconds from an offer's arrival until it was written)."""
    wall: Callable[[], float]
    rng: random.Random
    news: Buckets = field(default_factory=lambda: Buckets(NEWS))
    """Not a link's own: a peer that takes a root away has its link made anew."""


class Taking:
    """Of one peer."""

    def __init__(self, name: str, place: Place, peering: Callable[[], Peering]) -> None:
        self._name, self._place, self._view, self._peering = name, place, place.view, peering
        self.holding = Holding()
        """What this session has written, or found."""

    def held(self) -> Holding:
        """As it is stored."""
        return Holding.of({key: _plain(held.object) for key, held in self._view.imported.get(self._name, {}).items()})

    async def take(self, offer: Offer) -> dict[str, str]:
        """Write what is to be written; what is refused, and why."""
        rejected: dict[str, str] = {}
        if offer.bundle and (fault := await self.retried(lambda: self.trust(offer.bundle.encode()))):
            rejected["bundle"] = fault
        if offer.addresses and (fault := await self.retried(lambda: self._learn(offer.addresses))):
            rejected["addresses"] = fault
        entries = [(entry.key, bytes(entry.value)) for entry in offer.put]
        peer = self.peer()

        async def write() -> dict[str, str]:
            plan = imports.plan(self.holding, peer, entries, offer.gone)
            try:
                await self._write(plan)
            except StoreError:
                self.holding = self.held()  # the plan had changed it
                raise
            return dict(plan.rejected)

        return rejected | await self.retried(write)

    def peer(self) -> imports.Peer:
        """Who speaks, and how much it may say."""
        spec = self._peering().spec
        reach = Reach(self._view.addresses(), spec.networks)
        return imports.Peer(self._name, spec.trust_domain, spec.max_services, reach)

    async def retried(self, write: Callable[[], Awaitable[T]]) -> T:
        """Others write, too: what the plan was made from is up to date after a conflict."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await write()
            except Conflict:
                continue
        return await write()

    async def _write(self, plan: imports.Plan) -> None:
        of_peer, parts = self._view.imported.get(self._name, {}), list[Plan]()
        for key, obj in (*plan.create.items(), *plan.update.items()):
            parts.append(_change(Put(key, codec.encode(obj)), self._view.revision_of(key, of_peer.get(key))))
        for key in plan.delete:
            parts.append(_change(Delete(key), self._view.revision_of(key, of_peer.get(key))))
        await self._commit(parts)

    async def _commit(self, parts: Collection[Plan]) -> None:
        for part in pack(parts, self._place.limit):
            await self._place.writer.commit(part, author=f"peer:{self._name}", fence=self._place.fence)

    async def trust(self, document: bytes) -> str:
        """Keep the bundle that the peer tells of itself; why not, if not."""
        domain, view = self._peering().spec.trust_domain, self._view
        others = {one.spec.trust_domain for one in view.peerings() if one.metadata.name != self._name}
        known = view.bundle(domain)
        try:
            bundle = trust.accept(known, trust.read(document, domain), domain, {self._place.me.trust_domain, *others})
        except trust.Refused as exc:
            return str(exc)
        if bundle is not known:
            key = keys.key_for(bundle.ref)
            await self._commit([_change(Put(key, codec.encode(bundle)), self._revision(key, bundle))])
            log.info("peer's trust bundle", peer=self._name, sequence=bundle.spec.sequence)
        return ""

    async def _learn(self, addresses: tuple[str, ...]) -> str:
        """Keep the addresses that the peer tells of itself; why not, if not."""
        before = self._peering()
        after = learned(before, addresses)
        if isinstance(after, str) or after is before:
            return after if isinstance(after, str) else ""
        key = keys.key_for(after.ref)
        await self._commit([_change(Put(key, codec.encode(after)), self._revision(key, after))])
        return ""

    def _revision(self, key: str, obj: Peering | TrustBundle) -> int:
        return self._view.revision_of(key, self._view.objects.get(obj.ref))


def _plain(obj: Object) -> Object:
    """As it was written: a reader adds the revision."""
    return msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, resource_version=""))


def _change(op: Put | Delete, revision: int) -> Plan:
    part = Plan()
    part.change(op, revision)
    return part
