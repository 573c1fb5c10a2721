"""What a restore does to a store, the same on memory and on real etcd."""

import asyncio

from ca import bundle
from ca.signer.memory import new_root
from controlplane.backup import dump, restore, unfinished
from mesh import keys
from mesh.store.protocol import Delete, Put

DAY = 86400
NOW = 1_760_000_000.0
OURS, THEIRS = "mesh.test", "peer.test"
ONE, TWO = new_root("one", NOW).pem, new_root("two", NOW).pem
SERVICE = keys.OBJECTS + "Service/shop/api"


async def filled(store) -> list[bytes]:
    """A mesh with a peer, and its backup."""
    await store.txn((), (Put(keys.EPOCH, b'"old"'), Put(SERVICE, b"{}")))
    await bundle.publish(store, OURS, (ONE,), NOW)
    await bundle.publish(store, THEIRS, (TWO,), NOW)
    return list(await dump(store, cluster="c", trust_domain=OURS, now=NOW))


async def lost(store) -> None:
    """All of etcd's data."""
    for item in (await store.list(keys.ALL)).items:
        await store.txn((), (Delete(item.key),))


async def back(store, lines, now) -> None:
    await restore(store, lines, overwrite=True, author="test", new_epoch="new", now=now)
    assert not await unfinished(store)
    assert (await store.get(keys.EPOCH)).value == b'"new"'
    assert (await store.get(SERVICE)).value == b"{}"


async def held(store, domain):
    found, _ = await bundle.read(store, domain)
    return found.spec.sequence, found.spec.roots


def test_our_bundle_is_above_all_that_peers_have_seen_and_theirs_is_as_it_was(backend):
    async def run():
        async with backend.store() as store:
            await lost(store)
            lines = await filled(store)
            await bundle.publish(store, OURS, (TWO,), NOW)
            assert await held(store, OURS) == (2, (ONE, TWO))
            await back(store, lines, NOW + DAY)
            assert await held(store, OURS) == (int(NOW) + DAY, (ONE,))
            assert await held(store, THEIRS) == (1, (TWO,))
            # Once more, into a store in which nothing is left, by a host whose clock is late: still not backwards.
            await bundle.publish(store, OURS, (TWO,), NOW)
            since = list(await dump(store, cluster="c", trust_domain=OURS, now=NOW))
            await lost(store)
            await back(store, since, NOW)
            assert await held(store, OURS) == (int(NOW) + DAY + 2, (ONE, TWO))

    asyncio.run(run())
