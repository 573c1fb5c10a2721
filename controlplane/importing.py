"""One peer, as the leader sees it: dials it, takes what it offers as far as `imports` lets it, and writes that down.

Whatever the peer does ends its own link only. A lost link removes nothing.
"""

import asyncio
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, NoReturn

import msgspec
import structlog

from ca.limits import Buckets, Rate
from controlplane.peered import REASONS, PeerRecord, PeerState
from controlplane.taking import Place, Taking
from mesh.aio import Backoff, pause
from mesh.model import Peering
from mesh.store.errors import StoreError
from multicluster import link, trust
from multicluster.link import Link, LinkError, RefusedError
from multicluster.session import Importer, Me, ProtocolError
from multicluster.wire import Bye, Offer, Welcome

log = structlog.get_logger(__name__)


WELCOME_SECONDS = 30.0
PACE = Rate(5_000, 50_000)
"""Items of one peer: what it changes faster waits in its own connection."""
BYTES = Rate(2 * 2**20, 32 * 2**20)
"""Of the same: items may be large, and all of it goes into the store. The burst is more than a whole import of 5,000
services with ten endpoints each, as they are."""
MAX_REFUSED = 20_000
"""Refused items of one session; a peer that offers more of them is not heard for a while."""
DELETED = ": delete it here as well, or make it anew with a token"
FIRST_REFRESH = 60.0
"""Seconds without a session until the peer's bundle is fetched."""
FAST, SLOW = 15.0, 300.0
"""Longest waits between attempts, seconds: for a peer that is not reached, and for one that says or means no."""


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
        self._taking = Taking(self._name, place, lambda: self._peering)
        self._refused = _Refused()
        self._paces, self._bytes = Buckets(PACE), Buckets(BYTES)
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
            if fault := await self._taking.retried(functools.partial(self._taking.trust, raw)):
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
            self._refused, self._taking.holding, self._busy = _Refused(), self._taking.held(), False
            importer = Importer(place.me, other, self._taking.holding.digests(self._taking.peer().reach))
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
        before = line.received
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
        for buckets, cost in (
            (self._paces, min(PACE.burst, float(amount))),
            (self._bytes, min(BYTES.burst, float(line.received - before))),
            (self._place.news, float(bool(news))),
        ):
            while wait := buckets.take(self._name, clock(), cost):
                await pause(wait)
        self._busy = True
        rejected = await self._taking.take(message)
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
        return self._was_in_step and not self._busy and self._taking.held().objects != self._taking.holding.objects


def _parting(bye: Bye) -> str:
    return f"the peer says: {bye.words[:200] or bye.reason[:40]}" + (DELETED if bye.reason == "deleted" else "")
