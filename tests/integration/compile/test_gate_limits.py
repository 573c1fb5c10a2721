"""The store gate's limits are a node's, not a connection's: who floods harms itself alone."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from mesh.compile import gate as compiled
from tests.integration.compile.gates import Caller, Gate, running_gate

pytestmark = pytest.mark.real

READS, WATCHES = compiled.READS, compiled.WATCHES
CALM_READS = 10


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with running_gate(tmp_path_factory.mktemp("gate-limits")) as found:
        yield found


@asynccontextmanager
async def connections(gate: Gate, node: str, count: int) -> AsyncIterator[list[Caller]]:
    """As many connections of one node, with the certificate that it has."""
    mine = gate.ca.identity(f"/node/{node}")
    callers = [Caller(gate, mine) for _ in range(count)]
    try:
        yield callers
    finally:
        for caller in callers:
            await caller.channel.close()


async def told(calls: Iterable[Awaitable[object]]) -> Counter[str]:
    """What each of these was answered."""

    async def one(call: Awaitable[object]) -> str:
        try:
            await call
        except grpc.aio.AioRpcError as exc:
            return exc.code().name
        return "OK"

    return Counter(await asyncio.gather(*(one(call) for call in calls)))


def test_a_node_that_floods_is_refused_and_another_one_reads_on(gate: Gate):
    async def run() -> None:
        async with connections(gate, "flood", 1) as (flood,), connections(gate, "calm", 1) as (calm,):
            answers, calmly = Counter[str](), Counter[str]()

            async def flooding() -> None:
                """For as long as the other one reads, in one go at least."""
                while calmly.total() < CALM_READS:
                    answers.update(await told(flood.read() for _ in range(3 * READS.burst)))

            async with asyncio.TaskGroup() as group:
                group.create_task(flooding())
                while calmly.total() < CALM_READS:
                    calmly += await told([calm.read()])
                    await asyncio.sleep(0.01)
            assert answers["RESOURCE_EXHAUSTED"] > READS.burst, answers
            assert answers.keys() == {"OK", "RESOURCE_EXHAUSTED"}
            assert calmly.keys() == {"OK"}

    asyncio.run(run())


def test_all_connections_of_a_node_share_one_budget(gate: Gate):
    async def run() -> None:
        async with connections(gate, "many", 20) as callers:
            begin = time.monotonic()
            answers = await told(caller.read() for _ in range(READS.burst // 10) for caller in callers)
            allowed = READS.burst + READS.per_second * (time.monotonic() - begin + 1)
            assert READS.burst <= answers["OK"] <= allowed, answers
            assert answers["RESOURCE_EXHAUSTED"] == 2 * READS.burst - answers["OK"]

    asyncio.run(run())


def test_a_refused_node_reads_again_after_a_pause(gate: Gate):
    async def run() -> None:
        async with connections(gate, "again", 2) as callers:
            answers = await told(caller.read() for _ in range(READS.burst) for caller in callers)
            assert answers["RESOURCE_EXHAUSTED"], answers
            await asyncio.sleep(1.1)  # a fill of the bucket is what is tested
            assert await told(callers[0].read() for _ in range(READS.per_second // 2)) == {"OK": READS.per_second // 2}

    asyncio.run(run())


def test_watches_are_opened_slowly_whatever_the_number_of_connections(gate: Gate):
    async def run() -> None:
        async with connections(gate, "watcher", 10) as callers, connections(gate, "calm", 1) as (calm,):
            begin = time.monotonic()
            answers = await told(caller.watch() for _ in range(WATCHES.burst // 5) for caller in callers)
            allowed = WATCHES.burst + WATCHES.per_second * (time.monotonic() - begin + 1)
            assert WATCHES.burst <= answers["OK"] <= allowed, answers
            # Whoever still writes when the refusal is there already gets INTERNAL from its own client library.
            refused = answers["RESOURCE_EXHAUSTED"] + answers["INTERNAL"]
            assert refused == 2 * WATCHES.burst - answers["OK"], answers
            assert await told([callers[0].read()]) == {"OK": 1}, "reads have a budget of their own"
            assert await told([calm.watch()]) == {"OK": 1}

    asyncio.run(run())
