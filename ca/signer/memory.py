"""A signer with its root in memory. It signs for real; its root ends with the process."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca import template, verify
from ca.policy import Denied
from ca.signer.protocol import SignerRefused


@dataclass(frozen=True, slots=True)
class RootKey:
    """A root and its key, in memory."""

    certificate: x509.Certificate
    key: template.PrivateKey

    @property
    def pem(self) -> str:
        return to_pem(self.certificate)


def to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def new_root(name: str, now: float, ttl: float = template.ROOT_TTL) -> RootKey:
    """A new root. P-384: it lives ten years, and its signatures are checked once per intermediate only."""
    key = ec.generate_private_key(ec.SECP384R1())
    builder = template.root(name, key.public_key(), now, x509.random_serial_number(), ttl)
    return RootKey(builder.sign(key, hashes.SHA384()), key)


def sign_with(root: RootKey, csr_pem: str, ttl: float, name: str, now: float) -> str:
    """Sign an intermediate; the CSR gives its key and nothing else.

    Raises:
        SignerRefused: the CSR is not acceptable.

    """
    key = verify.csr(csr_pem)
    if isinstance(key, Denied):
        raise SignerRefused(key.reason)
    parent = template.Parent.of(root.certificate)
    builder = template.intermediate(name, key, parent, now, ttl, x509.random_serial_number())
    return to_pem(builder.sign(root.key, hashes.SHA384()))


class MemorySigner:
    def __init__(self, trust_domain: str, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._root = new_root(f"{trust_domain} root", clock())

    async def sign_intermediate(self, csr_pem: str, ttl: float) -> str:
        return sign_with(self._root, csr_pem, ttl, "holdfast intermediate", self._clock())

    async def roots(self) -> tuple[str, ...]:
        return (self._root.pem,)

    async def close(self) -> None:
        return
