"""Proof by a node certificate: a live one in TLS, or an expired one with a signature of its key.

`node_of` reads a certificate that TLS has verified. `prove_expired` verifies everything by itself: the caller of
/v1/renew has no client certificate that TLS would still take. Its work is bounded: sizes, number and kinds of keys are
checked before any signature is.
"""

import base64
import binascii
import itertools
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca import verify
from ca.policy import Claims, Denied, name_fault
from ca.template import BACKDATE, PublicKey, issued
from ca.wire import RenewRequest
from mesh import spiffe

GRACE = 90 * 86400.0
"""Seconds after its end that a node certificate may still be renewed by proof of its key: no outage ends in a
fleet-wide re-join."""
MAX_PROOF = 1024


def node_of(certificate: bytes | x509.Certificate, trust_domain: str) -> str | Denied:
    """The node that a verified client certificate (DER) belongs to. Workloads and replicas are no nodes."""
    try:
        leaf = x509.load_der_x509_certificate(certificate) if isinstance(certificate, bytes) else certificate
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        uris = san.get_values_for_type(x509.UniformResourceIdentifier)
        identity = spiffe.parse(uris[0]) if len(uris) == 1 else None
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as exc:
        return Denied(f"the client certificate cannot be read ({type(exc).__name__})")
    if identity is None or constraints.ca:
        return Denied("the client certificate does not carry exactly one identity")
    match identity.path.split("/"):
        case ["", "node", name] if identity.trust_domain == trust_domain and not name_fault("node", name):
            return name
        case _:
            return Denied("the client certificate is not one of a node of this mesh")


def prove_expired(
    request: RenewRequest, roots: Iterable[str], trust_domain: str, now: float
) -> tuple[Claims, PublicKey] | Denied:
    """Which node holds the old key, and the new key that it asks a certificate for."""
    held = _held(request.chain, roots, trust_domain, now)
    if isinstance(held, Denied):
        return held
    claims, old = held
    key = verify.csr(request.csr)
    if isinstance(key, Denied):
        return key
    if not _proved(request, old):
        return Denied("the proof is not a signature of the old key over the CSR")
    return claims, key


def _held(
    chain: str, roots: Iterable[str], trust_domain: str, now: float
) -> tuple[Claims, ec.EllipticCurvePublicKey] | Denied:
    """Whose certificate it was, and its key."""
    path = verify.certificates(chain)
    if isinstance(path, Denied):
        return path
    name, old, ends = node_of(path[0], trust_domain), path[0].public_key(), path[0].not_valid_after_utc.timestamp()
    if isinstance(name, Denied):
        return name
    fault = ""
    if now > ends + GRACE:
        fault = f"the certificate of node {name} expired more than 90 days ago; join it with a new token"
    elif path[0].not_valid_before_utc.timestamp() > now + BACKDATE:
        fault = "the certificate is not valid yet"
    elif not isinstance(old, ec.EllipticCurvePublicKey):
        fault = "the old key is not ECDSA"
    elif any(child.not_valid_after_utc > parent.not_valid_after_utc for child, parent in itertools.pairwise(path)):
        # We never issue so. Whoever stole an intermediate's key could otherwise make node certificates with it for
        # ever: here its own end is not looked at.
        fault = "a certificate of the chain outlives its issuer"
    # The dates of the path do not matter, an outage may have outlasted them all; its signatures and the root's do.
    anchor = Denied(fault) if fault else verify.anchored(path, roots, now)
    if isinstance(anchor, Denied):
        return anchor
    assert isinstance(old, ec.EllipticCurvePublicKey)
    return Claims(name, "expired_certificate" if now >= ends else "node_certificate", issued(path[0])), old


def _proved(request: RenewRequest, old: ec.EllipticCurvePublicKey) -> bool:
    if len(request.proof) > MAX_PROOF:
        return False
    # The very CSR whose key was taken: parsed once more from the same text, signed over its DER.
    der = x509.load_pem_x509_csr(request.csr.strip().encode("ascii")).public_bytes(Encoding.DER)
    try:
        old.verify(base64.b64decode(request.proof, validate=True), der, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
