"""Keys and certificate requests, made on the host. Only for short processes: see agent.identity.exchange."""

import base64

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.model import Identity


class BadIdentityError(Exception):
    """A key or chain that cannot be used, with the reason."""


def new_key() -> str:
    """A fresh P-256 key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _load(key_pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise BadIdentityError("the private key cannot be read") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadIdentityError("the private key is not an elliptic-curve key")
    return key


def request(key_pem: str) -> str:
    """A request that proves possession of the key and says nothing else: policy decides the rest."""
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(_load(key_pem), hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def proof(old_key_pem: str, csr_pem: str) -> str:
    """Base64 of the old key's signature over the request for the new one."""
    der = x509.load_pem_x509_csr(csr_pem.encode()).public_bytes(serialization.Encoding.DER)
    return base64.b64encode(_load(old_key_pem).sign(der, ec.ECDSA(hashes.SHA256()))).decode()


def accept(chain_pem: str, key_pem: str, expected: str, now: float) -> Identity:
    """What was issued, if it is for our key and for the identity that was asked for.

    Its life counts from now: certificates are backdated for clocks that are behind, and a short-lived one would be
    past its third before it came.

    Raises:
        BadIdentityError: it is not.

    """
    try:
        leaf, *_ = x509.load_pem_x509_certificates(chain_pem.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise BadIdentityError("what the CA sent is not a certificate with a name") from exc
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [expected]:
        raise BadIdentityError(f"the CA issued {uris!r} where {expected!r} was asked for")
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    theirs = leaf.public_key().public_bytes(serialization.Encoding.DER, spki)
    if theirs != _load(key_pem).public_key().public_bytes(serialization.Encoding.DER, spki):
        raise BadIdentityError("the CA certified a key that is not ours")
    return Identity(
        spiffe_id=expected,
        chain_pem=chain_pem,
        key_pem=key_pem,
        not_before=max(now, leaf.not_valid_before_utc.timestamp()),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )
