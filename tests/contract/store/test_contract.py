"""The store's contract, the same on memory and on real etcd."""

import asyncio

import pytest

from mesh.store.errors import Compacted, Conflict, Refused
from mesh.store.protocol import MAX_GETS, Compare, Delete, Event, Put, Range
from tests.support.waiting import aeventually


async def batches_until(watch, revision):
    """All batches with events, up to a revision."""
    got = []
    async with asyncio.timeout(20):
        async for batch in watch:
            if batch.events:
                got.append(batch)
            if batch.revision >= revision:
                break
    return got


def test_a_key_is_written_read_and_deleted(backend):
    async def run():
        async with backend.store() as store:
            key = backend.room + "a"
            assert await store.get(key) is None
            first = await store.txn([Compare(key, 0)], [Put(key, b"1")])
            second = await store.txn([Compare(key, first)], [Put(key, b"2")])
            item = await store.get(key)
            assert (item.value, item.revision, item.created) == (b"2", second, first)
            assert (await store.get(key, at=first)).value == b"1"
            third = await store.txn([Compare(key, second)], [Delete(key)])
            assert await store.get(key) is None
            assert (await store.get(key, at=second)).value == b"2"
            assert await store.revision() == third

    asyncio.run(run())


def test_a_stale_compare_writes_nothing(backend):
    """Also when only one of several compares fails."""

    async def run():
        async with backend.store() as store:
            a, b = backend.room + "a", backend.room + "b"
            revision = await store.txn([], [Put(a, b"1")])
            for compares in ([Compare(a, 0)], [Compare(a, revision), Compare(b, revision)]):
                with pytest.raises(Conflict):
                    await store.txn(compares, [Put(a, b"2"), Put(b, b"2")])
            assert (await store.get(a)).value == b"1"
            assert await store.get(b) is None
            assert await store.revision() == revision

    asyncio.run(run())


def test_several_keys_are_read_at_one_moment(backend):
    """In the order asked for, and never from two moments."""

    async def run():
        async with backend.store() as store, backend.store() as writer:
            names = [f"{backend.room}{n:02}" for n in range(MAX_GETS)]
            assert await store.get_many([]) == ()
            assert await store.get_many(names[:2]) == (None, None)

            async def write():
                for turn in range(30):
                    await writer.txn([], [Put(name, f"{turn}".encode()) for name in names])

            async with asyncio.TaskGroup() as group:
                writing = group.create_task(write())
                while not writing.done():
                    items = await store.get_many(names[::-1])
                    assert len({item and (item.value, item.revision) for item in items}) == 1
            items = await store.get_many([names[3], backend.room + "none", names[1]])
            assert [item and item.key for item in items] == [names[3], None, names[1]]
            assert items[0] == await store.get(names[3])

    asyncio.run(run())


def test_all_keys_of_a_transaction_share_one_revision(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            await store.txn([], [Put(room + "gone", b"x")])
            revision = await store.txn([], [*(Put(f"{room}{n}", b"x") for n in range(500)), Delete(room + "gone")])
            listing = await store.list(room)
            assert listing.revision == revision
            assert len(listing.items) == 500
            assert {item.revision for item in listing.items} == {revision}

    asyncio.run(run())


def test_deleting_what_is_not_there_is_no_change(backend):
    async def run():
        async with backend.store() as store:
            before = await store.revision()
            assert await store.txn([], [Delete(backend.room + "none")]) == before

    asyncio.run(run())


def test_of_100_concurrent_writers_exactly_one_wins_each_round(backend):
    async def run():
        async with backend.store() as one, backend.store() as two:
            key = backend.room + "race"

            async def write(store, seen, name):
                try:
                    return name, await store.txn([Compare(key, seen)], [Put(key, name.encode())])
                except Conflict:
                    return None

            seen = 0
            for turn in range(3):
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(write((one, two)[n % 2], seen, f"{turn}-{n}")) for n in range(100)]
                [(name, revision)] = [won for task in tasks if (won := task.result())]
                item = await one.get(key)
                assert (item.value.decode(), item.revision) == (name, revision)
                seen = revision

    asyncio.run(run())


