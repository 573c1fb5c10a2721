"""Certificates of our own making: those that must be refused, and what a host of the demo really holds."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Held(NamedTuple):
    """A certificate chain, leaf first, with its key; PEM."""

    chain: str
    key: str

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain.encode())

    @property
    def serial(self) -> str:
        return format(self.leaf.serial_number, "x")

    @property
    def hash(self) -> str:
        """Hex SHA-256 over the leaf's DER: as Envoy names a caller's certificate."""
        return self.leaf.fingerprint(hashes.SHA256()).hex()


class Authority(NamedTuple):
    """A CA whose key we have."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[str, ...] = ()
    """PEM to send along after a leaf: this CA's own certificate, if it is no root."""


def held(folder: Path, identity: str) -> Held:
    """What a host's agent holds for `<namespace>/<service account>`: the newest good slot of its state on disk.

    Raises:
        LookupError: it holds none.

    """
    newest: tuple[int, Held] | None = None
    for path in sorted(folder.glob("identity.[01]")):
        header, _, body = path.read_bytes().partition(b"\n")
        sequence = int(header.split()[1])
        found = msgspec.msgpack.decode(body).get("held", {}).get(identity)
        if found and (newest is None or sequence > newest[0]):
            newest = sequence, Held(found["chainPem"], found["keyPem"])
    if newest is None:
        raise LookupError(f"{folder} holds no certificate for {identity}")
    return newest[1]


def roots(folder: Path) -> tuple[str, ...]:
    """The root certificates that a host's agent was given."""
    for path in sorted(folder.glob("identity.[01]"), key=lambda p: -p.stat().st_mtime):
        found: list[str] = msgspec.msgpack.decode(path.read_bytes().partition(b"\n")[2])["roots"]
        return tuple(found)
    raise LookupError(f"{folder} holds no roots")


def new_authority(name: str, now: datetime) -> Authority:
    """A root that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), _name(name), key.public_key(), now - timedelta(hours=1), now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    return Authority(builder.add_extension(_usage(ca=True), critical=True).sign(key, hashes.SHA256()), key)


def intermediate_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """A CSR for an intermediate whose key we have."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def leaf(
    issuer: Authority,
    uri: str,
    now: datetime,
    *,
    begin: timedelta = timedelta(minutes=-5),
    end: timedelta | None = None,
) -> Held:
    """A workload's certificate as a CA of ours would make it: good in all but what is asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(
        _name(""), issuer.certificate.subject, key.public_key(), now + begin, now + (end or timedelta(hours=1))
    )
    builder = (
        builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    signed = builder.sign(issuer.key, hashes.SHA256())
    return Held("".join((_pem(signed), *issuer.above)), _key_pem(key))


def client_context(folder: Path, mine: Held | None, trusted: Sequence[str]) -> ssl.SSLContext:
    """TLS as a mesh client: shows `mine`, takes a server that chains to `trusted`, whatever it is called.

    Names of the mesh are URIs, which Python's TLS does not check; the caller compares them itself.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata="\n".join(trusted))
    if mine:
        _load(context, folder, mine)
    return context


def server_context(folder: Path, mine: Held) -> ssl.SSLContext:
    """TLS as a server that takes any client: for posing as somebody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Nobody may resume a session here: the certificate would not be looked at again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load(context, folder, mine)
    return context


def _load(context: ssl.SSLContext, folder: Path, mine: Held) -> None:
    # Python takes a chain from a file only; this one is gone before anybody else could look for it.
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{mine.hash}.pem"
    path.touch(mode=0o600)
    try:
        path.write_text(mine.chain.rstrip() + "\n" + mine.key)
        context.load_cert_chain(path)
    finally:
        path.unlink()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def utc(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)
