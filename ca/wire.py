"""Messages between an agent and the CA. JSON over HTTPS; sizes are bounded by the API."""

from mesh.model import Frozen

MAX_BODY_BYTES = 256 * 1024


class JoinRequest(Frozen, frozen=True, kw_only=True):
    """POST /v1/join. No client certificate yet: the token is the evidence."""

    token: str
    node: str
    address: str
    """What other hosts dial."""
    csr: str
    """PEM; proves that the caller holds the key. Nothing else of it is used."""


class JoinAnswer(Frozen, frozen=True, kw_only=True):
    chain: str
    """PEM: the node's certificate, then the intermediate."""
    roots: tuple[str, ...]
    trust_domain: str
    cluster: str
    node: str
    identities: tuple[str, ...]
    roles: tuple[str, ...]
    gates: tuple[str, ...]
    """`<address>:<port>` of the store gates."""
    controlplanes: tuple[str, ...]
    """Base URLs of the control-plane nodes."""


class SignItem(Frozen, frozen=True, kw_only=True):
    identity: str
    """`<namespace>/<service-account>` for a workload, `node` for the node itself, `gate` for a gate's server side."""
    csr: str


class SignRequest(Frozen, frozen=True, kw_only=True):
    """POST /v1/sign, with the node's certificate. A batch: one round trip renews a whole host."""

    items: tuple[SignItem, ...]


class Signed(Frozen, frozen=True, kw_only=True):
    """One item's outcome: a chain or a reason, in the order of the request."""

    identity: str
    chain: str = ""
    denied: str = ""
    retry_after: float = 0.0
    """Seconds, if it was denied and the same request may succeed later (a limit, or the CA has no issuer now)."""


class SignAnswer(Frozen, frozen=True, kw_only=True):
    signed: tuple[Signed, ...]
    roots: tuple[str, ...]


class RenewRequest(Frozen, frozen=True, kw_only=True):
    """POST /v1/renew, without a client certificate: an expired node certificate may be renewed by proof of its key."""

    chain: str
    """The expired (or valid) node certificate with its intermediate."""
    csr: str
    """For the new key."""
    proof: str
    """Base64: signature by the old key over the DER of the CSR."""


class RootsAnswer(Frozen, frozen=True, kw_only=True):
    """GET /v1/roots, for anybody: the trust bundle of this cluster.

    A joining host trusts only the root that its token pins; the others count once they arrive over a verified channel.
    """

    trust_domain: str
    sequence: int
    roots: tuple[str, ...]
