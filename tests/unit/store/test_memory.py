"""What only the memory store has: a clock that is given, and faults on command."""

import asyncio

import pytest

from mesh.store.errors import Compacted, Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put, Range


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_lease_ends_by_the_given_clock():
    async def run():
        clock = Clock()
        store = MemoryStore(clock=clock)
        lease = await store.lease(10)
        revision = await store.txn([], [Put("/a", b"", lease.id)])
        clock.now += 9
        assert await lease.keep_alive()
        clock.now += 9
        assert await store.get("/a") is not None
        watch = store.watch([Range("/a", revision + 1)])
        await anext(watch)
        clock.now += 1
        # Nobody calls; the open watch finds it out.
        batch = await anext(watch)
        assert (batch.events[0].key, batch.events[0].value) == ("/a", None)
        assert not await lease.keep_alive()
        await watch.aclose()

    asyncio.run(run())


def test_a_key_put_again_without_its_lease_stays():
    async def run():
        store = MemoryStore()
        lease = await store.lease(10)
        await store.txn([], [Put("/a", b"", lease.id), Put("/b", b"", lease.id)])
        await store.txn([], [Put("/a", b"2")])
        await lease.revoke()
        assert await store.get("/a") is not None
        assert await store.get("/b") is None

    asyncio.run(run())


def test_history_is_bounded():
    async def run():
        store = MemoryStore(history=10)
        for n in range(50):
            last = await store.txn([], [Put("/a", str(n).encode())])
        assert (await store.get("/a", at=last - 9)).value == b"40"
        with pytest.raises(Compacted):
            await store.get("/a", at=last - 11)
        with pytest.raises(Compacted):
            await anext(store.watch([Range("/a", 2)]))

    asyncio.run(run())


def test_an_outage_ends_watches_and_refuses_calls():
    async def run():
        store = MemoryStore()
        watch = store.watch([Range("/a/", 2)])
        await anext(watch)
        store.down = True
        for call in (anext(watch), store.get("/a"), store.revision(), anext(store.watch([Range("/a/", 2)]))):
            with pytest.raises(Unavailable):
                await call
        store.down = False
        assert await store.revision() == 1

    asyncio.run(run())
