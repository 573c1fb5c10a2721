"""What certificates say: Grant + public key + issuer + now -> an unsigned certificate (pure).

Everything comes from policy. All certificates carry subject and authority key identifiers, critical basic constraints
and critical key usage, as X509-SVID and RFC 5280 ask.
"""

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.policy import Grant

BACKDATE = 300.0
"""Seconds that a certificate starts in the past: clocks of hosts may be that far behind."""
ROOT_TTL = 3650 * 86400.0

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey

_EXTENDED = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_NO_CA = x509.BasicConstraints(ca=False, path_length=None)
_NOBODY = x509.Name([])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


_LEAF_USAGE, _CA_USAGE = _usage(ca=False), _usage(ca=True)


@dataclass(frozen=True, slots=True)
class Parent:
    """What a child takes from its issuer's certificate."""

    subject: x509.Name
    key_id: x509.AuthorityKeyIdentifier
    not_after: float

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Parent":
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        return cls(certificate.subject, key_id, certificate.not_valid_after_utc.timestamp())


def moment(unix: float) -> dt.datetime:
    """Certificates count whole seconds, in UTC."""
    return dt.datetime.fromtimestamp(int(unix), dt.UTC)


def issued(certificate: x509.Certificate) -> float:
    """When a certificate of ours says that it was made, unix seconds."""
    return certificate.not_valid_before_utc.timestamp() + BACKDATE


def leaf(grant: Grant, public_key: PublicKey, parent: Parent, now: float, serial: int) -> x509.CertificateBuilder:
    """A certificate that says what was granted and nothing else; it never outlives its issuer.

    The subject is empty, so that no reader can mistake it for the identity; the SAN is critical then (RFC 5280,
    4.2.1.6).
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(grant.spiffe_id))]
    names += [x509.DNSName(name) for name in grant.dns_names]
    return (
        x509.CertificateBuilder()
        .subject_name(_NOBODY)
        .issuer_name(parent.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(moment(max(now, grant.since) - BACKDATE))
        .not_valid_after(moment(min(now + grant.ttl, parent.not_after)))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(_NO_CA, critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(_EXTENDED, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(parent.key_id, critical=False)
    )


def intermediate(
    name: str, public_key: PublicKey, parent: Parent, now: float, ttl: float, serial: int
) -> x509.CertificateBuilder:
    """A replica's own issuer: signs leaves only (path length 0)."""
    return (
        _authority(_named(name), public_key, path_length=0)
        .issuer_name(parent.subject)
        .serial_number(serial)
        .not_valid_before(moment(now - BACKDATE))
        .not_valid_after(moment(min(now + ttl, parent.not_after)))
        .add_extension(parent.key_id, critical=False)
    )


def root(name: str, public_key: PublicKey, now: float, serial: int, ttl: float = ROOT_TTL) -> x509.CertificateBuilder:
    """A self-signed root, for intermediates of one level."""
    subject = _named(name)
    return (
        _authority(subject, public_key, path_length=1)
        .issuer_name(subject)
        .serial_number(serial)
        .not_valid_before(moment(now - BACKDATE))
        .not_valid_after(moment(now + ttl))
    )


def _authority(subject: x509.Name, public_key: PublicKey, *, path_length: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _named(name: str) -> x509.Name:
    """A common name holds 64 characters (RFC 5280, appendix A.1, ub-common-name)."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
