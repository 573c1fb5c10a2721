"""The embedded signer: a root sealed in the store's private range. No Vault is needed.

The root is made by whoever comes first: its creation is a compare-and-swap, so replicas that start at once agree on
one. Its certificate is readable there, its key is sealed with the replicas' common seal key.
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from ca.seal import Cipher, SealError
from ca.signer.memory import RootKey, new_root, sign_with
from ca.signer.protocol import SignerRefused, SignerUnavailable
from mesh import keys
from mesh.model import Frozen, Revision
from mesh.store.errors import Conflict, StoreError, Unavailable
from mesh.store.protocol import Compare, Item, Put, Store

ROOT_KEY = keys.CA + "root"


class _Record(Frozen, frozen=True, kw_only=True):
    """What lies at ROOT_KEY."""

    certificate: str
    key: msgspec.Raw
    """Sealed PKCS #8 DER."""


class BuiltinSigner:
    """Uses the store and leaves closing it to its owner."""

    def __init__(
        self, store: Store, cipher: Cipher, trust_domain: str, *, clock: Callable[[], float], timeout: float = 10.0
    ) -> None:
        self._store, self._cipher, self._clock, self._timeout = store, cipher, clock, timeout
        self._trust_domain = trust_domain
        self._root: RootKey | None = None
        self._lock = asyncio.Lock()

    async def sign_intermediate(self, csr_pem: str, ttl: float) -> str:
        return sign_with(await self._held(), csr_pem, ttl, "holdfast intermediate", self._clock())

    async def roots(self) -> tuple[str, ...]:
        return ((await self._held()).pem,)

    async def close(self) -> None:
        self._root = None

    async def _held(self) -> RootKey:
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                if self._root is None:
                    self._root = await self._load_or_make()
                return self._root
        except (TimeoutError, Unavailable) as exc:
            raise SignerUnavailable("the store that holds the root does not answer") from exc
        except StoreError as exc:
            raise SignerRefused(f"the store refuses the root's key: {exc}") from exc

    async def _load_or_make(self) -> RootKey:
        item = await self._store.get(ROOT_KEY)
        if item is None:
            fresh = new_root(f"{self._trust_domain} root", self._clock())
            # On a conflict another replica was faster. Read again in any case: what counts is what is stored.
            with contextlib.suppress(Conflict):
                await self._store.txn([Compare(ROOT_KEY, Revision(0))], [Put(ROOT_KEY, self._encode(fresh))])
            item = await self._store.get(ROOT_KEY)
        if item is None:
            raise SignerUnavailable("the root vanished from the store while it was being made")
        return self._decode(item)

    def _encode(self, root: RootKey) -> bytes:
        der = root.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        sealed = self._cipher.seal(der, ROOT_KEY)
        return msgspec.json.encode(_Record(certificate=root.pem, key=msgspec.Raw(sealed)))

    def _decode(self, item: Item) -> RootKey:
        try:
            record = msgspec.json.decode(item.value, type=_Record)
            certificate = x509.load_pem_x509_certificate(record.certificate.encode())
            key = load_der_private_key(self._cipher.open(bytes(record.key), ROOT_KEY), None)
        except SealError as exc:
            raise SignerRefused(str(exc)) from exc
        except (msgspec.DecodeError, ValueError, TypeError) as exc:
            raise SignerRefused(f"the root at {ROOT_KEY} cannot be read: {type(exc).__name__}") from exc
        spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or (
            key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki)
        ):
            raise SignerRefused(f"the key at {ROOT_KEY} is not the one of its certificate")
        return RootKey(certificate, key)
