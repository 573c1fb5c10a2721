"""One connection's state, at both ends: events in, messages out. Pure.

    importer                                       exporter
    Hello(digest of what I hold)          ->
                                          <-       Welcome(digests of buckets, if the whole differs)
    Digests(items of buckets that differ) ->
                                          <-       Offer(1), Offer(2), ... up to WINDOW unanswered
    Ack(1, what is rejected and why)      ->

The exporter never infers a deletion from silence: it deletes what the importer said it holds and should not. The
importer never infers one from a lost link. Nothing is remembered between connections but what the importer's store
holds, so any replica, restarted or restored, takes the session up, and sends what differs.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from msgspec import Raw

from mesh.model.checks import shown
from multicluster import wire
from multicluster.wire import Ack, Digests, Entry, Hello, Offer, Welcome

WINDOW = 16
"""Offers on their way: what changes meanwhile is merged, and goes with the next one."""
ROOM = wire.MAX_FRAME_BYTES - 32 * 1024
"""For items in one message; the rest is for its frame and a bundle."""
MAX_HELD = 250_000
"""Items that an importer may say it holds."""


class ProtocolError(Exception):
    """The other end breaks the rules: the link ends, and what is held stays."""


@dataclass(frozen=True, slots=True)
class Me:
    """What one end says of itself."""

    cluster: str
    trust_domain: str


def check_other(said: Hello | Welcome, other: Me) -> None:
    """TLS told whose trust domain it is; what it says of itself must be that.

    Raises:
        ProtocolError: it is not.

    """
    if said.cluster != other.cluster or said.trust_domain != other.trust_domain:
        told = f"{shown(said.cluster)} of {shown(said.trust_domain)}"
        raise ProtocolError(f"it calls itself {told}, and is peered as {other.cluster} of {other.trust_domain}")


@dataclass(slots=True)
class Exporter:
    """The end that is dialled."""

    me: Me
    other: Me
    want: dict[str, bytes] = field(default_factory=dict)
    """Item's key -> value: what the importer should hold."""
    bundle: str = ""
    addresses: tuple[str, ...] = ()
    """What is to be told with the next offer; empty: nothing new."""
    position: int = 0
    live: bool = False
    """It is known what the importer holds."""
    synced: bool = False
    nonce: int = 0
    acked: int = 0
    _services: dict[str, None] = field(default_factory=dict)
    _endpoints: dict[str, None] = field(default_factory=dict)
    """Keys that the importer may hold otherwise, in the order of their change."""
    _mine: list[dict[str, str]] = field(default_factory=list)
    """By bucket, until the importer has told its own."""
    _told: int = 0
    _compared: set[int] = field(default_factory=set)

    @property
    def dirty(self) -> int:
        return len(self._services) + len(self._endpoints)

    def hello(self, hello: Hello, want: Mapping[str, bytes], epoch: str, position: int) -> Welcome:
        """Answer the first word. `want`: all that this peer is offered now."""
        check_other(hello, self.other)
        version = next((v for v in wire.VERSIONS if v in hello.versions), 0)
        if not version:
            raise ProtocolError(f"it speaks versions {shown(str(hello.versions))}, and we {wire.VERSIONS}")
        self.want, self.position = dict(want), position
        digests = {key: wire.digest(value) for key, value in want.items()}
        buckets: tuple[str, ...] = ()
        if len(digests) == hello.count and wire.summary(digests) == hello.digest:
            self.live = True
        else:
            count = wire.bucket_count(max(len(digests), min(hello.count, MAX_HELD)))
            self._mine, buckets = wire.split(digests, count), wire.bucket_digests(digests, count)
        return Welcome(
            version=version,
            cluster=self.me.cluster,
            trust_domain=self.me.trust_domain,
            epoch=epoch,
            position=position,
            buckets=buckets,
        )

    def digests(self, message: Digests) -> None:
        """Compare with what the importer holds in the buckets that differ."""
        if self.live or not self._mine:
            raise ProtocolError("digests that nobody asked for")
        self._told += len(message.items)
        if self._told > MAX_HELD or not all(0 <= index < len(self._mine) for index in message.buckets):
            raise ProtocolError(f"it tells of more than {MAX_HELD} items, or of buckets that there are not")
        self._compared.update(message.buckets)
        if any(len(key) > wire.MAX_KEY_CHARS for key in message.items):
            raise ProtocolError("it tells of an item with an impossible name")
        for key, value in message.items.items():
            mine = self._mine[wire.bucket_of(key, len(self._mine))]
            if mine.pop(key, None) != value:
                self._mark(key)
        if not message.done:
            return
        for index in self._compared:
            for key in self._mine[index]:  # what it did not name, it does not hold
                self._mark(key)
        self.live, self._mine, self._compared = True, [], set()

    def changed(self, items: Mapping[str, bytes | None], position: int) -> None:
        """The cluster's own items changed; None: gone."""
        self.position = max(self.position, position)
        for key, value in items.items():
            if value is None:
                if self.want.pop(key, None) is not None:
                    self._mark(key)
            elif self.want.get(key) != value:
                self.want[key] = value
                self._mark(key)

    def _mark(self, key: str) -> None:
        (self._endpoints if key.startswith(wire.ENDPOINTS) else self._services)[key] = None

    def ack(self, ack: Ack) -> None:
        if ack.nonce != self.acked + 1 or ack.nonce > self.nonce:
            raise ProtocolError(f"ack {ack.nonce} after {self.acked}, of {self.nonce} offers")
        self.acked = ack.nonce

    def next(self) -> Offer | None:
        """What to send now; None: nothing, or too much is on its way."""
        fresh = self.dirty or self.bundle or self.addresses or not self.synced
        if not self.live or not fresh or self.nonce - self.acked >= WINDOW:
            return None
        put, gone = self._take()
        self.nonce += 1
        self.synced = self.synced or not self.dirty
        bundle, addresses, self.bundle, self.addresses = self.bundle, self.addresses, "", ()
        return Offer(
            nonce=self.nonce,
            position=self.position,
            put=tuple(put),
            gone=tuple(gone),
            bundle=bundle,
            addresses=addresses,
            synced=self.synced,
        )

    def _take(self) -> tuple[list[Entry], list[str]]:
        """As many changed items as fit. Services go before endpoints: none is imported without its service."""
        put: list[Entry] = []
        gone: list[str] = []
        room = ROOM
        for keys in (self._services, self._endpoints):
            for key in list(keys):
                value = self.want.get(key)
                room -= len(key.encode()) + len(value or b"") + 32
                if room < 0 and (put or gone):
                    return put, gone
                del keys[key]
                if value is None:
                    gone.append(key)
                else:
                    put.append(Entry(key=key, value=Raw(value)))
        return put, gone


