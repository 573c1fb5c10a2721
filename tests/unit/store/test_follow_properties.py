"""Whatever happens to the store, Follower is ordered, unique, atomic, gap-free, resumable and converges.

`Followed` checks each event as it comes; here random histories are played, with breaks, outages, compactions, restarts
of the follower and restores between the writes.
"""

import asyncio
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh import aio, keys
from mesh.model import Revision
from mesh.store import follow
from mesh.store.follow import Broken, Follower
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Delete, Put
from mesh.store.strict import StrictStore
from tests.support.followed import Followed
from tests.support.waiting import aeventually

PREFIXES = ("/a/", "/b/", "/key")
KEYS = ("/a/1", "/a/2", "/a/3", "/b/1", "/b/2", "/key", "/keyhole", "/c/1")

writes = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([None, b"x", b"y"]), min_size=1, max_size=4)
steps = st.one_of(
    writes,
    writes,
    st.sampled_from(["break", "outage", "compact", "restart", "settle", "snapshot", "restore", "new epoch"]),
)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Retries at once: hundreds of histories are played. How long they wait is aio's own test."""

    async def soon(_seconds):
        await asyncio.sleep(0)

    monkeypatch.setattr(aio, "pause", soon)
    monkeypatch.setattr(follow, "pause", soon)


class Player:
    """A store, a follower of it, and a history to play."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.strict = StrictStore(self.store)
        self.told = Followed()
        self.follower = self.follower_of({})
        self.snapshot = self.store.snapshot()
        self.epoch = 0

    def follower_of(self, known) -> Follower:
        return Follower(self.strict, PREFIXES, rng=random.Random(0), known=known)

    def task(self, group):
        return group.create_task(self.told.consume(self.follower))

    async def play(self, steps) -> None:
        async with asyncio.TaskGroup() as group:
            task = self.task(group)
            for step in steps:
                # Some turns for the follower, not always enough to catch up.
                for _ in range(3):
                    await asyncio.sleep(0)
                if step == "restart":
                    task.cancel()
                    await asyncio.wait({task})
                    self.follower = self.follower_of(self.follower.known())
                    task = self.task(group)
                else:
                    await self.act(step)
            self.store.down = False
            await self.settle()
            task.cancel()

    async def act(self, step) -> None:
        store = self.store
        match step:
            case dict():
                ops = [Delete(key) if value is None else Put(key, value) for key, value in step.items()]
                store.down = False
                await store.txn([], ops)
            case "break":
                store.break_watches()
            case "outage":
                store.down = True
            case "compact":
                store.compact(Revision(store._revision))
            case "settle":
                store.down = False
                await self.settle()
            case "snapshot":
                self.snapshot = store.snapshot()
            case "restore":
                # As the documented procedure does it: the epoch is renewed before anybody may come back.
                store.restore(self.snapshot)
                self.epoch += 1
                store._write([Put(keys.EPOCH, str(self.epoch).encode())])
            case "new epoch":
                store.down = False
                self.epoch += 1
                await store.txn([], [Put(keys.EPOCH, str(self.epoch).encode())])

    async def settle(self) -> None:
        async def converged():
            want = {
                key: (item.value, item.revision)
                for prefix in PREFIXES
                for key in KEYS
                if (key.startswith(prefix) if prefix.endswith("/") else key == prefix)
                and (item := await self.store.get(key))
            }
            return self.told.data == want

        await aeventually(converged, timeout=5, what=f"converge; {self.told.data}")


@settings(max_examples=120, deadline=None)
@example([{"/a/1": b"x"}, {"/a/1": None}, "restore", "outage", {"/a/1": None, "/b/1": b"x"}, "break", "restart"])
@example([{"/a/1": b"x"}, {"/a/1": None}, "break", {"/a/1": None}, "restore"])
@given(st.lists(steps, max_size=25))
def test_any_history_is_followed(history):
    asyncio.run(Player().play(history))


def test_every_revision_is_told_when_nothing_is_compacted():
    """Gap-free in the strict sense: breaks and outages lose nothing, not even a state that was overwritten."""

    async def run():
        player, rng, written = Player(), random.Random(3), []
        async with asyncio.TaskGroup() as group:
            task = player.task(group)
            await aeventually(lambda: player.told.said)
            for n in range(200):
                player.store.down = False
                written.append(await player.store.txn([], [Put("/a/1", str(n).encode())]))
                if rng.random() < 0.2:
                    await player.act(rng.choice(["break", "outage"]))
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            player.store.down = False
            await aeventually(lambda: player.told.revisions.get("/a/") == written[-1])
            task.cancel()
        assert [change.revision for change in player.told.changes] == written
        assert any(isinstance(said, Broken) for said in player.told.said)

    asyncio.run(run())


def test_a_restore_without_a_new_epoch_is_recognised_by_a_remembered_change():
    async def run():
        player = Player()
        async with asyncio.TaskGroup() as group:
            task = player.task(group)
            await player.store.txn([], [Put("/a/1", b"kept"), Put("/a/2", b"kept")])
            player.snapshot = player.store.snapshot()
            await player.store.txn([], [Put("/a/1", b"lost"), Delete("/a/2")])
            await player.settle()
            player.store.restore(player.snapshot)
            # The same revision again, of another history, and one more: ours lies behind.
            for n in range(2):
                player.store._write([Put("/a/3", str(n).encode())])
            await player.settle()
            assert player.told.listings[-3].restored
            assert player.told.data["/a/1"][0] == b"kept"
            task.cancel()

    asyncio.run(run())


def test_a_compacted_start_is_listed_though_every_remembered_change_still_stands():
    async def run():
        player = Player()
        await player.store.txn([], [Put("/a/1", b"stays"), Put("/a/2", b"goes"), Put("/a/3", b"changes")])
        async with asyncio.TaskGroup() as group:
            task = player.task(group)
            await player.settle()
            task.cancel()
        known = player.follower.known()
        assert [witness.key for witness in known["/a/"].witnesses] == ["/a/1"]
        await player.store.txn([], [Delete("/a/2"), Put("/a/3", b"changed")])
        player.store.compact(await player.store.txn([], [Put("/c/1", b"")]))
        player.follower = player.follower_of(known)
        async with asyncio.TaskGroup() as group:
            task = player.task(group)
            await player.settle()
            task.cancel()
        events = player.told.listings[len(PREFIXES)].events
        assert {event.key: event.value for event in events} == {"/a/2": None, "/a/3": b"changed"}

    asyncio.run(run())


def test_a_long_outage_is_told_once():
    async def run():
        player = Player()
        player.store.down = True
        async with asyncio.TaskGroup() as group:
            task = player.task(group)
            for _ in range(200):
                await asyncio.sleep(0)
            assert player.told.said == [Broken("the store does not answer")]
            player.store.down = False
            await aeventually(lambda: len(player.told.said) == 2)
            task.cancel()

    asyncio.run(run())
