"""Two checks around every signature (pure).

`csr`: does the caller hold the key, and is the key one that we sign for? Bounded work: the size is checked before
anything is parsed, the kind of key and of signature before any arithmetic is done with them.

`issuer` and `chain`: does what was signed say what was granted, up to the root? They parse the very text that is handed
out, so that what is checked and what is used are the same bytes.

Keys: ECDSA on P-256 or P-384 only. RSA is refused at every size: each handshake would pay for it, and its size is the
caller's to choose. Ed25519 is refused because Envoy (BoringSSL) does not present such certificates.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from ca.policy import Denied, Grant
from ca.template import BACKDATE, PublicKey, moment

MAX_CSR_BYTES = 16 * 1024
MAX_CHAIN_BYTES = 32 * 1024
MAX_CHAIN = 4
"""Certificates in a chain without its root."""

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_SIGNATURES = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    }
)
_LEAF_EXTENSIONS = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)
_CSR_BEGIN, _CSR_END = "-----BEGIN CERTIFICATE REQUEST-----", "-----END CERTIFICATE REQUEST-----"
_CERT_BEGIN, _CERT_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_WORDS = {
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: "subject alternative names",
    ExtensionOID.BASIC_CONSTRAINTS: "basic constraints",
    ExtensionOID.KEY_USAGE: "key usage",
    ExtensionOID.EXTENDED_KEY_USAGE: "extended key usage",
}


def csr(pem: str) -> PublicKey | Denied:
    """The key that the caller has proved to hold, and nothing else of the request."""
    if len(pem) > MAX_CSR_BYTES:
        return Denied(f"the CSR is larger than {MAX_CSR_BYTES} bytes")
    text = pem.strip()
    if not (text.startswith(_CSR_BEGIN) and text.endswith(_CSR_END) and text.count("-----BEGIN") == 1):
        return Denied("the CSR is not one PEM block CERTIFICATE REQUEST")
    try:
        request = x509.load_pem_x509_csr(text.encode("ascii"))
        key = request.public_key()
    except Exception as exc:  # noqa: BLE001 - whatever a parser of hostile bytes raises, the answer is no
        return Denied(f"the CSR cannot be read ({type(exc).__name__})")
    if fault := _key_fault(key) or _csr_fault(request):
        return Denied(fault)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def _key_fault(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return ""
    name = f"curve {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.lstrip("_")
    return f"the key is {name}; only ECDSA on P-256 or P-384 is accepted"


def _costly(key: object) -> bool:
    """Would a signature check with this key cost more than ours ever do? Its size is a caller's to choose."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size > 4096  # a Vault's root may be RSA
    return not isinstance(key, ec.EllipticCurvePublicKey)


def _csr_fault(request: x509.CertificateSigningRequest) -> str:
    if request.signature_algorithm_oid not in _SIGNATURES:
        return "the CSR is not signed with ECDSA and SHA-2"
    try:
        for extension in request.extensions:
            word = _WORDS.get(extension.oid, f"extension {extension.oid.dotted_string}")
            return f"the CSR asks for {word}; send one without extensions, a certificate says what policy grants"
        if len(request.attributes) > 0:
            return "the CSR has attributes; send one without"
        if not request.is_signature_valid:
            return "the CSR's signature does not fit its key"
    except Exception as exc:  # noqa: BLE001 - as above
        return f"the CSR cannot be read ({type(exc).__name__})"
    return ""


def certificates(pem: str) -> tuple[x509.Certificate, ...] | Denied:
    """The certificates of a chain, of bounded size and number. Text between the blocks is refused."""
    if len(pem) > MAX_CHAIN_BYTES:
        return Denied(f"the chain is larger than {MAX_CHAIN_BYTES} bytes")
    blocks = split(pem)
    if not 1 <= len(blocks) <= MAX_CHAIN or "".join(blocks) != pem.strip() + "\n":
        return Denied(f"the chain is not 1 to {MAX_CHAIN} PEM blocks CERTIFICATE")
    try:
        path = tuple(x509.load_pem_x509_certificate(block.encode("ascii")) for block in blocks)
        for certificate in path:
            # Parsed on demand by the library; what cannot be parsed must come out here and nowhere later.
            _ = certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if _costly(certificate.public_key()):
                return Denied("a key of the chain is neither ECDSA nor RSA of at most 4096 bits")
    except Exception as exc:  # noqa: BLE001 - as above
        return Denied(f"the chain cannot be read ({type(exc).__name__})")
    return path


def split(pem: str) -> tuple[str, ...]:
    """The PEM blocks of a text, each with its newline."""
    parts = pem.split(_CERT_BEGIN)[1:]
    return tuple(f"{_CERT_BEGIN}{part.partition(_CERT_END)[0]}{_CERT_END}\n" for part in parts)


@dataclass(frozen=True, slots=True)
class Issuer:
    """An intermediate that was verified up to a root. Its work is done once, not for every leaf."""

    certificate: x509.Certificate
    chain_pem: str
    """Itself first, the root left out: what follows a leaf in the text that is handed out."""
    root_pem: str
    not_before: float
    not_after: float


def issuer(chain_pem: str, roots: Iterable[str], public_key: PublicKey | None, now: float) -> Issuer | Denied:
    """Check an intermediate: for our key, allowed to sign leaves, in date, and signed by one of the roots.

    `public_key` None: whose key it is does not matter (checking another's chain).
    """
    parsed = certificates(chain_pem)
    if isinstance(parsed, Denied):
        return parsed
    own = parsed[0]
    if public_key is not None and _spki(own.public_key()) != _spki(public_key):
        return Denied("the intermediate is for another key")
    for certificate in parsed:
        if fault := _authority_fault(certificate) or _date_fault(certificate, now):
            return Denied(fault)
    anchor = anchored(parsed, roots, now)
    if isinstance(anchor, Denied):
        return anchor
    if own.not_valid_after_utc > x509.load_pem_x509_certificate(anchor.encode("ascii")).not_valid_after_utc:
        return Denied("the intermediate outlives its root")
    return Issuer(own, chain_pem, anchor, _unix(own, "before"), _unix(own, "after"))


