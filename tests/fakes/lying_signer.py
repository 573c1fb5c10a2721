"""Signers that sign for real, but something else than was asked."""

import dataclasses
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ca import template
from ca.authority import Authority
from ca.policy import Grant
from ca.signer.memory import MemorySigner, RootKey, new_root, to_pem

Change = Callable[[x509.CertificateBuilder, Grant], x509.CertificateBuilder]


class LyingAuthority:
    """Wraps a real one. `lie` names what is wrong with every leaf it signs."""

    def __init__(self, honest: Authority, lie: str) -> None:
        self._honest, self._lie = honest, lie

    @property
    def roots(self) -> tuple[str, ...]:
        return self._honest.roots

    def issue(self, grant: Grant, public_key: template.PublicKey, now: float) -> str:
        held = self._honest._current
        assert held is not None
        parent, key = held.parent, held.key
        match self._lie:
            case "another identity":
                grant = dataclasses.replace(grant, spiffe_id=grant.spiffe_id._replace(path="/ns/shop/sa/admin"))
            case "one name more":
                grant = dataclasses.replace(grant, dns_names=(*grant.dns_names, "controlplane.holdfast"))
            case "longer":
                grant = dataclasses.replace(grant, ttl=grant.ttl + 3600)
            case "outlives its issuer":
                grant, parent = dataclasses.replace(grant, ttl=1e9), dataclasses.replace(parent, not_after=4e9)
            case "another key":
                public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
            case "not yet valid":
                now += 7200
            case "long backdated":
                now -= 7200
            case "signed by a stranger":
                key = ec.generate_private_key(ec.SECP256R1())
        builder = template.leaf(grant, public_key, parent, now, x509.random_serial_number())
        chain = to_pem(LEAVES.get(self._lie, lambda b, _: b)(builder, grant).sign(key, hashes.SHA256()))
        if self._lie == "garbage":
            return "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + held.issuer.chain_pem
        if self._lie == "no issuer":
            return chain
        return chain + held.issuer.chain_pem


LIES = (
    "another identity",
    "one name more",
    "longer",
    "outlives its issuer",
    "another key",
    "not yet valid",
    "long backdated",
    "signed by a stranger",
    "garbage",
    "no issuer",
    "a second uri",
    "ca true",
    "may sign",
    "usage not critical",
    "code signing",
    "one extension more",
    "a subject",
)


def _without(builder: x509.CertificateBuilder, kind: type) -> x509.CertificateBuilder:
    builder._extensions = [e for e in builder._extensions if not isinstance(e.value, kind)]
    return builder


def _second_uri(builder: x509.CertificateBuilder, grant: Grant) -> x509.CertificateBuilder:
    uris = [x509.UniformResourceIdentifier(text) for text in (str(grant.spiffe_id), "spiffe://mesh.test/ns/a/sa/b")]
    return _without(builder, x509.SubjectAlternativeName).add_extension(
        x509.SubjectAlternativeName(uris), critical=True
    )


def _ca(builder: x509.CertificateBuilder, _: Grant) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    return _without(builder, x509.BasicConstraints).add_extension(constraints, critical=True)


def _may_sign(builder: x509.CertificateBuilder, _: Grant) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    return _without(builder, x509.KeyUsage).add_extension(usage, critical=True)


def _not_critical(builder: x509.CertificateBuilder, _: Grant) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    return _without(builder, x509.KeyUsage).add_extension(usage, critical=False)


def _code_signing(builder: x509.CertificateBuilder, _: Grant) -> x509.CertificateBuilder:
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CODE_SIGNING])
    return _without(builder, x509.ExtendedKeyUsage).add_extension(usage, critical=False)


def _one_more(builder: x509.CertificateBuilder, _: Grant) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=False
    )


def _subject(builder: x509.CertificateBuilder, _: Grant) -> x509.CertificateBuilder:
    builder._subject_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    return builder


LEAVES: dict[str, Change] = {
    "a second uri": _second_uri,
    "ca true": _ca,
    "may sign": _may_sign,
    "usage not critical": _not_critical,
    "code signing": _code_signing,
    "one extension more": _one_more,
    "a subject": _subject,
}


class LyingSigner(MemorySigner):
    """Signs intermediates that must not be used."""

    LIES = ("another key", "no ca", "expired", "another root", "outlives its root", "garbage")

    def __init__(self, trust_domain: str, lie: str, *, clock: Callable[[], float]) -> None:
        super().__init__(trust_domain, clock=clock)
        self._lie = lie

    async def sign_intermediate(self, csr_pem: str, ttl: float) -> str:
        now = self._clock()
        own = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        assert isinstance(own, ec.EllipticCurvePublicKey)
        root: RootKey = self._root
        match self._lie:
            case "another key":
                own = ec.generate_private_key(ec.SECP256R1()).public_key()
            case "expired":
                now -= ttl + 1
            case "another root":
                root = new_root("another root", now)
            case "garbage":
                return "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        parent = template.Parent.of(root.certificate)
        if self._lie == "outlives its root":
            parent, ttl = dataclasses.replace(parent, not_after=4e9), 2e9
        builder = template.intermediate("intermediate", own, parent, now, ttl, 1)
        if self._lie == "no ca":
            builder = _without(builder, x509.BasicConstraints)
            builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        return to_pem(builder.sign(root.key, hashes.SHA384()))
