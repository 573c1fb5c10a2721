"""Join tokens: one time, expiring, bound to a node's name and to what it may run.

    hf1.<id>.<secret>.<pin>      pin: the start of the root's SHA-256, so that the host knows whom it talks to

The store holds the secret's SHA-256 under the token's id. A token is consumed by (token, public key): one transaction
marks it with the key's digest, writes the Node, and dates the join (ca.joins). The same key may repeat the call until
the token expires or the node joins by another one, another key never; of any number of concurrent callers the
compare-and-swap lets one win.
"""

import base64
import datetime as dt
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca import joins, policy
from ca.policy import Claims, Denied, Standing
from ca.template import PublicKey
from mesh import codec, keys
from mesh.model import Frozen, Metadata, Node, NodeSpec, Ref, Revision
from mesh.store.errors import Conflict
from mesh.store.protocol import Compare, Item, Put, Store

PREFIX = "hf1"
MIN_TTL, MAX_TTL = 1.0, 30 * 86400.0
MAX_IDENTITIES = 256
MAX_TEXT = 128
"""A token has 97 characters; a line end may follow."""
ATTEMPTS = 4
"""Each conflict means that somebody else's write went through, so a few are enough."""

_FORM = re.compile(r"hf1\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})\.([0-9a-f]{32})\Z")
# One text for whatever is wrong with a token: a caller without one learns nothing by trying.
_NO = Denied("the join token is not valid: unknown, expired, used by another key, or for another node")
_NOBODY = hashlib.sha256(b"").hexdigest()

Role = Literal["agent", "gate", "gateway"]
ROLES: tuple[Role, ...] = ("agent", "gate", "gateway")


class BadTokenRequestError(ValueError):
    """A token that may not be made, with the reason."""


class Token(Frozen, frozen=True, kw_only=True):
    """What lies under keys.TOKENS + id."""

    secret_sha256: str
    node: str
    identities: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ("agent",)
    created: float
    expires: float
    consumed_by: str = ""
    """SHA-256 of the public key (SPKI DER) that used it, hex."""
    consumed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Minted:
    token: str
    """To be shown once; it is stored nowhere."""
    id: str
    expires: float


@dataclass(frozen=True, slots=True)
class Presented:
    """A token's text, taken apart."""

    id: str
    secret: str
    pin: str


def parse(text: str) -> Presented | Denied:
    """Take a token's text apart."""
    match = _FORM.match(text.strip()) if len(text) <= MAX_TEXT else None
    return Presented(*match.groups()) if match else Denied("this is not a join token (hf1.<id>.<secret>.<pin>)")


async def mint(
    store: Store,
    *,
    node: str,
    identities: Iterable[str],
    roles: Iterable[str] = ("agent",),
    ttl: float,
    pin: str,
    now: float,
    random: Callable[[int], bytes] = os.urandom,
) -> Minted:
    """Make a token for a node. Its Node object is written when the host joins.

    Raises:
        BadTokenRequestError: a name, role or time is impossible, or the node is evicted.

    """
    wanted, given = tuple(dict.fromkeys(identities)), tuple(dict.fromkeys(roles))
    if fault := _request_fault(node, wanted, given, ttl):
        raise BadTokenRequestError(fault)
    standing = _node(await store.get(node_key(node)))
    if isinstance(standing, Denied):
        raise BadTokenRequestError(standing.reason)
    if standing is not None and standing.spec.evicted:
        raise BadTokenRequestError(f"node {node} is evicted; delete its Node object to let it join again")
    token_id, secret = random(8).hex(), base64.urlsafe_b64encode(random(32)).decode().rstrip("=")
    record = Token(
        secret_sha256=_sha256(secret),
        node=node,
        identities=wanted,
        roles=tuple(role for role in ROLES if role in given),
        created=now,
        expires=now + ttl,
    )
    key = keys.TOKENS + token_id
    await store.txn([Compare(key, Revision(0))], [Put(key, msgspec.json.encode(record))])
    return Minted(f"{PREFIX}.{token_id}.{secret}.{pin}", token_id, record.expires)


def _request_fault(node: str, identities: tuple[str, ...], roles: tuple[str, ...], ttl: float) -> str:
    if fault := policy.name_fault("node", node):
        return fault
    if len(identities) > MAX_IDENTITIES:
        return f"a node may run at most {MAX_IDENTITIES} identities"
    for identity in identities:
        if fault := policy.identity_fault(identity):
            return fault
    if not roles or any(role not in ROLES for role in roles):
        return f"roles are of {', '.join(ROLES)}"
    if not MIN_TTL <= ttl <= MAX_TTL:
        return f"a token lasts {MIN_TTL:g} to {MAX_TTL:g} seconds"
    return ""


