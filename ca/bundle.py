"""Publishes the trust bundle that agents follow: the roots of this mesh's own trust domain, and never another's.

Roots are only added here, so a replica that knows less than others takes nothing away. Taking one away is `retire`,
the last step of a root's rotation. Each change is a compare-and-swap, and the sequence grows with it. `restored` lifts
that of a backup, since whoever has seen a higher one refuses what comes under a lower.
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
    item = await store.get(key_of(trust_domain))
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


def restored(saved: TrustBundle, present: TrustBundle | None, now: float) -> TrustBundle:
    """The saved roots, under a sequence above all that this mesh has published since.

    How many changes came after the backup, nobody may know any more. But a sequence grows by one a change, and roots
    change far less than once a second: the seconds since 1970 are above it, also after an earlier restore.
    """
    known = max(saved.spec.sequence, present.spec.sequence if present else 0)
    return _bundle(saved.spec.trust_domain, max(known + 1, int(now)), saved.spec.roots)


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
        fresh = _bundle(trust_domain, sequence, after)
        try:
            await store.txn([Compare(key_of(trust_domain), revision)], [Put(key_of(trust_domain), codec.encode(fresh))])
        except Conflict:
            continue
        return fresh
    raise BundleError("the trust bundle is being changed by others; try again")


def _bundle(trust_domain: str, sequence: int, roots: tuple[str, ...]) -> TrustBundle:
    return TrustBundle(
        metadata=Metadata(name=trust_domain, generation=sequence),
        spec=TrustBundleSpec(trust_domain=trust_domain, sequence=sequence, roots=roots),
    )


def key_of(trust_domain: str) -> str:
    """Where it is in the store."""
    return keys.key_for(Ref("TrustBundle", "", trust_domain))


def _ends(pem: str) -> float:
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()
