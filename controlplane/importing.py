"""One peer, as the leader sees it: dials it, takes what it offers as far as `imports` lets it, and writes that down.

Whatever the peer does ends its own link only. A lost link removes nothing.
"""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, NoReturn, TypeVar

import msgspec
import structlog

from ca.limits import Buckets, Rate
from controlplane.peered import NEWS, REASONS, PeerRecord, PeerState, learned
from controlplane.registry import Plan, pack
from controlplane.view import View
from controlplane.writer import Writer
from mesh import codec, keys
from mesh.aio import Backoff, pause
from mesh.model import Object, Peering, TrustBundle
from mesh.model.reach import Reach
from mesh.store.errors import Conflict, StoreError
from mesh.store.protocol import Compare, Delete, Put
from multicluster import imports, link, trust
from multicluster.imports import Holding
from multicluster.link import Link, LinkError, PeerContext, RefusedError
from multicluster.session import Importer, Me, ProtocolError
from multicluster.wire import Bye, Offer, Welcome

log = structlog.get_logger(__name__)
T = TypeVar("T")

WELCOME_SECONDS = 30.0
ATTEMPTS = 4
PACE = Rate(5_000, 50_000)
"""Items of one peer: what it changes faster waits in its own connection."""
MAX_REFUSED = 20_000
"""Refused items of one session; a peer that offers more of them is not heard for a while."""
DELETED = ": delete it here as well, or make it anew with a token"
FIRST_REFRESH = 60.0
"""Seconds without a session until the peer's bundle is fetched."""
FAST, SLOW = 15.0, 300.0
"""Longest waits between attempts, seconds: for a peer that is not reached, and for one that says or means no."""


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


class PartedError(Exception):
    """The peer said its last word."""


class Outcome(NamedTuple):
    """Why there is no session now."""

    reason: str
    state: PeerState = "lost"
    slow: bool = False
    """Asking again soon is of no use."""


@dataclass(slots=True)
class _Refused:
    """What of a session is not taken."""

    keys: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)

    def take(self, seen: Collection[str], rejected: Mapping[str, str]) -> bool:
        """After an offer: whether anything of it is new."""
        before = (len(self.keys), dict(self.reasons))
        for key in seen:
            self.keys.discard(key)
            self.reasons.pop(key, None)
        self.keys.update(rejected)
        if len(self.keys) > MAX_REFUSED:
            raise ProtocolError(f"it offers more than {MAX_REFUSED} items that are refused")
        for key, reason in rejected.items():
            if len(self.reasons) < REASONS:
                self.reasons[key[:200]] = reason[:300]
        return before != (len(self.keys), self.reasons)


