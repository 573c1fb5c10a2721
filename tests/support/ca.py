"""What the tests of the CA share: a clock that stands still, hostile CSRs, an audit that remembers, whole set-ups."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import AttributeOID

from ca import keys, verify
from ca.api import About, Issuer, Limits
from ca.attest import join_token
from ca.authority import Authority
from ca.policy import Lifetimes
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from ca.signer.protocol import Signer
from mesh.store.protocol import Store

DOMAIN = "mesh.test"
NOW = 1_800_000_000.0
SEAL_KEY = bytes(range(32))
LIFE, LIMITS = Lifetimes(), Limits()
ABOUT = About(DOMAIN, "east", ("127.0.0.1:2379",), ("https://127.0.0.1:8443",))


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Records:
    """An audit that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.strangers: list[str] = []
        """Addresses of those among them who proved nothing."""

    def record(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    def refused(self, address: str, event: str, **fields: object) -> None:
        self.strangers.append(address)
        self.record(event, **fields)

    def last(self) -> dict[str, object]:
        return self.lines[-1][1]


def make_authority(
    directory: Path, signer: Signer | None = None, *, clock: Clock | None = None, life: Lifetimes = LIFE
) -> Authority:
    clock = clock or Clock()
    return Authority(
        signer or MemorySigner(DOMAIN, clock=clock),
        trust_domain=DOMAIN,
        replica="cp-1",
        directory=directory,
        cipher=Cipher([SEAL_KEY]),
        clock=clock,
        rng=random.Random(1),
        life=life,
    )


def make_issuer(
    store: Store,
    authority: object,
    records: Records,
    limits: Limits = LIMITS,
    life: Callable[[], Lifetimes] = Lifetimes,
    connected: Mapping[str, str] = MappingProxyType({}),
    may_look_up: Callable[[str, str, float], float] = lambda _key, _address, _now: 0.0,
) -> Issuer:
    """`connected`: address -> the node that is connected from it."""

    def holder(address: str, node: str) -> str:
        other = connected.get(address, "")
        return other if other != node else ""

    return Issuer(
        store, authority, records, about=ABOUT, holder=holder, may_look_up=may_look_up, life=life, limits=limits
    )


async def mint(store: Store, authority: Authority, node: str = "vm-1", now: float = NOW, ttl: float = 600.0, **more):
    more.setdefault("identities", ("shop/web",))
    return await join_token.mint(store, node=node, ttl=ttl, pin=keys.pin(authority.roots[0]), now=now, **more)


def key_and_csr() -> tuple[str, str]:
    key = keys.new_key()
    return key, keys.new_csr(key)


def private(pem: str) -> ec.EllipticCurvePrivateKey:
    return load_pem_private_key(pem.encode(), None)


def public(pem: str) -> ec.EllipticCurvePublicKey:
    return private(pem).public_key()


def sans(chain_pem: str) -> tuple[list[str], list[str]]:
    """URI and DNS names of a chain's leaf."""
    leaf = x509.load_pem_x509_certificate(chain_pem.encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return san.get_values_for_type(x509.UniformResourceIdentifier), san.get_values_for_type(x509.DNSName)


def csr_with(*extensions: x509.ExtensionType, key: object = None, attribute: bool = False) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    if attribute:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hello")
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.PEM).decode()


def hostile_csrs() -> dict[str, str]:
    """Each must be refused, for its own reason."""
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    spiffe = x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/ns/shop/sa/web")
    good = csr_with()
    body = good.splitlines()
    broken = x509.load_pem_x509_csr(good.encode()).public_bytes(Encoding.DER)
    broken = broken[:-1] + bytes([broken[-1] ^ 1])
    return {
        "two uri sans": csr_with(x509.SubjectAlternativeName([spiffe, x509.UniformResourceIdentifier("spiffe://a/b")])),
        "one own uri san": csr_with(x509.SubjectAlternativeName([spiffe])),
        "dns san": csr_with(x509.SubjectAlternativeName([x509.DNSName("controlplane.holdfast")])),
        "email san": csr_with(x509.SubjectAlternativeName([x509.RFC822Name("root@example.test")])),
        "ca true": csr_with(x509.BasicConstraints(ca=True, path_length=None)),
        "key usage": csr_with(usage),
        "extended key usage": csr_with(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING])),
        "unknown extension": csr_with(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
        "attribute": csr_with(attribute=True),
        "rsa 1024": csr_with(key=_small_rsa()),
        "rsa 2048": csr_with(key=rsa.generate_private_key(65537, 2048)),
        "p-521": csr_with(key=ec.generate_private_key(ec.SECP521R1())),
        "p-192": csr_with(key=ec.generate_private_key(ec.SECP192R1())),
        "ed25519": csr_with(key=ed25519.Ed25519PrivateKey.generate()),
        "broken signature": _pem(broken),
        "signed by another key": spliced(),
        "1 MB": good + "A" * 1_000_000,
        "1 MB of one block": body[0] + "\n" + "A" * 1_000_000 + "\n" + body[-1],
        "garbage": "-----BEGIN CERTIFICATE REQUEST-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE REQUEST-----\n",
        "not base64": "-----BEGIN CERTIFICATE REQUEST-----\n!!!\n-----END CERTIFICATE REQUEST-----\n",
        "nested asn.1": _pem(b"\x30\x80" * 4000),
        "truncated": "\n".join([*body[:-2], body[-1]]),
        "two blocks": good + good,
        "text before": "hello\n" + good,
        "a certificate": good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        "not ascii": good.replace("\n", "\n\N{ZERO WIDTH SPACE}", 1),
        "empty": "",
    }


def _small_rsa() -> rsa.RSAPrivateKey:
    """The library makes none below 1024 bits, and this size no longer without asking."""
    return rsa.generate_private_key(65537, 1024)


def _pem(der: bytes) -> str:
    import base64

    text = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


def spliced() -> str:
    """The signed part of one CSR with the signature of another: parsed key and proven key differ."""
    one, other = (x509.load_pem_x509_csr(csr_with().encode()) for _ in range(2))
    der = bytearray(one.public_bytes(Encoding.DER))
    start = der.find(one.signature)
    assert start > 0
    # Both signatures have DER lengths of their own; only equal ones can be exchanged in place.
    while len(other.signature) != len(one.signature):
        other = x509.load_pem_x509_csr(csr_with().encode())
    der[start : start + len(one.signature)] = other.signature
    return _pem(bytes(der))


def held_issuer(authority: Authority) -> verify.Issuer:
    assert authority.issuer is not None
    return authority.issuer
