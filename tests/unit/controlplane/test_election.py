"""Leadership: one at a time, fenced, and passed on."""

import asyncio
import random

import pytest

from controlplane.election import LEADER, Election
from mesh import keys
from mesh.store.errors import Conflict
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.support.waiting import aeventually


def elections(store, count=2, ttl=2):
    return [Election(store, f"cp{n}", ttl, random.Random(n)) for n in range(1, count + 1)]


async def stopped(task):
    task.cancel()
    await asyncio.wait({task})


def test_one_leads_and_a_clean_stop_passes_it_on_at_once():
    async def run():
        store = MemoryStore()
        one, two = elections(store)
        first = asyncio.create_task(one.run())
        await aeventually(lambda: one.leading)
        second = asyncio.create_task(two.run())
        await asyncio.sleep(0.05)
        assert not two.leading
        before = asyncio.get_running_loop().time()
        await stopped(first)
        await aeventually(lambda: two.leading)
        assert asyncio.get_running_loop().time() - before < 1
        await stopped(second)
        assert await store.get(LEADER) is None

    asyncio.run(run())


class Counting(MemoryStore):
    """Counts the watches that are opened, and the leases' renewals."""

    watches = renewals = 0

    def watch(self, ranges):
        self.watches += 1
        return super().watch(ranges)

    async def lease(self, ttl):
        made, store = await super().lease(ttl), self

        class Counted:
            id = made.id
            revoke = made.revoke

            async def keep_alive(self):
                store.renewals += 1
                return await made.keep_alive()

        return Counted()


def test_who_waits_keeps_one_watch_and_its_lease():
    async def run():
        store = Counting()
        one, two = elections(store, ttl=1)
        first = asyncio.create_task(one.run())
        await aeventually(lambda: one.leading)
        second = asyncio.create_task(two.run())
        await aeventually(lambda: store.renewals >= 12)  # of both
        assert store.watches == 1
        await stopped(first)
        await aeventually(lambda: two.leading)
        await stopped(second)

    asyncio.run(run())


def test_a_former_leader_cannot_write():
    async def run():
        store = MemoryStore()
        one, two = elections(store)
        first = asyncio.create_task(one.run())
        stale = await one.fence()
        second = asyncio.create_task(two.run())
        await store.txn((stale,), (Put(keys.HISTORY + "1", b"{}"),))
        await stopped(first)
        fence = await two.fence()
        with pytest.raises(Conflict):
            await store.txn((stale,), (Put(keys.HISTORY + "2", b"{}"),))
        await store.txn((fence,), (Put(keys.HISTORY + "2", b"{}"),))
        await stopped(second)

    asyncio.run(run())


def test_an_outage_ends_leadership_and_it_is_won_again():
    async def run():
        store = MemoryStore()
        (one,) = elections(store, 1)
        told = []
        one.subscribe(lambda: told.append(one.leading))
        task = asyncio.create_task(one.run())
        await aeventually(lambda: one.leading)
        store.down = True
        await aeventually(lambda: not one.leading)
        store.down = False
        await aeventually(lambda: one.leading)
        assert one.terms == 2
        assert told == [True, False, True]
        await stopped(task)

    asyncio.run(run())


def test_a_leader_that_dies_is_replaced_when_its_lease_ends():
    """Its process is gone: nobody revokes anything."""

    async def run():
        now = 0.0
        store = MemoryStore(clock=lambda: now)
        lease = await store.lease(2)
        await store.txn((), (Put(LEADER, b'{"replica":"dead"}', lease.id),))
        (one,) = elections(store, 1)
        task = asyncio.create_task(one.run())
        await asyncio.sleep(0.05)
        assert not one.leading
        now = 1.5
        await one._renew(_Alive())  # a campaigner's own lease is not the dead one's
        now = 2.1
        store.tick()
        await aeventually(lambda: one.leading)
        await stopped(task)

    asyncio.run(run())


class _Alive:
    async def keep_alive(self):
        return True