def anchored(path: tuple[x509.Certificate, ...], roots: Iterable[str], now: float) -> str | Denied:
    """The root, in date, that a path (from `certificates`) leads to. The path's own dates are the caller's matter."""
    below = 0 if _authority_fault(path[0]) else 1
    for child, parent in itertools.pairwise(path):
        # A leaf that signs another is no issuer, however well its signature fits.
        if _authority_fault(parent) or not _room_for(below, parent) or not _signed_by(child, parent):
            return Denied("the chain's certificates do not follow from each other")
        below += 1
    for pem in roots:
        root = x509.load_pem_x509_certificate(pem.encode("ascii"))
        if _authority_fault(root) or _date_fault(root, now) or not _room_for(below, root):
            continue
        if _signed_by(path[-1], root):
            return pem
    return Denied("the chain does not lead to a root of this trust domain")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a verified certificate is known by, in audit lines and deny lists."""

    serial: str
    """Hex."""
    digest: str
    """SHA-256 of the DER, hex."""
    not_before: float
    not_after: float


def parts(pem: str) -> tuple[str, str]:
    """A chain's leaf, and what follows it: its issuer's chain."""
    head, end, rest = pem.partition(_CERT_END + "\n")
    return head + end, rest


def chain(pem: str, grant: Grant, public_key: PublicKey, by: Issuer, now: float) -> Leaf | Denied:
    """Check a chain that is about to be handed out: it must say exactly what was granted."""
    head, rest = parts(pem)
    if rest != by.chain_pem:
        return Denied("the chain is not the leaf followed by its issuer")
    try:
        leaf = x509.load_pem_x509_certificate(head.encode("ascii"))
        fault = (
            _leaf_fault(leaf, grant)
            or _window_fault(leaf, grant, by, now)
            or ("" if _spki(leaf.public_key()) == _spki(public_key) else "the certificate is for another key")
            or ("" if _signed_by(leaf, by.certificate) else "the certificate is not signed by its issuer")
        )
    except Exception as exc:  # noqa: BLE001 - a signer may return anything; none of it may pass
        return Denied(f"the certificate cannot be read ({type(exc).__name__})")
    return Denied(fault) if fault else describe(leaf)


def describe(leaf: x509.Certificate) -> Leaf:
    """The figures of a certificate."""
    digest = leaf.fingerprint(hashes.SHA256()).hex()
    return Leaf(f"{leaf.serial_number:x}", digest, _unix(leaf, "before"), _unix(leaf, "after"))


def _leaf_fault(leaf: x509.Certificate, grant: Grant) -> str:
    if {extension.oid for extension in leaf.extensions} != _LEAF_EXTENSIONS:
        return "the certificate's extensions are not the ones of our leaves"
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [str(grant.spiffe_id)]:
        return "the certificate's URI name is not the one granted"
    if tuple(san.get_values_for_type(x509.DNSName)) != grant.dns_names or len(san) != 1 + len(grant.dns_names):
        return "the certificate's other names are not the ones granted"
    if len(leaf.subject) > 0:
        return "the certificate has a subject"
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    if constraints.value.ca:
        return "the certificate may sign others"
    return _usage_fault(leaf)


def _usage_fault(leaf: x509.Certificate) -> str:
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    value = usage.value
    others = (value.key_cert_sign, value.crl_sign, value.key_encipherment, value.data_encipherment, value.key_agreement)
    if not usage.critical or not value.digital_signature or value.content_commitment or any(others):
        return "the certificate's key usage is not digital signature alone, critical"
    extended = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    if extended != {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}:
        return "the certificate's extended key usage is not server and client authentication"
    return ""


def _window_fault(leaf: x509.Certificate, grant: Grant, by: Issuer, now: float) -> str:
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    second = timedelta(seconds=1)  # certificates count whole seconds
    if end > by.certificate.not_valid_after_utc:
        return "the certificate outlives its issuer"
    if end > moment(now + grant.ttl) + second or start < moment(max(now, grant.since) - BACKDATE) - second:
        return "the certificate is valid for longer than granted"
    if start > moment(now) or end <= moment(now) or by.not_before > now:
        return "the certificate is not valid now"
    return ""


def _authority_fault(certificate: x509.Certificate) -> str:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return "an issuer lacks basic constraints or key usage"
    if not constraints.value.ca or not constraints.critical:
        return "an issuer is not a certificate authority"
    return "" if usage.value.key_cert_sign else "an issuer may not sign certificates"


def _room_for(below: int, authority: x509.Certificate) -> bool:
    """Does its path length allow so many authorities below it? (RFC 5280, 4.2.1.9)"""
    limit = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    return limit is None or below <= limit


def _date_fault(certificate: x509.Certificate, now: float) -> str:
    if _unix(certificate, "before") > now:
        return "an issuer's certificate is not valid yet"
    return "an issuer's certificate has expired" if _unix(certificate, "after") <= now else ""


def _signed_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _spki(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    raw: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


def _unix(certificate: x509.Certificate, end: str) -> float:
    when = certificate.not_valid_before_utc if end == "before" else certificate.not_valid_after_utc
    return when.timestamp()