def test_a_list_of_6_mb_comes_whole_at_one_revision(backend):
    async def run():
        async with backend.store() as store:
            room, value = backend.room, b"v" * 12_000
            for start in range(0, 500, 100):
                await store.txn([], [Put(f"{room}{n:04}", value) for n in range(start, start + 100)])
            at = await store.revision()

            async def disturb():
                for n in range(20):
                    await store.txn([], [Put(f"{room}{n:04}", b"new"), Delete(f"{room}{499 - n:04}")])

            async with asyncio.TaskGroup() as group:
                group.create_task(disturb())
                listing = await store.list(room)
            done = listing.revision - at
            assert 0 <= done <= 20
            assert len(listing.items) == 500 - done
            assert sum(item.value == b"new" for item in listing.items) == done
            assert sum(len(item.value) for item in listing.items) > 5_000_000

    asyncio.run(run())


def test_values_larger_than_a_page_are_listed(backend):
    """Ten keys of 3 MB: one page of a thousand keys would not fit our receive limit."""

    async def run():
        async with backend.store() as store:
            for n in range(25):
                await store.txn([], [Put(f"{backend.room}{n:02}", b"v" * 3_000_000)])
            listing = await store.list(backend.room)
            assert [len(item.value) for item in listing.items] == [3_000_000] * 25
            await store.txn([], [Delete(item.key) for item in listing.items])

    asyncio.run(run())


