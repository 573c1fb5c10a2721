import asyncio

import msgspec
import pytest

from ca import bundle
from ca.signer.memory import new_root
from mesh.store.memory import MemoryStore
from tests.support.ca import DOMAIN, NOW

ONE, TWO = new_root("one", NOW).pem, new_root("two", NOW).pem
SHORT = new_root("short", NOW, ttl=100).pem


def test_roots_are_added_and_the_sequence_grows():
    async def go():
        store = MemoryStore()
        first = await bundle.publish(store, DOMAIN, (ONE,), NOW)
        again = await bundle.publish(store, DOMAIN, (ONE,), NOW)
        more = await bundle.publish(store, DOMAIN, (TWO,), NOW)
        assert (first.spec.sequence, again.spec.sequence, more.spec.sequence) == (1, 1, 2)
        assert more.spec.roots == (ONE, TWO)
        assert (await store.revision()) == (await bundle.read(store, DOMAIN))[1]

    asyncio.run(go())


def test_expired_roots_leave_and_the_last_one_stays():
    async def go():
        store = MemoryStore()
        await bundle.publish(store, DOMAIN, (SHORT, ONE), NOW)
        later = await bundle.publish(store, DOMAIN, (ONE,), NOW + 200)
        assert later.spec.roots == (ONE,)
        with pytest.raises(bundle.BundleError):
            await bundle.retire(store, DOMAIN, ONE)

    asyncio.run(go())


def test_retiring_takes_one_root():
    async def go():
        store = MemoryStore()
        await bundle.publish(store, DOMAIN, (ONE, TWO), NOW)
        assert (await bundle.retire(store, DOMAIN, ONE)).spec.roots == (TWO,)

    asyncio.run(go())


def test_replicas_that_publish_at_once_lose_nothing():
    async def go():
        store = MemoryStore()
        roots = [new_root(str(number), NOW).pem for number in range(4)]
        async with asyncio.TaskGroup() as group:
            for root in roots:
                group.create_task(bundle.publish(store, DOMAIN, (root,), NOW))
        held, _ = await bundle.read(store, DOMAIN)
        assert held is not None
        assert set(held.spec.roots) == set(roots)
        assert held.spec.sequence == 4

    asyncio.run(go())


def test_a_restored_bundle_is_above_all_that_was_published():
    """Whatever the backup, the store or the clock lack: the highest of them counts."""

    async def go():
        saved = await bundle.publish(MemoryStore(), DOMAIN, (ONE,), NOW)
        later = await bundle.publish(MemoryStore(), DOMAIN, (TWO,), NOW)
        far = msgspec.structs.replace(later, spec=msgspec.structs.replace(later.spec, sequence=int(NOW) + 7))
        for present, now, sequence in (
            (None, NOW + 0.9, int(NOW)),
            (None, 0.0, 2),
            (later, NOW, int(NOW)),
            (far, NOW, int(NOW) + 8),
        ):
            found = bundle.restored(saved, present, now)
            assert (found.spec.sequence, found.metadata.generation, found.spec.roots) == (sequence, sequence, (ONE,))

    asyncio.run(go())