@dataclass(slots=True)
class Importer:
    """The end that dials. What it holds it is told by its shell, which reads it from the store."""

    me: Me
    other: Me
    held: dict[str, str]
    """Item's key -> digest of its value."""
    nonce: int = 0
    """Of the last offer that came."""
    position: int = 0
    epoch: str = ""
    welcomed: bool = False
    synced: bool = False

    def hello(self, *, bundle: str, epoch: str, position: int, addresses: tuple[str, ...]) -> Hello:
        return Hello(
            versions=wire.VERSIONS,
            cluster=self.me.cluster,
            trust_domain=self.me.trust_domain,
            count=len(self.held),
            digest=wire.summary(self.held),
            bundle=bundle,
            epoch=epoch,
            position=position,
            addresses=addresses,
        )

    def welcome(self, welcome: Welcome) -> tuple[Digests, ...]:
        """What is held where the two differ."""
        if self.welcomed:
            raise ProtocolError("a second welcome")
        check_other(welcome, self.other)
        if welcome.version not in wire.VERSIONS:
            raise ProtocolError(f"it chose version {welcome.version}, which was not offered")
        if len(welcome.buckets) > wire.MAX_BUCKETS:
            raise ProtocolError(f"{len(welcome.buckets)} buckets; at most {wire.MAX_BUCKETS} are compared")
        if len(welcome.epoch) > wire.MAX_EPOCH_CHARS:
            raise ProtocolError(f"an epoch of {len(welcome.epoch)} characters; at most {wire.MAX_EPOCH_CHARS} are kept")
        self.welcomed, self.epoch, self.position = True, welcome.epoch, welcome.position
        if not welcome.buckets:
            return ()
        parts = wire.split(self.held, len(welcome.buckets))
        differ = [index for index, part in enumerate(parts) if wire.summary(part)[:16] != welcome.buckets[index]]
        return tuple(_digests(differ, [parts[index] for index in differ]))

    def offer(self, offer: Offer) -> None:
        """Is it the next one? What is in it is for `imports` and `trust` to judge."""
        if not self.welcomed:
            raise ProtocolError("an offer before a welcome")
        if offer.nonce != self.nonce + 1:
            raise ProtocolError(f"offer {offer.nonce} after {self.nonce}: replayed, or one is missing")
        if offer.position < self.position:
            raise ProtocolError(f"an offer of revision {offer.position} after {self.position}: replayed")
        self.nonce, self.position = offer.nonce, offer.position

    def done(self, offer: Offer, rejected: Mapping[str, str]) -> Ack:
        """It is written, but for what is rejected."""
        self.synced = self.synced or offer.synced
        said = dict(itertools.islice(rejected.items(), wire.REASONS))
        return Ack(nonce=offer.nonce, rejected=said, refused=len(rejected))


def _digests(differ: list[int], parts: list[dict[str, str]]) -> Iterator[Digests]:
    """In as many messages as it takes."""
    items: dict[str, str] = {}
    room, first = 0, 0
    for number, part in enumerate(parts):
        size = sum(len(key) + 24 for key in part) + 8
        if items and room + size > ROOM:
            yield Digests(buckets=tuple(differ[first:number]), items=items)
            items, room, first = {}, 0, number
        items, room = items | part, room + size
    yield Digests(buckets=tuple(differ[first:]), items=items, done=True)