def test_a_watch_gives_whole_revisions_in_order(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            first = await store.txn([], [Put(room + "a", b"1"), Put(room + "b", b"1")])
            watch = store.watch([Range(room, first)])
            second = await store.txn([], [Put(room + "a", b"2"), Delete(room + "b"), Put(room + "c", b"2")])
            await store.txn([], [Put(room[:-1] + "-outside", b"x")])
            third = await store.txn([], [*(Put(f"{room}{n}", b"3" * 100) for n in range(200))])
            one, two, three = await batches_until(watch, third)
            assert (one.revision, {e.key for e in one.events}) == (first, {room + "a", room + "b"})
            assert two.revision == second
            assert set(two.events) == {
                Event(room + "a", b"2", second, first),
                Event(room + "b", None, second),
                Event(room + "c", b"2", second, second),
            }
            assert (three.revision, len(three.events)) == (third, 200)
            await watch.aclose()
            await watch.aclose()

    asyncio.run(run())


def test_one_watch_covers_several_ranges_each_from_its_own_start(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            first = await store.txn([], [Put(room + "a/1", b""), Put(room + "b/1", b""), Put(room + "k", b"")])
            second = await store.txn([], [Put(room + "a/2", b""), Put(room + "b/2", b""), Put(room + "kk", b"")])
            watch = store.watch([Range(room + "a/", first), Range(room + "b/", second), Range(room + "k", first)])
            got, marks = {}, set()
            async with asyncio.timeout(20):
                async for batch in watch:
                    if batch.events:
                        got.setdefault(batch.prefix, []).append((batch.revision, len(batch.events)))
                    elif batch.revision >= second:
                        marks.add(batch.prefix)
                    if len(marks) == 3:
                        break
            await watch.aclose()
            assert got == {room + "a/": [(first, 1), (second, 1)], room + "b/": [(second, 1)], room + "k": [(first, 1)]}

    asyncio.run(run())


def test_a_quiet_range_is_told_how_far_it_is(backend):
    """Nothing changes in it, but the store goes on; a mark says so."""

    async def run():
        async with backend.store() as store:
            start = await store.revision()
            watch = store.watch([Range(backend.room + "quiet/", start + 1)])
            async with asyncio.timeout(20):
                first = await anext(watch)
                revision = await store.txn([], [Put(backend.room + "other", b"x")])
                while (batch := await anext(watch)).revision < revision:
                    pass
            assert first.events == batch.events == ()
            await watch.aclose()

    asyncio.run(run())


def test_a_resume_over_12_changes_of_500_kb_delivers_all(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            start = await store.revision()
            last = start
            for n in range(12):
                last = await store.txn([], [Put(f"{room}{n}", bytes([n]) * 500_000)])
            watch = store.watch([Range(room, start + 1)])
            got = await batches_until(watch, last)
            await watch.aclose()
            assert [len(batch.events) for batch in got] == [1] * 12
            assert all(batch.events[0].value == bytes([n]) * 500_000 for n, batch in enumerate(got))

    asyncio.run(run())


def test_one_revision_of_3_mb_is_not_split(backend):
    """etcd sends it in fragments."""

    async def run():
        async with backend.store() as store:
            room = backend.room
            start = await store.revision()
            revision = await store.txn([], [Put(f"{room}{n}", b"v" * 100_000) for n in range(30)])
            later = await store.txn([], [Put(room + "later", b"")])
            watch = store.watch([Range(room, start + 1)])
            got = await batches_until(watch, later)
            await watch.aclose()
            assert [(batch.revision, len(batch.events)) for batch in got] == [(revision, 30), (later, 1)]

    asyncio.run(run())


def test_a_start_that_was_compacted_is_refused(backend):
    async def run():
        async with backend.store() as store:
            key = backend.room + "a"
            first = await store.txn([], [Put(key, b"1")])
            for value in (b"2", b"3", b"4"):
                last = await store.txn([], [Put(key, value)])
            await backend.compact(last)
            with pytest.raises(Compacted):
                await anext(store.watch([Range(backend.room, first)]))
            with pytest.raises(Compacted):
                await store.get(key, at=first)
            assert (await store.get(key, at=last)).value == b"4"
            # The oldest revision that is still there is a good start.
            watch = store.watch([Range(backend.room, last)])
            [batch] = await batches_until(watch, last)
            assert batch.events == (Event(key, b"4", last, first),)
            await watch.aclose()

    asyncio.run(run())


def test_a_future_revision_cannot_be_read(backend):
    async def run():
        async with backend.store() as store:
            with pytest.raises(Compacted):
                await store.get(backend.room + "a", at=await store.revision() + 100)

    asyncio.run(run())


def test_compaction_behind_an_open_watch_does_not_disturb_it(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            start = await store.revision()
            watch = store.watch([Range(room, start + 1)])
            await anext(watch)
            for n in range(5):
                last = await store.txn([], [Put(room + "a", str(n).encode())])
            assert len(await batches_until(watch, last)) == 5
            await backend.compact(last)
            after = await store.txn([], [Put(room + "a", b"after")])
            [batch] = await batches_until(watch, after)
            assert batch.events[0].value == b"after"
            await watch.aclose()

    asyncio.run(run())


def test_keys_of_a_revoked_lease_vanish(backend):
    async def run():
        async with backend.store() as store:
            key = backend.room + "leased"
            lease = await store.lease(30)
            revision = await store.txn([], [Put(key, b"x", lease.id)])
            assert await lease.keep_alive()
            watch = store.watch([Range(backend.room, revision + 1)])
            await lease.revoke()
            await lease.revoke()
            assert not await lease.keep_alive()
            assert await store.get(key) is None
            [batch] = await batches_until(watch, revision + 1)
            assert batch.events == (Event(key, None, revision + 1),)
            await watch.aclose()
            with pytest.raises(Refused):
                await store.txn([], [Put(key, b"x", lease.id)])

    asyncio.run(run())


def test_a_lease_that_nobody_renews_runs_out(backend):
    async def run():
        async with backend.store() as store:
            key = backend.room + "leased"
            lease = await store.lease(1)
            await store.txn([], [Put(key, b"x", lease.id)])

            async def gone():
                return await store.get(key) is None

            await aeventually(gone, timeout=10)
            assert not await lease.keep_alive()

    asyncio.run(run())


def test_what_is_too_large_is_refused_and_nothing_is_written(backend):
    async def run():
        async with backend.store() as store:
            room = backend.room
            with pytest.raises(Refused):
                await store.txn([], [Put(f"{room}{n}", b"v" * 1_000_000) for n in range(6)])
            with pytest.raises(Refused):
                await store.txn([], [Put(f"{room}{n}", b"") for n in range(10_001)])
            assert (await store.list(room)).items == ()

    asyncio.run(run())
