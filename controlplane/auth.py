"""Who is calling, and what may they do.

Callers prove themselves in one of two ways: an operator by a bearer token, whose SHA-256 is kept in the store, or a
machine by the SPIFFE id in the client certificate that TLS verified. `MATRIX` says who may use which route; what is not
in it is refused to everybody.
"""

import functools
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Literal, get_args

from cryptography import x509

from ca.template import issued
from mesh import codec, keys, spiffe
from mesh.model import Frozen
from mesh.store.protocol import Store
from multicluster import trust

Role = Literal["admin", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)
MAX_TOKEN_TEXT = 200
TOKEN_PREFIX = "hfo1."  # noqa: S105 - marks the kind of a token, so that scanners and the audit log know one


class OperatorToken(Frozen, frozen=True, kw_only=True):
    """Kept under keys.OPERATORS by the SHA-256 of the token's text."""

    name: str
    role: Role
    created: float
    expires: float
    """Unix seconds. No token is for ever."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    name: str = "anonymous"


@dataclass(frozen=True, slots=True)
class Operator:
    name: str
    role: Role
    expires: float = field(default=0.0, compare=False)
    """Unix seconds, of the token that was shown."""


@dataclass(frozen=True, slots=True)
class NodeCaller:
    """An agent, by its node's certificate."""

    name: str
    issued: float = field(default=0.0, compare=False)
    """Unix seconds, of the certificate that was shown."""


@dataclass(frozen=True, slots=True)
class ReplicaCaller:
    """Another control-plane node."""

    name: str