class Import:
    """One peer's loop. Made anew when the Peering changes, or another replica leads."""

    def __init__(self, peering: Peering, place: Place) -> None:
        self._name, self._place, self._view, self._first = peering.metadata.name, place, place.view, peering
        self._record = self._known()
        self._holding = Holding()
        self._refused = _Refused()
        self._paces = Buckets(PACE)
        self._was_in_step = False
        self._busy = False
        """An offer is being written: what is held and what is stored differ for the moment."""

    def _known(self) -> PeerRecord:
        domain, known, now = self._peering.spec.trust_domain, self._view.peers.get(self._name), self._place.wall()
        if known is None or known.state == "deleted" or known.trust_domain != domain:
            return PeerRecord(trust_domain=domain, since=now, lost=now)
        if known.state == "paused" and not self._peering.spec.paused:
            return msgspec.structs.replace(known, lost=now)  # nobody tried meanwhile
        return known

    @property
    def _peering(self) -> Peering:
        """As it is now; as it was, in the moment in which it is gone and this loop not yet."""
        return self._view.peering(self._name) or self._first

    async def run(self) -> NoReturn:
        """Until it is cancelled."""
        rng = self._place.rng
        backoff, slow = Backoff(rng, base=0.2, cap=FAST), Backoff(rng, base=5.0, cap=SLOW)
        self._tell("paused" if self._peering.spec.paused else self._record.state, self._record.reason)
        while True:
            if self._peering.spec.paused:
                await pause(SLOW)  # the Peering's next change ends this loop
                continue
            try:
                outcome = await self._round()
            except StoreError as exc:
                outcome = Outcome(f"our own store: {exc}")
            except Exception:
                log.exception("peer's link failed", peer=self._name)
                outcome = Outcome("this node has a fault, its log tells more", slow=True)
            if self._was_in_step:
                self._was_in_step = False
                backoff.reset()
                slow.reset()
            self._tell(outcome.state, outcome.reason)
            await pause((slow if outcome.slow else backoff).next())

    async def refresh(self) -> NoReturn:
        """Fetch the peer's bundle while no session tells of it, as often as it asks to. Until it is cancelled."""
        wait, rng = FIRST_REFRESH, self._place.rng
        while True:
            await pause(wait * rng.uniform(0.8, 1.2))
            if self._record.lost == 0 or self._peering.spec.paused:
                continue
            try:
                wait = await self._fetch()
            except (LinkError, trust.Refused, StoreError) as exc:
                log.warning("peer's trust bundle cannot be fetched", peer=self._name, error=str(exc))
                wait = min(2 * wait, float(trust.MAX_REFRESH))
            except Exception:
                log.exception("peer's trust bundle cannot be fetched", peer=self._name)
                wait = float(trust.MAX_REFRESH)

    async def _fetch(self) -> float:
        """One look at the peer's bundle endpoint; seconds until the next. Any of its nodes will do."""
        spec, failures = self._peering.spec, list[str]()
        bundle = self._view.bundle(spec.trust_domain)
        if bundle is None:
            raise LinkError("none is known to verify it with")
        context = self._place.tls(bundle.spec.roots, spec.trust_domain)
        for address in spec.addresses:
            try:
                raw = await link.fetch_bundle(address, context, self._door)
            except LinkError as exc:
                failures.append(str(exc))
                continue
            if fault := await self._retried(functools.partial(self._trust, raw)):
                raise trust.Refused(fault)
            hint = trust.read(raw, spec.trust_domain).refresh_hint
            return float(min(max(hint, trust.MIN_REFRESH), trust.MAX_REFRESH))
        raise LinkError("; ".join(failures) or "it has no address")

    @property
    def _door(self) -> str:
        """The server name by which the peer knows whose certificate to expect."""
        return f"{self._place.me.cluster}.peer.holdfast"

    async def _round(self) -> Outcome:
        """Try each address once; why none of them keeps a session."""
        spec = self._peering.spec
        addresses, outcome = list(spec.addresses), Outcome("it has no address")
        if self._view.bundle(spec.trust_domain) is None:
            return Outcome("its trust bundle is not known: make the peering anew with a token")
        self._place.rng.shuffle(addresses)
        for address in addresses:
            outcome = await self._attempt(address)
            log.warning("peer's link ended", peer=self._name, address=address, reason=outcome.reason)
            if self._record.lost == 0:
                # There was a session: that it ended is news, and the others are worth a try at once.
                self._tell(outcome.state, outcome.reason)
        return outcome

    async def _attempt(self, address: str) -> Outcome:
        try:
            await self._session(address)
        except PartedError as exc:
            return Outcome(str(exc), "refused", slow=DELETED in str(exc))
        except RefusedError as exc:
            away = exc.status >= 500 or exc.status == HTTPStatus.TOO_MANY_REQUESTS
            return Outcome(str(exc), "lost" if away else "refused", slow=not away)
        except ProtocolError as exc:
            return Outcome(str(exc), "refused", slow=True)
        except LinkError as exc:
            return Outcome(str(exc))
        return Outcome("the session ended")

    async def _session(self, address: str) -> None:
        """One connection, until it ends."""
        place, other = self._place, Me(self._name, self._peering.spec.trust_domain)
        bundle = self._view.bundle(other.trust_domain)
        assert bundle is not None
        roots = bundle.spec.roots
        async with link.dialled(address, place.tls(roots, other.trust_domain), self._door) as line:
            self._refused, self._holding, self._busy = _Refused(), self._held(), False
            importer = Importer(place.me, other, self._holding.digests(self._peer().reach))
            await line.send(
                importer.hello(
                    bundle=trust.digest(bundle.spec.sequence, roots),
                    epoch=self._record.epoch,
                    position=self._record.position,
                    addresses=place.addresses(),
                )
            )
            try:
                await self._welcomed(line, importer)
                while True:
                    await self._next(line, importer)
            except ProtocolError as exc:
                await line.send(Bye(reason="protocol", words=str(exc)))
                raise

    async def _welcomed(self, line: Link, importer: Importer) -> None:
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                message = await line.receive()
        except TimeoutError as exc:
            raise LinkError("it does not answer our hello") from exc
        if isinstance(message, Bye):
            raise PartedError(_parting(message))
        if not isinstance(message, Welcome):
            raise ProtocolError("its first word is not a welcome")
        for part in importer.welcome(message):
            await line.send(part)

    async def _next(self, line: Link, importer: Importer) -> None:
        message = await line.receive()
        if isinstance(message, Bye):
            if message.reason == "stopping":
                raise LinkError("its node stops")
            raise PartedError(_parting(message))
        if not isinstance(message, Offer):
            raise ProtocolError("a second welcome")
        clock = asyncio.get_running_loop().time
        began = clock()
        importer.offer(message)
        amount = len(message.put) + len(message.gone) + 1
        news = message.bundle or (message.addresses and message.addresses != self._peering.spec.addresses)
        for buckets, cost in ((self._paces, min(PACE.burst, float(amount))), (self._place.news, float(bool(news)))):
            while wait := buckets.take(self._name, clock(), cost):
                await pause(wait)
        self._busy = True
        rejected = await self._take(message)
        self._busy = False
        other = self._refused.take([*(entry.key for entry in message.put), *message.gone], rejected)
        await line.send(importer.done(message, rejected))
        self._place.observe(self._name, clock() - began)
        if rejected:
            log.warning(
                "items of a peer are refused", peer=self._name, number=len(rejected), some=self._refused.reasons
            )
        self._was_in_step |= importer.synced
        if importer.synced and (other or self._record.lost or self._record.replica != line.replica):
            self._in_step(line, importer)
        elif importer.synced:
            # Not told for its own sake: it is of use to whoever takes over, and is written with the next news.
            self._record = msgspec.structs.replace(self._record, epoch=importer.epoch, position=importer.position)

    def _in_step(self, line: Link, importer: Importer) -> None:
        self._record = msgspec.structs.replace(
            self._record, replica=line.replica, epoch=importer.epoch, position=importer.position
        )
        self._tell("connected")
        log.info("in step with peer", peer=self._name, replica=line.replica, received=line.received, sent=line.sent)

    def _tell(self, state: PeerState, reason: str = "") -> None:
        """Put down how it is, if that is news."""
        before, now = self._record, self._place.wall()
        self._record = msgspec.structs.replace(
            before,
            state=state,
            since=before.since if state == before.state else now,
            lost=0.0 if state == "connected" else before.lost or now,
            reason=reason[:500],
            rejected=dict(self._refused.reasons),
            refused=len(self._refused.keys),
        )
        self._place.tell(self._name, self._record)

    def drifted(self) -> bool:
        """Does the store hold something else than this session wrote? It was restored, or somebody wrote by hand."""
        return self._was_in_step and not self._busy and self._held().objects != self._holding.objects

    def _held(self) -> Holding:
        return Holding.of({key: _plain(held.object) for key, held in self._view.imported.get(self._name, {}).items()})

    async def _take(self, offer: Offer) -> dict[str, str]:
        """Write what is to be written; what is refused, and why."""
        rejected: dict[str, str] = {}
        if offer.bundle and (fault := await self._retried(lambda: self._trust(offer.bundle.encode()))):
            rejected["bundle"] = fault
        if offer.addresses and (fault := await self._retried(lambda: self._learn(offer.addresses))):
            rejected["addresses"] = fault
        entries = [(entry.key, bytes(entry.value)) for entry in offer.put]
        peer = self._peer()

        async def write() -> dict[str, str]:
            plan = imports.plan(self._holding, peer, entries, offer.gone)
            try:
                await self._write(plan)
            except StoreError:
                self._holding = self._held()  # the plan had changed it
                raise
            return dict(plan.rejected)

        return rejected | await self._retried(write)

    def _peer(self) -> imports.Peer:
        spec = self._peering.spec
        reach = Reach(self._view.addresses(), spec.networks)
        return imports.Peer(self._name, spec.trust_domain, spec.max_services, reach)

    async def _retried(self, write: Callable[[], Awaitable[T]]) -> T:
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

    async def _trust(self, document: bytes) -> str:
        """Keep the bundle that the peer tells of itself; why not, if not."""
        domain, view = self._peering.spec.trust_domain, self._view
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
        before = self._peering
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


def _parting(bye: Bye) -> str:
    return f"the peer says: {bye.words[:200] or bye.reason[:40]}" + (DELETED if bye.reason == "deleted" else "")