async def check(store: Store, token: str, node: str, now: float) -> Item | Denied:
    """Is it a token, alive, for this node? Cheap: one read and one hash, before any work for the caller's key."""
    presented = parse(token)
    if isinstance(presented, Denied):
        return presented
    item = await store.get(keys.TOKENS + presented.id)
    record = _token(item) if item else None
    # Compared in any case, so that an unknown id takes as long as a wrong secret.
    fits = hmac.compare_digest(record.secret_sha256 if record else _NOBODY, _sha256(presented.secret))
    if item is None or record is None or not fits or now >= record.expires or node != record.node:
        return _NO
    return item


async def consume(
    store: Store, token: str, node: str, address: str, public_key: PublicKey, now: float
) -> tuple[Claims, Standing] | Denied:
    """Use a token for a key; the node as it then stands. Repeating it with the same key changes nothing more."""
    digest = key_digest(public_key)
    for _ in range(ATTEMPTS):
        found = await check(store, token, node, now)
        if isinstance(found, Denied):
            return found
        record, (known, last) = _token(found), await store.get_many([node_key(node), keys.join_of(node)])
        assert record is not None
        standing = _node(known)
        if isinstance(standing, Denied):
            return standing
        if standing is not None and standing.spec.evicted:
            return Denied(f"node {node} is evicted")
        if record.consumed_by:
            return _again(record, found, digest, standing, last)
        joined = _joined(record, standing, address, now)
        used = msgspec.structs.replace(record, consumed_by=digest, consumed_at=now)
        join = joins.next_join(joins.read(last.value) if last else None, _id(found), now)
        compares = [
            Compare(found.key, found.revision),
            Compare(node_key(node), known.revision if known else Revision(0)),
            Compare(keys.join_of(node), last.revision if last else Revision(0)),
        ]
        ops = [
            Put(found.key, msgspec.json.encode(used)),
            Put(node_key(node), codec.encode(joined)),
            Put(keys.join_of(node), codec.encode_struct(join)),
        ]
        try:
            revision = await store.txn(compares, ops)
        except Conflict:
            continue  # another key, another token of this node, or an operator's edit: read again and decide again
        metadata = msgspec.structs.replace(joined.metadata, resource_version=str(revision))
        return _admitted(msgspec.structs.replace(joined, metadata=metadata), join)
    return Denied(f"node {node} is being changed by others; try again", retry_after=1.0)


def _again(
    record: Token, found: Item, digest: str, standing: Node | None, last: Item | None
) -> tuple[Claims, Standing] | Denied:
    """A token that was used: by the same key, and nobody has joined under this name by another token since."""
    join = joins.read(last.value) if last else None
    same = hmac.compare_digest(record.consumed_by, digest)
    if not same or standing is None or join is None or join.token != _id(found):
        return _NO
    return _admitted(standing, join)


def _admitted(node: Node, join: joins.Join) -> tuple[Claims, Standing]:
    return Claims(node.metadata.name, "join_token", join.at), Standing(node, join.at)


def _id(item: Item) -> str:
    return item.key.removeprefix(keys.TOKENS)


def _joined(record: Token, standing: Node | None, address: str, now: float) -> Node:
    """The Node as the token says it; what an operator wrote besides stays."""
    if standing is None:
        metadata = Metadata(name=record.node, generation=1, creation_timestamp=_rfc3339(now))
        spec = NodeSpec(address=address, identities=record.identities, roles=record.roles)
        return Node(metadata=metadata, spec=spec)
    spec = msgspec.structs.replace(standing.spec, address=address, identities=record.identities, roles=record.roles)
    metadata = msgspec.structs.replace(standing.metadata, generation=standing.metadata.generation + 1)
    return msgspec.structs.replace(standing, metadata=metadata, spec=spec)


def node_key(name: str) -> str:
    return keys.key_for(Ref("Node", "", name))


def key_digest(public_key: PublicKey) -> str:
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _token(item: Item) -> Token | None:
    try:
        return msgspec.json.decode(item.value, type=Token)
    except msgspec.DecodeError:
        return None  # garbage in the store is a token that does not exist


def _node(item: Item | None) -> Node | Denied | None:
    if item is None:
        return None
    try:
        node = codec.decode("Node", item.value, item.revision)
    except codec.Undecodable as exc:
        return Denied(f"the record of this node cannot be read: {exc}")
    assert isinstance(node, Node)
    return node


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _rfc3339(now: float) -> str:
    return dt.datetime.fromtimestamp(int(now), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