@dataclass(frozen=True, slots=True)
class PeerCaller:
    """A control-plane node of another cluster, verified against that one's bundle alone."""

    name: str
    """Of the peering."""
    trust_domain: str = ""
    replica: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The caller offered a proof, and it is not good."""

    reason: str


Caller = Anonymous | Operator | NodeCaller | ReplicaCaller | PeerCaller
Who = Literal["anybody", "viewer", "admin", "node", "replica", "peer"]

_ANYBODY: frozenset[Who] = frozenset({"anybody"})
_READ: frozenset[Who] = frozenset({"viewer", "admin"})
_WRITE: frozenset[Who] = frozenset({"admin"})
_NODE: frozenset[Who] = frozenset({"node"})
_REPLICA: frozenset[Who] = frozenset({"replica"})
_PEER: frozenset[Who] = frozenset({"peer"})
_PROXIES: frozenset[Who] = frozenset({"viewer", "admin", "replica"})

MATRIX: dict[tuple[str, str], frozenset[Who]] = {
    ("GET", "/healthz"): _ANYBODY,
    ("GET", "/readyz"): _ANYBODY,
    ("GET", "/v1/roots"): _ANYBODY,
    # What hosts install from: nothing in it is secret, and the line that a host is given pins its hash.
    ("GET", "/install.py"): _ANYBODY,
    ("GET", "/v1/dist/manifest.json"): _ANYBODY,
    ("GET", "/v1/dist/{path}"): _ANYBODY,
    ("POST", "/v1/join"): _ANYBODY,  # the join token is the proof
    ("POST", "/v1/renew"): _ANYBODY,  # the old key's signature is the proof
    # Public by its nature: SPIFFE's bundle endpoint.
    ("GET", "/v1/trust-bundle"): _ANYBODY,
    ("POST", "/v1/peering/establish"): _ANYBODY,  # the peering token is the proof
    ("GET", "/v1/peering/session"): _PEER,
    ("GET", "/v1/peerings"): _READ,
    ("GET", "/v1/peerings/{name}"): _READ,
    ("POST", "/v1/peering/tokens"): _WRITE,
    ("POST", "/v1/peering/accept"): _WRITE,
    ("GET", "/metrics"): _READ,
    ("GET", "/v1/whoami"): _READ,
    ("GET", "/v1/kinds"): _READ,
    ("GET", "/v1/objects/{plural}"): _READ,
    ("GET", "/v1/objects/{plural}/{name}"): _READ,
    ("PUT", "/v1/objects/{plural}/{name}"): _WRITE,
    ("DELETE", "/v1/objects/{plural}/{name}"): _WRITE,
    ("GET", "/v1/objects/{plural}/{namespace}/{name}"): _READ,
    ("PUT", "/v1/objects/{plural}/{namespace}/{name}"): _WRITE,
    ("DELETE", "/v1/objects/{plural}/{namespace}/{name}"): _WRITE,
    ("POST", "/v1/apply"): _WRITE,
    ("GET", "/v1/watch/{plural}"): _READ,
    ("POST", "/v1/apply/checked"): _WRITE,
    ("POST", "/v1/plan"): _READ,
    ("POST", "/v1/explain"): _READ,
    ("POST", "/v1/ask"): _REPLICA,
    ("POST", "/v1/wait"): _READ,
    ("GET", "/v1/standings"): _REPLICA,
    ("GET", "/v1/history"): _READ,
    ("GET", "/v1/history/{entry}"): _READ,
    ("GET", "/v1/status"): _READ,
    ("GET", "/v1/proxies"): _PROXIES,
    ("GET", "/v1/proxies/{node}"): _PROXIES,
    ("GET", "/v1/proxies/{node}/config"): _PROXIES,
    ("GET", "/v1/backup"): _WRITE,  # it holds the private part, though sealed
    ("POST", "/v1/tokens"): _WRITE,
    ("GET", "/v1/operators"): _WRITE,
    ("POST", "/v1/operators"): _WRITE,
    ("DELETE", "/v1/operators/{name}"): _WRITE,
    ("POST", "/v1/ca/rotate"): _WRITE,
    ("GET", "/v1/nodes/{node}/drain"): _READ,
    ("POST", "/v1/nodes/{node}/drain"): _WRITE,
    ("POST", "/v1/nodes/{node}/undrain"): _WRITE,
    ("POST", "/v1/nodes/{node}/dump"): _WRITE,  # more than a viewer sees, and it costs the host some seconds of work
    ("POST", "/v1/sign"): _NODE,
    ("POST", "/v1/register"): _NODE,
    ("GET", "/v1/uplink"): _NODE,
}
"""Route -> who may use it. Viewers see everything but backups and operators; they change nothing."""


def allowed(method: str, route: str, caller: Caller) -> bool:
    """May this caller use this route? HEAD counts as GET."""
    who = MATRIX.get(("GET" if method == "HEAD" else method, route), frozenset())
    if "anybody" in who:
        return True
    match caller:
        case Operator(role=role):
            return role in who
        case NodeCaller():
            return "node" in who
        case ReplicaCaller():
            return "replica" in who
        case PeerCaller():
            return "peer" in who
    return False


def new_token(name: str, role: Role, now: float, ttl: float) -> tuple[str, str, OperatorToken]:
    """A fresh token: its text, the key to keep its record under, and the record."""
    text = TOKEN_PREFIX + secrets.token_urlsafe(32)
    return text, operator_key(text), OperatorToken(name=name, role=role, created=now, expires=now + ttl)


def operator_key(text: str) -> str:
    """256 random bits need no slow hash, and the look-up by hash leaks nothing by its timing."""
    return keys.OPERATORS + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def bearer(header: str) -> str | Rejected:
    """The key of the record that an Authorization header points to."""
    scheme, _, text = header.partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        return Rejected("the Authorization header must be 'Bearer <token>'")
    if len(text) > MAX_TOKEN_TEXT or not text.startswith(TOKEN_PREFIX):
        return Rejected("this is not an operator's token")
    return operator_key(text)


async def operator(store: Store, key: str, now: float) -> Operator | Rejected:
    """Whose token it is. Read for each request: a token that was taken away ends at once."""
    item = await store.get(key)
    if item is None:
        return Rejected("this token is unknown here")
    try:
        record = codec.decode_struct(OperatorToken, item.value)
    except codec.Undecodable as exc:
        return Rejected(f"the record of this token cannot be read: {exc}")
    if record.expires <= now:
        return Rejected("this token has expired")
    return Operator(record.name, record.role, record.expires)


@functools.lru_cache(maxsize=4096)
def machine(  # noqa: PLR0911 - one for each fault
    certificate: bytes, trust_domain: str
) -> NodeCaller | ReplicaCaller | Rejected:
    """Whoever holds this verified client certificate (DER).

    What a certificate says never changes, and one connection shows the same with each request: it is read once.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return Rejected("the client certificate holds no SPIFFE id")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        return Rejected(f"the client certificate holds {len(uris)} URIs instead of one SPIFFE id")
    try:
        identity = spiffe.parse(uris[0])
    except spiffe.SpiffeError as exc:
        return Rejected(f"the client certificate's id: {exc}")
    if identity.trust_domain != trust_domain:
        return Rejected(f"the client certificate is of trust domain {identity.trust_domain}, not {trust_domain}")
    match identity.path.split("/"):
        case ["", "node", name]:
            return NodeCaller(name, issued(parsed))
        case ["", "controlplane", name]:
            return ReplicaCaller(name)
    return Rejected(f"{identity} is neither a node nor a control-plane node")


@functools.lru_cache(maxsize=256)
def peer(certificate: bytes, name: str, trust_domain: str) -> PeerCaller | Rejected:
    """Whoever holds this client certificate (DER), which the bundle of this peer's trust domain verified."""
    try:
        return PeerCaller(name, trust_domain, trust.speaker(certificate, trust_domain))
    except trust.Refused as exc:
        return Rejected(str(exc))
