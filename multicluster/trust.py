"""Whose word counts for which trust domain, and which bundle of it is believed. Pure.

Bundles are exchanged in SPIFFE's own format, so that other implementations read ours and we theirs: a JWK set whose
keys with `use` x509-svid hold one root certificate each, with spiffe_sequence and spiffe_refresh_hint. Source: SPIFFE
Trust Domain and Bundle (spiffe/spiffe, standards/SPIFFE_Trust_Domain_and_Bundle.md), section 4; X509-SVID.md, 4.1.

A bundle is never merged with another one: it replaces an older one of its own trust domain, and validates nothing else.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from mesh import spiffe
from mesh.model import Metadata, TrustBundle, TrustBundleSpec
from mesh.model.checks import shown

REFRESH_SECONDS = 60
"""What we tell readers of our bundle; a peer with a session is told at once."""
MIN_REFRESH, MAX_REFRESH = 10, 24 * 3600
"""Bounds on what others tell us."""
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_KEYS = 64
MAX_ROOTS = 16
MAX_SEQUENCE = 2**53
"""Above it, JSON readers that keep numbers as doubles do not agree on which is larger."""

_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}


class Refused(ValueError):  # noqa: N818 - a bundle's fate
    """A bundle that is not believed, with the reason."""


class Jwk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a key that is read here (RFC 7517)."""

    kty: str
    use: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""
    x5c: tuple[str, ...] = ()


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    keys: tuple[Jwk, ...]
    spiffe_sequence: int = 0
    spiffe_refresh_hint: int = 0


class Bundle(NamedTuple):
    """What a document says."""

    sequence: int
    refresh_hint: int
    """Seconds; 0: it says nothing."""
    roots: tuple[str, ...]
    """PEM."""


def document(sequence: int, roots: Collection[str], refresh_hint: int = REFRESH_SECONDS) -> bytes:
    """A bundle of ours, for others."""
    made = Document(keys=tuple(map(_jwk, roots)), spiffe_sequence=sequence, spiffe_refresh_hint=refresh_hint)
    return msgspec.json.encode(made)


def _jwk(pem: str) -> Jwk:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    key, x5c = certificate.public_key(), (base64.b64encode(certificate.public_bytes(Encoding.DER)).decode(),)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        (crv, size), point = _CURVES[key.curve.name], key.public_numbers()
        return Jwk(use="x509-svid", kty="EC", crv=crv, x=_number(point.x, size), y=_number(point.y, size), x5c=x5c)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return Jwk(use="x509-svid", kty="RSA", n=_number(numbers.n), e=_number(numbers.e), x5c=x5c)
    raise Refused("a root with a key that is neither ECDSA (P-256, P-384, P-521) nor RSA has no place in a bundle")


def _number(value: int, size: int = 0) -> str:
    raw = value.to_bytes(size or (value.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def read(raw: bytes, trust_domain: str) -> Bundle:
    """What a document says of this trust domain.

    Raises:
        Refused: it is no bundle, or not one of this trust domain.

    """
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise Refused(f"a bundle of {len(raw)} bytes; at most {MAX_DOCUMENT_BYTES} are taken")
    try:
        said = msgspec.json.decode(raw, type=Document)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as exc:
        raise Refused(f"it is not a SPIFFE bundle: {str(exc)[:200]}") from exc
    if len(said.keys) > MAX_KEYS:
        raise Refused(f"a bundle of {len(said.keys)} keys; at most {MAX_KEYS} are taken")
    if not 0 <= said.spiffe_sequence < MAX_SEQUENCE:
        raise Refused("its spiffe_sequence is not a possible one")
    # "Bundle consumers MUST ignore any key with an unknown use" (4.2.2); a jwt-svid key is no root.
    roots = tuple(dict.fromkeys(_root(jwk, trust_domain) for jwk in said.keys if jwk.use == "x509-svid"))
    if not 1 <= len(roots) <= MAX_ROOTS:
        raise Refused(f"it holds {len(roots)} roots; 1 to {MAX_ROOTS} are taken")
    return Bundle(said.spiffe_sequence, max(0, said.spiffe_refresh_hint), roots)


def _root(jwk: Jwk, trust_domain: str) -> str:
    """The certificate of one key, checked."""
    if len(jwk.x5c) != 1:
        raise Refused(f"a key with {len(jwk.x5c)} certificates; an x509-svid key has one")
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(jwk.x5c[0], validate=True))
        pem = certificate.public_bytes(Encoding.PEM).decode("ascii")
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        names = _uris(certificate)
    except (ValueError, binascii.Error, x509.ExtensionNotFound, x509.DuplicateExtension) as exc:
        raise Refused(f"a key's certificate cannot be used: {str(exc)[:200]}") from exc
    if not authority:
        raise Refused("a certificate of it is not an authority's")
    for name in names:
        if name.startswith("spiffe://") and name.split("/")[2] != trust_domain:
            raise Refused(f"it holds a root of {shown(name)}, and the peer's trust domain is {trust_domain}")
    return pem


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def accept(known: TrustBundle | None, offered: Bundle, trust_domain: str, foreign: Collection[str]) -> TrustBundle:
    """The bundle to keep; `known` itself if nothing changes.

    `foreign`: trust domains that this peer may not speak for: our own, and those of other peerings.

    Raises:
        Refused: it may not say this, or it would go back.

    """
    if trust_domain in foreign:
        raise Refused(f"trust domain {trust_domain} is another's")
    if known is not None:
        if offered.sequence < known.spec.sequence:
            raise Refused(f"its sequence goes back from {known.spec.sequence} to {offered.sequence}")
        if offered.sequence == known.spec.sequence:
            if set(offered.roots) == set(known.spec.roots):
                return known
            raise Refused(f"it has other roots under the same sequence {offered.sequence}")
    return TrustBundle(
        metadata=Metadata(name=trust_domain, generation=offered.sequence),
        spec=TrustBundleSpec(trust_domain=trust_domain, sequence=offered.sequence, roots=offered.roots),
    )


def digest(sequence: int, roots: Collection[str]) -> str:
    """Names one bundle, however it is written down."""
    made = hashlib.sha256(str(sequence).encode())
    for der in sorted(x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER) for pem in roots):
        made.update(hashlib.sha256(der).digest())
    return made.hexdigest()


def speaker(certificate: bytes, trust_domain: str) -> str:
    """Replica's name in a control-plane certificate (DER) that was verified against this trust domain's bundle alone.

    Raises:
        Refused: it is nobody's who may speak for the peer.

    """
    try:
        names = _uris(x509.load_der_x509_certificate(certificate))
    except (ValueError, x509.DuplicateExtension) as exc:
        raise Refused(f"its certificate cannot be read: {str(exc)[:200]}") from exc
    if len(names) != 1:
        raise Refused(f"its certificate holds {len(names)} URIs instead of one SPIFFE id")
    try:
        identity = spiffe.parse(names[0])
    except spiffe.SpiffeError as exc:
        raise Refused(f"its certificate's id: {exc}") from exc
    if identity.trust_domain != trust_domain:
        raise Refused(f"{identity} is not of trust domain {trust_domain}")
    match identity.path.split("/"):
        case ["", "controlplane", replica]:
            return replica
    raise Refused(f"{identity} is not a control-plane node")
