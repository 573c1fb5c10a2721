"""The certificates of etcd's own CA, which is never the mesh's: CA, members, clients. And OpenBao's, a CA for itself.

Pure but for the randomness of keys and serial numbers. `holdfast init etcd-certs` and `openbao-certs` write what this
makes; so does the demo's cluster.
"""

import datetime as dt
import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=3650)
BACKDATE = dt.timedelta(minutes=5)
"""For clocks that differ a little."""

SERVER_NAME = "etcd"
"""A DNS name in every member's certificate: clients verify it, whatever address they dial."""

OPENBAO_NAME = "openbao"

ROOT_USER = "root"
CONTROLPLANE_USER = "holdfast-controlplane"
GATE_USER = "holdfast-gate"


class Pair(NamedTuple):
    """A certificate and its key, PEM."""

    cert: bytes
    key: bytes


def make_ca(now: float, name: str = "holdfast etcd CA") -> Pair:
    """A new CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    usage = _key_usage(signs_certificates=True)
    builder = (
        _builder(subject, subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_member(ca: Pair, name: str, addresses: Iterable[str], now: float) -> Pair:
    """For one member: its clients and its peers see the same certificate. It also dials its peers with it."""
    # etcd maps a client certificate's CN to a user; a member's CN must never be one.
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _leaf(ca, f"etcd-member-{name}", now, uses, [x509.DNSName(SERVER_NAME), *_names(addresses)])


def make_openbao_member(ca: Pair, name: str, addresses: Iterable[str], now: float) -> Pair:
    """For one member of OpenBao. Clients verify its address; with its peers it speaks under certificates of its own."""
    names = [x509.DNSName(OPENBAO_NAME), *_names(addresses)]
    return _leaf(ca, f"openbao-member-{name}", now, [ExtendedKeyUsageOID.SERVER_AUTH], names)


def make_client(ca: Pair, user: str, now: float) -> Pair:
    """For a client: etcd takes the CN for the user's name."""
    return _leaf(ca, user, now, [ExtendedKeyUsageOID.CLIENT_AUTH], [])


def _names(addresses: Iterable[str]) -> Iterator[x509.GeneralName]:
    for address in addresses:
        try:
            yield x509.IPAddress(ipaddress.ip_address(address))
        except ValueError:
            yield x509.DNSName(address)


def _leaf(
    ca: Pair, common_name: str, now: float, uses: list[x509.ObjectIdentifier], names: list[x509.GeneralName]
) -> Pair:
    issuer = x509.load_pem_x509_certificate(ca.cert)
    issuer_key = serialization.load_pem_private_key(ca.key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = _key_usage(signs_certificates=False)
    builder = (
        _builder(_name(common_name), issuer.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: float
) -> x509.CertificateBuilder:
    at = dt.datetime.fromtimestamp(now, dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATE)
        .not_valid_after(at + LIFETIME)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        cert.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
