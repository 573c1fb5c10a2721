"""Publishes the trust bundle that agents follow: the roots of this mesh's own trust domain, and never another's.

Roots are only added here, so a replica that knows less than others takes nothing away. Taking one away is `retire`,
the last step of a root's rotation. Each change is a compare-and-swap, and the sequence grows with it.
"""

from collections.abc import Callable

from cryptography import x509

from mesh import codec, keys
from mesh.model import Metadata, Ref, Revision, TrustBundle, TrustBundleSpec
from mesh.store.errors import Conflict
from mesh.store.protocol import Compare, Put, Store

ATTEMPTS = 8
MAX_ROOTS = 16


class BundleError(Exception):
    """The bundle cannot be changed so, with the reason."""


async def read(store: Store, trust_domain: str) -> tuple[TrustBundle | None, Revision]:
    """The bundle and the revision of its last change (0: none yet)."""
    item = await store.get(_key(trust_domain))
    if item is None:
        return None, Revision(0)
    bundle = codec.decode("TrustBundle", item.value, item.revision)
    assert isinstance(bundle, TrustBundle)
    return bundle, item.revision


async def publish(store: Store, trust_domain: str, roots: tuple[str, ...], now: float) -> TrustBundle:
    """See to it that the bundle holds these roots. Expired ones are left out. Nothing is written if nothing changes."""

    def add(before: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(pem for pem in dict.fromkeys((*before, *roots)) if _ends(pem) > now)

    return await _change(store, trust_domain, add)


async def retire(store: Store, trust_domain: str, root: str) -> TrustBundle:
    """Take one root away. The last one stays.

    Raises:
        BundleError: it is the only one.

    """
    return await _change(store, trust_domain, lambda before: tuple(pem for pem in before if pem != root))


async def _change(store: Store, trust_domain: str, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> TrustBundle:
    for _ in range(ATTEMPTS):
        bundle, revision = await read(store, trust_domain)
        before = bundle.spec.roots if bundle else ()
        after = change(before)
        if not 1 <= len(after) <= MAX_ROOTS:
            raise BundleError(f"a trust bundle holds 1 to {MAX_ROOTS} roots, not {len(after)}")
        if bundle is not None and after == before:
            return bundle
        sequence = bundle.spec.sequence + 1 if bundle else 1
        fresh = TrustBundle(
            metadata=Metadata(name=trust_domain, generation=sequence),
            spec=TrustBundleSpec(trust_domain=trust_domain, sequence=sequence, roots=after),
        )
        try:
            await store.txn([Compare(_key(trust_domain), revision)], [Put(_key(trust_domain), codec.encode(fresh))])
        except Conflict:
            continue
        return fresh
    raise BundleError("the trust bundle is being changed by others; try again")


def _key(trust_domain: str) -> str:
    return keys.key_for(Ref("TrustBundle", "", trust_domain))


def _ends(pem: str) -> float:
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()
