"""Each misuse is caught where it happens."""

import asyncio

import pytest

from mesh.store.memory import MemoryStore
from mesh.store.protocol import Batch, Compare, Delete, Event, Put, Range
from mesh.store.strict import BrokenContractError, StrictStore


@pytest.mark.parametrize(
    "misuse",
    [
        lambda s: s.get("relative"),
        lambda s: s.get("/a\0"),
        lambda s: s.get("/a", at=0),
        lambda s: s.txn([], []),
        lambda s: s.txn([], [Put("/a", b""), Delete("/a")]),
        lambda s: s.txn([Compare("/a", 0), Compare("/a", 1)], [Put("/a", b"")]),
        lambda s: s.txn([], [Put("/a", "text")]),
        lambda s: s.lease(0),
        lambda s: anext(s.watch([])),
        lambda s: anext(s.watch([Range("/a/", 0)])),
        lambda s: anext(s.watch([Range("/a/", 1), Range("/a/", 2)])),
        lambda s: anext(s.watch([Range("/a/", 1), Range("/a/b/", 1)])),
        lambda s: anext(s.watch([Range("/a/", 3)])),
    ],
)
def test_misuse_is_caught(misuse):
    async def run():
        with pytest.raises(BrokenContractError):
            await misuse(StrictStore(MemoryStore()))

    asyncio.run(run())


def test_a_closed_store_is_not_used():
    async def run():
        store = StrictStore(MemoryStore())
        await store.close()
        with pytest.raises(BrokenContractError):
            await store.revision()

    asyncio.run(run())


@pytest.mark.parametrize(
    "batches",
    [
        [Batch("/b/", 2, (Event("/b/1", b"", 2),))],
        [Batch("/a/", 2, (Event("/b/1", b"", 2),))],
        [Batch("/a/", 2, (Event("/a/1", b"", 3),))],
        [Batch("/a/", 2, (Event("/a/1", b"", 2),)), Batch("/a/", 2, (Event("/a/2", b"", 2),))],
        [Batch("/a/", 5, ()), Batch("/a/", 4, (Event("/a/2", b"", 4),))],
    ],
)
def test_a_store_that_breaks_its_promises_is_caught(batches):
    class Liar(MemoryStore):
        def watch(self, ranges):
            async def tell():
                for batch in batches:
                    yield batch

            return tell()

    async def run():
        watch = StrictStore(Liar()).watch([Range("/a/", 2)])
        with pytest.raises(BrokenContractError):
            async for _ in watch:
                pass

    asyncio.run(run())
