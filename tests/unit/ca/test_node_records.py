"""Shared reads: each answer is from after its question."""

import asyncio
import math

import pytest

from ca.attest.join_token import node_key
from ca.attest.node_records import MAX_NODES, NodeRecords
from mesh import codec, keys
from mesh.model import Metadata, Node, NodeSpec
from mesh.store.errors import Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from mesh.store.strict import StrictStore


class SlowStore(MemoryStore):
    """Reads begin when they are asked for and wait at a gate; how many there were is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.gate = asyncio.Semaphore(1000)
        """One read may end for each permit."""
        self.failure: Exception | None = None

    async def get_many(self, keys):
        self.reads.append(len(keys) // 2)  # each node's record, and that of its join
        found = await super().get_many(keys)
        await self.gate.acquire()
        if self.failure is not None:
            raise self.failure
        return found


async def put(store, name, **spec):
    await store.txn([], [Put(node_key(name), codec.encode(Node(metadata=Metadata(name=name), spec=NodeSpec(**spec))))])


def release(store, reads=1000):
    for _ in range(reads):
        store.gate.release()


JOIN = b'{"at": %d, "token": "t", "expires": 9}'


async def turns(count=10):
    for _ in range(count):
        await asyncio.sleep(0)


def test_each_gets_its_own_record():
    async def run():
        store = MemoryStore()
        await put(store, "a", address="10.0.0.1")
        await put(store, "b", address="10.0.0.2")
        await store.txn([], [Put(node_key("bad"), b"{")])
        records = NodeRecords(StrictStore(store))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(records.get(name)) for name in ("a", "b", "bad", "none", "a")]
        found = [task.result() for task in tasks]
        assert [one.node and one.node.spec.address for one in found] == ["10.0.0.1", "10.0.0.2", None, None, "10.0.0.1"]

    asyncio.run(run())


def test_the_last_join_comes_with_the_record():
    async def run():
        store = MemoryStore()
        for name, value in {"a": JOIN % 5, "b": b"{", "gone": JOIN % 7}.items():
            await store.txn([], [Put(keys.join_of(name), value)])
        for name in ("a", "b", "never"):
            await put(store, name)
        records = NodeRecords(StrictStore(store))
        found = {name: await records.get(name) for name in ("a", "b", "gone", "never")}
        assert {name: one.since for name, one in found.items()} == {"a": 5, "b": math.inf, "gone": 7, "never": 0}
        assert found["gone"].node is None

    asyncio.run(run())


def test_who_waits_together_reads_together():
    async def run():
        store = SlowStore()
        records = NodeRecords(store)
        store.gate = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            group.create_task(records.get("first"))
            await turns()
            for n in range(100):
                group.create_task(records.get(f"n{n}"))
            await turns()
            assert store.reads == [1]
            release(store)
        assert store.reads == [1, *[MAX_NODES] * 3, 100 - 3 * MAX_NODES]

    asyncio.run(run())


def test_a_question_is_never_answered_by_a_read_that_began_before_it():
    """An eviction that was written before the question is seen by it, whatever read is under way."""

    async def run():
        store = SlowStore()
        records = NodeRecords(store)
        await put(store, "a")
        store.gate = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            before = group.create_task(records.get("a"))
            await turns()
            await put(store, "a", evicted=True)
            after = [group.create_task(records.get("a")) for _ in range(3)]
            await turns()
            release(store)
        assert not before.result().node.spec.evicted
        assert all(task.result().node.spec.evicted for task in after)
        assert store.reads == [1, 1]

    asyncio.run(run())


def test_when_the_reader_goes_away_another_of_those_who_wait_reads():
    async def run():
        store = SlowStore()
        records = NodeRecords(store)
        await put(store, "a")
        store.gate = asyncio.Semaphore(0)
        alone, reader, other = [asyncio.ensure_future(records.get("a")) for _ in range(3)]
        await turns()
        release(store, 1)
        assert (await alone).node
        await turns()
        assert store.reads == [1, 1]
        reader.cancel()
        await turns()
        release(store)
        assert (await other).node
        assert store.reads == [1, 1, 1]
        with pytest.raises(asyncio.CancelledError):
            await reader

    asyncio.run(run())


def test_a_failure_is_told_to_all_of_its_read_and_to_nobody_else():
    async def run():
        store = SlowStore()
        records = NodeRecords(store)
        await put(store, "a")
        store.failure = Unavailable("away")
        results = await asyncio.gather(*(records.get("a") for _ in range(4)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 4
        assert store.reads == [1, 1]  # the first alone, the others together
        store.failure = None
        assert (await records.get("a")).node

    asyncio.run(run())
