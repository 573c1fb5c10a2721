"""Follower on memory and on real etcd: compaction, members that die, stores that are restored."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import pytest

from mesh import keys
from mesh.store.errors import Conflict, Unavailable
from mesh.store.follow import Broken, Follower, Restored
from mesh.store.protocol import Compare, Delete, Put
from tests.contract.store.conftest import etcd_backend
from tests.support.followed import Followed
from tests.support.waiting import aeventually


class Held:
    """A store whose reads wait until they are let go, so that a Follower comes back only then."""

    def __init__(self, store):
        self._store, self.free = store, asyncio.Event()
        self.free.set()

    async def get(self, key, *, at=None):
        await self.free.wait()
        return await self._store.get(key, at=at)

    def __getattr__(self, name):
        return getattr(self._store, name)


@asynccontextmanager
async def following(store, prefixes, **options):
    """A Follower at work, what it told, and itself."""
    told = Followed()
    follower = Follower(store, prefixes, rng=random.Random(7), **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(told.consume(follower))
        try:
            yield told, follower
        finally:
            task.cancel()


def test_it_lists_then_tells_each_revision_whole(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            await store.txn([], [Put(room + "a/1", b"1"), Put(room + "b/1", b"1")])
            async with following(store, [room + "a/", room + "b/"]) as (told, _):
                await aeventually(lambda: told.said)
                assert told.said == [Restored()]
                both = await store.txn([], [Put(room + "a/1", b"2"), Delete(room + "b/1"), Put(room + "a/2", b"2")])
                await aeventually(lambda: len(told.changes) == 2)
                assert {change.prefix: len(change.events) for change in told.changes} == {
                    room + "a/": 2,
                    room + "b/": 1,
                }
                assert {change.revision for change in told.changes} == {both}
                assert await told.holds_what(store, [room])
                assert len(told.listings) == 2

    asyncio.run(run())


def test_after_a_compaction_while_it_was_away_it_tells_the_differences(backend):
    """A new Follower takes up where another stopped; what it must tell is gone from the history, deletes included."""

    async def run():
        async with backend.store() as store:
            room = backend.room
            await store.txn([], [Put(f"{room}{n}", b"1") for n in range(5)])
            async with following(store, [room]) as (told, follower):
                await aeventually(lambda: told.said)
                known = follower.known()
            await store.txn([], [Put(room + "0", b"2"), Delete(room + "1")])
            last = await store.txn([], [Put(room + "0", b"3"), Put(room + "9", b"3")])
            await store.txn([], [Put(room + "9", b"3")])
            await backend.compact(last)
            async with following(store, [room], known=known) as (later, _):
                later.data, later.revisions = told.data, told.revisions
                await aeventually(lambda: later.said)
                [listed] = later.listings
                assert not listed.restored
                assert {event.key: event.value for event in listed.events} == {
                    room + "0": b"3",
                    room + "1": None,
                    room + "9": b"3",
                }
                assert await later.holds_what(store, [room])

    asyncio.run(run())


def test_a_successor_resumes_without_a_listing(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            await store.txn([], [Put(f"{room}{n}", b"1") for n in range(5)])
            async with following(store, [room]) as (told, follower):
                await aeventually(lambda: told.said)
                await store.txn([], [Delete(room + "0")])
                await aeventually(lambda: told.changes)
                known = follower.known()
            await store.txn([], [Put(room + "a", b"2")])
            await store.txn([], [Put(room + "a", b"3")])
            async with following(store, [room], known=known) as (later, _):
                later.data, later.revisions = told.data, told.revisions
                await aeventually(lambda: len(later.changes) == 2)
                assert not later.listings
                assert await later.holds_what(store, [room])

    asyncio.run(run())


async def followed(store, room):
    """What somebody was told of a store with the epoch `first`, and what it knows of it."""
    await store.txn([], [Put(room + "a", b"1"), Put(keys.EPOCH, b"first")])
    async with following(store, [room]) as (told, follower):
        await aeventually(lambda: told.said)
        return told, follower.known()


def test_a_new_epoch_makes_it_list_again(backend):
    async def run():
        async with backend.store() as store:
            room, old = backend.room, await store.get(keys.EPOCH)
            told, known = await followed(store, room)
            await store.txn([], [Put(keys.EPOCH, b"second")])
            epochs = []
            async with following(store, [room], known=known, on_epoch=epochs.append) as (later, _):
                later.data, later.revisions = told.data, told.revisions
                await aeventually(lambda: later.said)
                assert [listed.restored for listed in later.listings] == [True]
                assert epochs == ["second"]
            await store.txn([], [Delete(keys.EPOCH) if old is None else Put(keys.EPOCH, old.value)])

    asyncio.run(run())


def test_a_store_without_its_epoch_is_not_followed_by_who_insists_until_it_has_one(backend):
    """As an etcd that lost all data, and while a backup is written into it."""

    async def run():
        async with backend.store() as store:
            room, old = backend.room, await store.get(keys.EPOCH)
            told, known = await followed(store, room)
            await store.txn([], [Delete(room + "a"), Delete(keys.EPOCH)])
            async with following(store, [room], known=known, insist=True) as (later, _):
                later.data, later.revisions = told.data, told.revisions
                await aeventually(lambda: later.said)
                assert [type(event) for event in later.said] == [Broken]
                assert later.listings == []
                await store.txn([], [Put(room + "b", b"1"), Put(keys.EPOCH, b"second")])
                await aeventually(lambda: later.said[-1] == Restored(), timeout=15)
                assert await later.holds_what(store, [room])
            await store.txn([], [Delete(keys.EPOCH) if old is None else Put(keys.EPOCH, old.value)])

    asyncio.run(run())


@pytest.mark.real
@pytest.mark.parametrize("new_epoch", [True, False], ids=["epoch renewed", "epoch forgotten"])
def test_a_store_restored_from_an_older_snapshot_is_recognised(cluster, tmp_path, new_epoch):
    """Same cluster id, revisions already past what was seen. Without a renewed epoch a remembered change tells."""
    room = etcd_backend(cluster).room

    async def run():
        store, writer = cluster.store(), cluster.store()
        await writer.txn([], [Put(keys.EPOCH, b"before"), *(Put(f"{room}{n}", b"old") for n in range(20))])
        snapshot = cluster.save_snapshot(tmp_path / "snapshot.db")
        held = Held(store)
        async with following(held, [room]) as (told, _):
            await aeventually(lambda: told.said)
            for n in range(10):
                await writer.txn([], [Put(f"{room}{n}", b"lost"), Put(f"{room}lost-{n}", b"lost")])
            seen = await writer.revision()
            await aeventually(lambda: told.revisions.get(room, 0) >= seen)
            assert await told.holds_what(writer, [room])

            held.free.clear()
            cluster.restore_snapshot(snapshot)
            cluster.start_member(0)
            cluster.start_member(1)
            cluster.start_member(2)
            await cluster.ready()
            if new_epoch:
                await writer.txn([], [Put(keys.EPOCH, b"after")])
            for n in range(30):
                await writer.txn([], [Put(f"{room}{n % 7}", b"new"), Delete(f"{room}19")])
            assert await writer.revision() > seen
            held.free.set()

            async def converged():
                return await told.holds_what(writer, [room])

            await aeventually(converged, timeout=20)
            last = told.listings[-1]
            assert last.restored
            gone = {event.key for event in last.events if event.value is None}
            assert {f"{room}lost-{n}" for n in range(10)} <= gone
            assert any(isinstance(said, Broken) for said in told.said)
            await writer.txn([], [Put(room + "goes on", b"1")])
            await aeventually(lambda: room + "goes on" in told.data)
        await store.close()
        await writer.close()

    asyncio.run(run())


@pytest.mark.real
def test_it_keeps_its_promises_while_members_die(cluster):
    """Random writes, and every member killed in turn under the stream."""
    room = etcd_backend(cluster).room
    rng = random.Random(20)
    prefixes = [room + "a/", room + "b/"]

    async def write(writer, until):
        done = 0
        while not until.is_set():
            names = rng.sample([prefix + str(n) for prefix in prefixes for n in range(10)], rng.randint(1, 4))
            ops = [Put(name, rng.randbytes(20)) if rng.random() < 0.7 else Delete(name) for name in names]
            with suppress(Unavailable, Conflict):
                item = await writer.get(names[0])
                await writer.txn([Compare(names[0], item.revision if item else 0)], ops)
                done += 1
        return done

    async def run():
        writer, reader = cluster.store(), cluster.store()
        async with following(reader, prefixes) as (told, _):
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(write(writer, stop))
                for number in (0, 1, 2):
                    seen = len(told.changes)
                    await aeventually(lambda seen=seen: len(told.changes) > seen + 20, timeout=20)
                    cluster.kill_member(number)
                    cluster.start_member(number)
                    await cluster.ready()
                stop.set()
            # Over 60 changes were told, and a transaction makes at most two.
            assert writing.result() > 20

            async def converged():
                return await told.holds_what(writer, prefixes)

            await aeventually(converged, timeout=20)
            assert all(not listed.restored for listed in told.listings)
            assert any(isinstance(said, Broken) for said in told.said)
        await writer.close()
        await reader.close()

    asyncio.run(run())
