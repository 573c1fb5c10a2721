"""The text that makes a peering: carried by an operator from the cluster that made it to the one that accepts it. Pure.

    hfp1.<base64url of JSON>

It names the cluster, where it is reached, and the pin of its root, so that whoever accepts it knows whom it talks to
before any trust exists; and a secret, of which the maker keeps the SHA-256. It is used once: by one cluster, told by
the digest of its trust bundle. The same cluster may repeat the call until the token expires, for an answer may be lost.
"""

import base64
import binascii
import hashlib
import re

import msgspec

from mesh import spiffe
from mesh.model import Frozen
from mesh.model.checks import label_fault
from multicluster import wire

PREFIX = "hfp1."
MAX_TEXT = 8192
MIN_TTL, MAX_TTL = 60.0, 7 * 86400.0

_ID, _SECRET, _PIN = re.compile(r"[0-9a-f]{16}\Z"), re.compile(r"[A-Za-z0-9_-]{43}\Z"), re.compile(r"[0-9a-f]{32}\Z")


class BadToken(ValueError):  # noqa: N818 - what it is
    """Text that is no peering token, with the reason; never with the text."""


class Token(Frozen, frozen=True, kw_only=True):
    id: str
    secret: str
    cluster: str
    trust_domain: str
    pin: str
    """Of the root that its control plane serves with: as in join tokens."""
    addresses: tuple[str, ...]


class Record(Frozen, frozen=True, kw_only=True):
    """What the maker keeps under keys.PEERING_TOKENS + id. It holds no secret."""

    secret_sha256: str
    created: float
    expires: float
    """Unix seconds."""
    author: str = ""
    peer: str = ""
    """The only cluster that may use it; empty: any that is no peer yet."""
    consumed_by: str = ""
    """`<cluster> <digest of its bundle>` of who used it."""
    consumed_at: float = 0.0
    made: bool = False
    """The Peering was written. If it is gone since, somebody deleted it, and this token does not bring it back."""


class Application(Frozen, frozen=True, kw_only=True):
    """What the accepting cluster sends: the token's proof, and who it is."""

    id: str
    secret: str
    cluster: str
    trust_domain: str
    addresses: tuple[str, ...]
    bundle: str
    """SPIFFE bundle document."""


class Acceptance(Frozen, frozen=True, kw_only=True):
    """What the maker answers: who it is."""

    cluster: str
    trust_domain: str
    addresses: tuple[str, ...]
    bundle: str


def text_of(token: Token) -> str:
    return PREFIX + base64.urlsafe_b64encode(wire.encode(token)).decode().rstrip("=")


def parse(text: str) -> Token:
    """Take a token's text apart.

    Raises:
        BadToken: it is none.

    """
    text = text.strip()
    if len(text) > MAX_TEXT or not text.startswith(PREFIX):
        raise BadToken("this is not a peering token (hfp1.…)")
    body = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.json.decode(raw, type=Token)
    except (binascii.Error, ValueError) as exc:
        raise BadToken("this peering token was cut or altered") from exc
    try:
        spiffe.check_trust_domain(token.trust_domain)
    except spiffe.SpiffeError as exc:
        raise BadToken(f"this peering token: {exc}") from exc
    whole = _ID.match(token.id) and _SECRET.match(token.secret) and _PIN.match(token.pin) and token.addresses
    if not whole or label_fault(token.cluster) or wire.address_faults(token.addresses):
        raise BadToken("this peering token was cut or altered")
    return token


def secret_digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def user(cluster: str, bundle_digest: str) -> str:
    """Who used a token: a later call of the same cluster, with the same bundle, is the same use."""
    return f"{cluster} {bundle_digest}"
