"""Messages between clusters, and the arithmetic of "what differs". Never our etcd schema.

One connection carries what one cluster exports to the one that dialled. What is exported is a set of items, each a key
and a value:

    services/<namespace>/<service>           OfferedService
    endpoints/<namespace>/<service>/<name>   OfferedEndpoint

Both ends name a set by its digest, so a connection that breaks is taken up where the two differ, whoever serves it and
whatever was restored meanwhile. Readers ignore fields that they do not know; a version is agreed in the first two
messages. Values are decoded one by one (`imports`), so that one bad item does not break a message.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec

from mesh.model import Frozen, ServiceRef
from mesh.model.service import Protocol

VERSIONS = (1,)
"""Spoken here, the best first."""

MAX_FRAME_BYTES = 256 * 1024
"""Of one message."""
MAX_VALUE_BYTES = 16 * 1024
MAX_KEY_CHARS = 400
"""Two words, three labels and an endpoint's name have 330 at most."""
MIN_BUCKETS, MAX_BUCKETS = 16, 4096
MAX_EPOCH_CHARS = 100
"""It is written down with every news of a peer."""
MAX_ENDPOINTS_EACH = 500
"""Endpoints of one service: no more are told, and no more taken."""
MAX_ADDRESSES = 16
MAX_ADDRESS_CHARS = 300

SERVICES, ENDPOINTS = "services/", "endpoints/"

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A count, or a revision of etcd's: what is beyond is no message. It is compared, kept and told on."""


class Message(Frozen, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """Text of one frame."""


class Hello(Message, frozen=True, kw_only=True):
    """The importer's first word."""

    versions: tuple[int, ...]
    cluster: str
    trust_domain: str
    count: Number = 0
    """Items that it holds, and their digest."""
    digest: str = ""
    bundle: str = ""
    """Digest of the exporter's trust bundle, as held."""
    epoch: str = ""
    """Of the exporter's store when the importer was last in step with it, and the revision then."""
    position: Number = 0
    addresses: tuple[str, ...] = ()
    """The importer's own control-plane nodes."""


class Welcome(Message, frozen=True, kw_only=True):
    """The exporter's answer. With buckets, the importer tells next what it holds in those that differ from its own."""

    version: int
    cluster: str
    trust_domain: str
    epoch: str = ""
    position: Number = 0
    buckets: tuple[str, ...] = ()


class Digests(Message, frozen=True, kw_only=True):
    """What the importer holds in buckets that differ: item's key -> digest of its value. Several may follow."""

    buckets: tuple[int, ...] = ()
    """Those that it tells of, whole, by the time it is done."""
    items: dict[str, str] = {}
    done: bool = False


class Entry(Frozen, frozen=True, kw_only=True):
    key: str
    value: msgspec.Raw
    """JSON, as the exporter encoded it: its digest is over these bytes."""


class Offer(Message, frozen=True, kw_only=True):
    """Items that came, changed or went. Numbered from 1 without a gap; each is answered by an Ack."""

    nonce: Number
    position: Number = 0
    """Revision of the exporter's store that it was made from."""
    put: tuple[Entry, ...] = ()
    gone: tuple[str, ...] = ()
    bundle: str = ""
    """The exporter's trust bundle in SPIFFE's format, if it changed."""
    addresses: tuple[str, ...] = ()
    """The exporter's control-plane nodes, if they changed."""
    synced: bool = False
    """With this the importer has all there is."""


class Ack(Message, frozen=True, kw_only=True):
    """What is not named as rejected is written, and in force as far as the importer's own agents are."""

    nonce: Number
    rejected: dict[str, str] = {}
    """Item's key, `bundle` or `addresses` -> why. At most REASONS of them."""
    refused: Number = 0
    """How many in all."""


class Bye(Message, frozen=True, kw_only=True):
    """Either side's last word."""

    reason: str
    """deleted, paused, version, protocol, stopping."""
    words: str = ""


REASONS = 50
"""Refusals that are spelled out in one Ack."""

ToExporter = Hello | Digests | Ack | Bye
ToImporter = Welcome | Offer | Bye


Told = Literal["healthy", "unhealthy", "draining"]
"""Health as one cluster tells it to another."""


class OfferedPort(Frozen, frozen=True, kw_only=True):
    port: int
    name: str = ""
    protocol: Protocol = "tcp"


class OfferedService(Frozen, frozen=True, kw_only=True):
    ports: tuple[OfferedPort, ...] = ()
    accounts: tuple[str, ...] = ()
    """Service accounts of its namespace that may answer."""
    cut: bool = False
    """It has more endpoints than are told. Not how many: that changes all the time."""


class OfferedEndpoint(Frozen, frozen=True, kw_only=True):
    """What to dial for a service: a gateway, or an instance."""

    node: str
    address: str
    port: int
    account: str
    ports: tuple[int, ...] = ()
    """Of the service's ports, those that are served here."""
    health: Told = "unhealthy"
    weight: int = 1
    """Healthy instances behind it."""
    locality: str = ""


_json = msgspec.json.Encoder(order="deterministic")


def encode(value: msgspec.Struct) -> bytes:
    """Equal values give equal bytes."""
    return _json.encode(value)


def service_key(service: ServiceRef) -> str:
    return f"{SERVICES}{service.namespace}/{service.short}"


def endpoint_key(service: ServiceRef, name: str) -> str:
    return f"{ENDPOINTS}{service.namespace}/{service.short}/{name}"


def digest(value: bytes) -> str:
    """Of one value. 64 bits: a peer that makes two of its own items collide misleads nobody but itself."""
    return hashlib.blake2b(value, digest_size=8).hexdigest()


def summary(digests: Mapping[str, str]) -> str:
    """Of a whole set: item's key -> digest of its value."""
    made = hashlib.blake2b(digest_size=16)
    for key in sorted(digests):
        made.update(f"{key} {digests[key]}\n".encode())
    return made.hexdigest()


def bucket_count(items: int) -> int:
    """Such that the list of buckets and one bucket's items are about as long: a power of two near the square root."""
    count = MIN_BUCKETS
    while count < MAX_BUCKETS and count * count < items:
        count *= 2
    return count


def bucket_of(key: str, count: int) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % count


def split(digests: Mapping[str, str], count: int) -> list[dict[str, str]]:
    """The set in so many buckets."""
    parts: list[dict[str, str]] = [{} for _ in range(count)]
    for key, value in digests.items():
        parts[bucket_of(key, count)][key] = value
    return parts


def bucket_digests(digests: Mapping[str, str], count: int) -> tuple[str, ...]:
    """One short digest a bucket: 64 bits, as of an item."""
    return tuple(summary(part)[:16] for part in split(digests, count))


def address_faults(addresses: Iterable[str]) -> str:
    """What is wrong with a list of `https://host:port`, or ""."""
    from urllib.parse import urlsplit

    found = tuple(addresses)
    if len(found) > MAX_ADDRESSES:
        return f"{len(found)} addresses; at most {MAX_ADDRESSES} are taken"
    for address in found:
        if len(address) > MAX_ADDRESS_CHARS or not address.isascii() or not address.isprintable():
            return "an address is too long, or not plain text"
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError:
            return f"{address[:80]!r} is not https://host:port"
        bare = parts.scheme == "https" and parts.hostname and port and not (parts.path or parts.query or parts.fragment)
        if not bare or "@" in parts.netloc:
            return f"{address[:80]!r} is not https://host:port"
    return ""
