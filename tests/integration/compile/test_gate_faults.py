"""The store gate while members of etcd die and freeze: reads go on at once, watches end and can be opened again."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from aetcd.rpc import rpc_pb2 as rpc

from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.demo.process import free_port
from mesh.model import GateSpec
from mesh.store.protocol import Put
from tests.integration.compile.hosts import Background, Host
from tests.support.meshes import TestCa, config, local, world
from tests.support.servers import etcd
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real

PREFIX = "/holdfast/v1/mesh/objects/Service/"
KEY = PREFIX + "shop/api"
SOON = 2.5
"""A read beside a frozen member: a second until another one is asked, and a machine that is busy."""
CUT = 12.0
"""A watch on a frozen member: 9 s until its pings have told, and a machine that is busy."""


class Gate(NamedTuple):
    cluster: EtcdCluster
    ca: TestCa
    place: str


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    folder, ca, background = tmp_path_factory.mktemp("gate-faults"), TestCa(), Background()
    with etcd(folder / "etcd", members=3) as cluster:
        place = f"127.0.0.1:{free_port()}"
        pki: Path = cluster.pki
        spec = GateSpec(
            listen=place,
            etcd=cluster.endpoints,
            etcd_ca=str(pki / "ca.pem"),
            etcd_cert=str(pki / "holdfast-gate.pem"),
            etcd_key=str(pki / "holdfast-gate-key.pem"),
        )
        host = Host("gate", folder, background)
        try:
            mine = ca.identity("/node/gate-1", dns="gate.holdfast")
            more = {"bundle_roots": (ca.root,), "access_log": str(host.log)}
            host.publish(world(config()), local(identities={"gate": mine}, gate=spec, **more))
            yield Gate(cluster, ca, place)
        finally:
            host.close()
            background.close()


class Agent:
    """One connection to the gate, without any retries of its own."""

    def __init__(self, gate: Gate) -> None:
        mine = gate.ca.identity("/node/vm-1")
        credentials = grpc.ssl_channel_credentials(
            gate.ca.root.encode(), mine.key_pem.encode(), mine.chain_pem.encode()
        )
        options = (("grpc.ssl_target_name_override", "gate.holdfast"), ("grpc.enable_retries", 0))
        self.channel = grpc.aio.secure_channel(gate.place, credentials, options=options)
        self._range: Any = self.channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=rpc.RangeResponse.FromString,
        )
        self._watch: Any = self.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )

    async def read(self) -> float:
        """Seconds that a read took."""
        begin = time.monotonic()
        answer = await self._range(rpc.RangeRequest(key=KEY.encode()), timeout=15)
        assert answer.kvs[0].value
        return time.monotonic() - begin

    async def watch(self) -> "Watch":
        call = self._watch()
        create = rpc.WatchCreateRequest(key=PREFIX.encode(), range_end=PREFIX[:-1].encode() + b"0")
        await call.write(rpc.WatchRequest(create_request=create))
        answer = await asyncio.wait_for(call.read(), 10)
        assert answer is not grpc.aio.EOF
        assert answer.created
        return Watch(call, answer.header.member_id)


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


async def opened(agent: Agent) -> Watch:
    """A watch, tried again as any client of etcd does."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError, AssertionError, TimeoutError):
            return await agent.watch()
        await asyncio.sleep(0.1)


async def on_every_member(agent: Agent) -> list[Watch]:
    """One watch at least with each; one that has just failed gets none for a while."""
    found: list[Watch] = []

    async def all_three() -> bool:
        watch = await agent.watch()
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
        agent = Agent(gate)
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
                took += await asyncio.gather(*(agent.read() for _ in range(4)))
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
        agent = Agent(gate)
        watches = [await agent.watch() for _ in range(20)]
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
