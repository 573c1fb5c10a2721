"""Keys and proofs of possession, made where the key lives.

`cryptography` is imported inside the functions: an agent that serves from disk and renews nothing need not hold it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


def new_key() -> str:
    """A new private key: ECDSA P-256, PEM (PKCS #8). The caller stores it with mode 0600 and sends it nowhere."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def new_csr(key_pem: str) -> str:
    """A CSR that proves possession and says nothing else: empty subject, no extensions."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(_private(key_pem), hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def prove(old_key_pem: str, csr_pem: str) -> str:
    """For RenewRequest: the old key's signature over the DER of the new key's CSR, base64."""
    import base64

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    der = x509.load_pem_x509_csr(csr_pem.encode()).public_bytes(Encoding.DER)
    return base64.b64encode(_private(old_key_pem).sign(der, ec.ECDSA(hashes.SHA256()))).decode()


def pin(certificate_pem: str) -> str:
    """What a join token carries of a root: the first 32 hex digits (128 bits) of the SHA-256 of its DER."""
    import hashlib
    import ssl

    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem)).hexdigest()[:32]


def dates(certificate_pem: str) -> tuple[float, float]:
    """The first certificate's not-before and not-after, unix seconds."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _private(pem: str) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the private key is not ECDSA")
    return key
