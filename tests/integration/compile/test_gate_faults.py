"""The store gate while members of etcd die and freeze: reads go on at once, watches end and can be opened again."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.store.protocol import Put
from tests.integration.compile.gates import KEY, Caller, Gate, running_gate
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real

SOON = 7.0
"""A read beside a frozen member: a second until another one is asked, and a machine that is busy. What waits for the
frozen one itself takes 9 s at the least: until pings have told."""
CUT = 40.0
"""A watch on a frozen member: 9 s until its pings have told, on a machine that is busy; without pings it never ends."""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with running_gate(tmp_path_factory.mktemp("gate-faults"), members=3) as found:
        yield found


def agent_of(gate: Gate, node: str) -> Caller:
    return Caller(gate, gate.ca.identity(f"/node/{node}"))


async def timed(agent: Caller) -> float:
    """Seconds that a read took."""
    begin = time.monotonic()
    await agent.read()
    return time.monotonic() - begin


async def watch_of(agent: Caller) -> "Watch":
    return Watch(*await agent.watch())


class Watch:
    def __init__(self, call: Any, member: int) -> None:
        self.call, self.member = call, member
        self.seen = 0
        self.ended_after: float | None = None
        self._begin = 0.0
        self._task = asyncio.create_task(self._follow())

    def mark(self) -> None:
        self._begin = time.monotonic()

    async def _follow(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (answer := await self.call.read()) is not grpc.aio.EOF:
                self.seen += len(answer.events)
        self.ended_after = time.monotonic() - self._begin

    async def close(self) -> None:
        self.call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def put(gate: Gate) -> None:
    store = gate.cluster.store()
    try:
        await store.txn([], [Put(KEY, b"{}")])
    finally:
        await store.close()


async def opened(agent: Caller) -> Watch:
    """A watch, tried again as any client of etcd does."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError, AssertionError, TimeoutError):
            return await watch_of(agent)
        await asyncio.sleep(0.1)


async def on_every_member(agent: Caller) -> list[Watch]:
    """One watch at least with each; one that has just failed gets none for a while."""
    found: list[Watch] = []

    async def all_three() -> bool:
        watch = await opened(agent)
        if [w.member for w in found].count(watch.member) < 3:
            found.append(watch)
        else:
            await watch.close()
        return len({w.member for w in found}) == 3

    await aeventually(all_three, timeout=40, what="every member has a watch")
    return found


@pytest.mark.parametrize("fault", ["paused", "killed"])
def test_a_member_fails_and_the_gate_goes_on(gate: Gate, fault: str):
    async def run() -> None:
        await put(gate)
        agent = agent_of(gate, fault)
        watches = await on_every_member(agent)
        victim = (await gate.cluster.leader() + 1) % 3
        for watch in watches:
            watch.mark()
        break_, mend = (
            (gate.cluster.pause_member, gate.cluster.resume_member)
            if fault == "paused"
            else (gate.cluster.kill_member, gate.cluster.start_member)
        )
        break_(victim)
        try:
            begin, took = time.monotonic(), []
            while time.monotonic() - begin < 5:
                took += await asyncio.gather(*(timed(agent) for _ in range(4)))
                await asyncio.sleep(0.02)
            assert max(took) < SOON, sorted(took)[-5:]
            # Those with the member that failed have ended by now, or do soon; nobody else's.
            ended = await aeventually(
                lambda: [w for w in watches if w.ended_after is not None], timeout=CUT, what="a watch ends"
            )
            assert len({watch.member for watch in ended}) == 1
            lost = ended[0].member
            await aeventually(
                lambda: all((w.ended_after is not None) == (w.member == lost) for w in watches), timeout=CUT
            )
            assert max(w.ended_after or 0 for w in watches) < CUT
            again = [await asyncio.wait_for(opened(agent), SOON) for _ in ended]
            assert lost not in {watch.member for watch in again}
            alive = [*again, *(w for w in watches if w.ended_after is None)]
            await put(gate)
            await aeventually(lambda: all(watch.seen == 1 for watch in alive), what="all watches see a change")
            for watch in [*watches, *again]:
                await watch.close()
        finally:
            mend(victim)
            await gate.cluster.ready()
            await agent.channel.close()

    asyncio.run(run())


def test_one_agent_never_hits_its_limits(gate: Gate):
    """More than one needs: its watches, and a list of everything in pages, several at a time."""

    async def run() -> None:
        await put(gate)
        agent = agent_of(gate, "vm-1")
        watches = [await watch_of(agent) for _ in range(20)]
        for _ in range(10):
            await asyncio.gather(*(agent.read() for _ in range(30)))
        # Quiet streams stay: nothing moves, nothing ends.
        await asyncio.sleep(4)
        assert [w.ended_after for w in watches if w.ended_after is not None] == []
        await put(gate)
        await aeventually(lambda: all(watch.seen == 1 for watch in watches), what="all watches see a change")
        for watch in watches:
            await watch.close()
        await agent.channel.close()

    asyncio.run(run())
