"""Two whole clusters that reach each other's control plane by a wire that a test can cut: the demo's, with relays.

Real etcds, OpenBaos, control planes, store gates, agents, Envoys and gateways; two control-plane nodes in each.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.cli.client import Api
from controlplane.cli.errors import CliError
from controlplane.demo import sites
from controlplane.demo import topology as top
from controlplane.demo.check.clusters import peered
from controlplane.demo.check.clusters.context import Loads, Scene, now, scene
from controlplane.demo.check.grpcload import GrpcLoad
from controlplane.demo.check.load import Load
from controlplane.demo.clusters import Clusters
from controlplane.demo.machine import Machine
from controlplane.demo.plane import PlaneNode
from controlplane.demo.process import free_port
from controlplane.demo.progress import Lines
from mesh import keys
from tests.integration.compile.hosts import Background
from tests.support.histories import Histories, Seen
from tests.support.relay import Relay
from tests.support.waiting import aeventually

WEST, EAST = "west", "east"
OTHER = {WEST: EAST, EAST: WEST}
MANY = 100
"""Services that each exports besides api, so that a resume and a first session differ."""
RATE = 5.0
"""Requests a second of each load."""
PLANES = {f"cp-{number}": offset for number, offset in enumerate((11, 12, 15, 16, 18, 19), 1)}
"""Control-plane nodes, those to come too: agents are told all their addresses, peers those of the ones that run."""
NEW_GATEWAY = 17


def spare(number: int, port: int = 81) -> dict[str, Any]:
    """One of the many; nobody calls it."""
    ports = [{"port": port, "name": "http", "protocol": "http"}]
    return top.resource("Service", f"s{number}", {"ports": ports, "serviceAccounts": ["spare"]})


class Linked:
    """`async with linked(folder) as rig`."""

    def __init__(self, folder: Path) -> None:
        self.relays: dict[str, dict[str, Relay]] = {name: {} for name in OTHER}
        self._ports = {name: dict.fromkeys(PLANES, 0) for name in OTHER}
        for ports in self._ports.values():
            ports.update((node, free_port()) for node in PLANES)
        self._blocks: dict[str, int] = {}
        self.clusters = Clusters(folder, Lines(), 2, plan=self._plan)
        self.histories = Histories(self._sockets)
        self.scene: Scene
        self.first = 0
        """Bytes of the first sessions, both ways."""

    def _plan(self, block: int, /, *, cluster: str, names: Sequence[str]) -> top.Plan:
        """Sites' own, without the host that no test here needs, and with a second control-plane node."""
        block = top.BLOCKS[-1 - top.BLOCKS.index(block)]  # from the other end than demos that begin meanwhile
        self._blocks[cluster] = block  # the last one that is tried is taken
        found = sites.plan(block, cluster, names)
        planes = (*found.topology.planes, top.Plane("cp-2", "", self.address(block, "cp-2")))
        hosts = tuple(host for host in found.topology.hosts if host.service != sites.BATCH)
        many = top.resource("ExportPolicy", "many", {"services": [f"s{n}" for n in range(MANY)], "to": ["*"]})
        urls = [top.Plane(name, "", self.address(block, name)).url for name in PLANES]
        return replace(
            found,
            topology=replace(found.topology, hosts=hosts, planes=planes),
            objects=(*found.objects, many, *(spare(number) for number in range(MANY))),
            plane_settings={"peerAddresses": [self.peer_address(cluster, plane.name) for plane in planes]},
            agent_settings={"controlplanes": urls},
        )

    @staticmethod
    def address(block: int, node: str) -> str:
        return f"127.0.0.{block + PLANES[node]}"

    def peer_address(self, cluster: str, node: str) -> str:
        """How the other cluster reaches it."""
        return f"https://127.0.0.1:{self._ports[cluster][node]}"

    def _sockets(self) -> dict[tuple[str, str], Path]:
        return {
            (name, machine.name): machine.run / "agent.sock"
            for name, mesh in self.clusters.meshes.items()
            for machine in mesh.machines
        }

    async def connect(self, cluster: str, plane: top.Plane) -> None:
        """Make a control-plane node reachable for the other cluster."""
        relay = Relay(self._ports[cluster][plane.name], lambda: (plane.address, top.API_PORT))
        await relay.start()
        self.relays[cluster][plane.name] = relay

    @property
    def wires(self) -> list[Relay]:
        return [relay for relays in self.relays.values() for relay in relays.values()]

    def passed(self) -> int:
        """Bytes over all wires, both ways."""
        return sum(relay.to + relay.back for relay in self.wires)

    def cut(self, *, silent: bool = False) -> None:
        """Connections end and none is taken; or, silent, all stays open and every byte is lost."""
        for wire in self.wires:
            if silent:
                wire.lose_to = wire.lose_back = True
            else:
                wire.cut()

    def mend(self) -> None:
        for wire in self.wires:
            wire.mend()
            wire.delay = 0.0

    # -- what a cluster says and does

    async def state(self, cluster: str) -> dict[str, Any]:
        """Its word on its peer."""
        try:
            async with Api(self.clusters[cluster].connection, timeout=5) as api:
                return dict(await api.get(f"/v1/peerings/{OTHER[cluster]}"))
        except CliError as exc:
            return {"state": exc.message}

    async def become(self, *states: str, clusters: Iterable[str] = OTHER, timeout: float = 60) -> None:
        """Return once these clusters are in one of these states with their peers."""
        for cluster in clusters:

            async def look(cluster: str = cluster) -> bool:
                state = await self.state(cluster)
                assert state["state"] in states, f"{cluster}: {state['state']}: {state.get('reason')}"
                return True

            await aeventually(look, timeout=timeout, what=f"{cluster} is {states} with its peer")

    async def apply(self, cluster: str, *objects: dict[str, Any], delete: Iterable[str] = ()) -> None:
        """Write objects, and delete Services by name."""
        gone = [{"kind": "Service", "namespace": top.NAMESPACE, "name": name} for name in delete]
        async with Api(self.clusters[cluster].connection) as api:
            await api.call("POST", "/v1/apply", body={"objects": list(objects), "delete": gone, "dryRun": False})

    async def imported(self, cluster: str) -> dict[str, bytes]:
        """What it holds of its peer: key -> value."""
        listing = await self.scene.stores[cluster].list(keys.imports_of(OTHER[cluster]))
        return {item.key: item.value for item in listing.items}

    async def arrives(self, cluster: str, number: int, port: int, timeout: float = 60) -> None:
        """Return once this cluster knows that one of its peer's many has this port."""
        key = keys.imports_of(OTHER[cluster]) + f"services/{top.NAMESPACE}/s{number}"

        async def look() -> bool:
            item = await self.scene.stores[cluster].get(key)
            return item is not None and f'"port":{port}'.encode() in item.value

        await aeventually(look, timeout=timeout, what=f"{cluster} knows of s{number} at {port}")

    async def replace_planes(self, *clusters: str, overlap: bool) -> None:
        """Other control-plane nodes, with addresses, keys and certificates of their own, take the place of all.

        overlap: before those that were there end; otherwise after that.
        """
        old = {cluster: list(self.clusters[cluster].planes) for cluster in clusters}
        if not overlap:
            await self._end(old)
        for cluster in clusters:
            mesh = self.clusters[cluster]
            names = [name for name in PLANES if not (mesh.folder / name).exists()][:2]
            planes = [top.Plane(name, "", self.address(self._blocks[cluster], name)) for name in names]
            addresses = [self.peer_address(cluster, name) for name in names]
            for plane in planes:
                await self.connect(cluster, plane)
                mesh.add_plane(plane, peerAddresses=addresses, controlplanes=[plane.url for plane in planes])
            for node in mesh.planes:
                await asyncio.to_thread(node.wait)
        if overlap:
            await self.become("connected")
            await self._end(old)

    async def _end(self, planes: dict[str, list[PlaneNode]]) -> None:
        for cluster, nodes in planes.items():
            for node in nodes:
                self.clusters[cluster].planes.remove(node)
                await asyncio.to_thread(node.stop)
                await self.relays[cluster].pop(node.plane.name).close()

    async def leader(self, cluster: str) -> PlaneNode:
        mesh = self.clusters[cluster]
        async with Api(mesh.connection) as api:
            name = (await api.get("/v1/status"))["leader"]
        return next(node for node in mesh.planes if node.plane.name == name)

    async def settle(self) -> None:
        """Return once both are peered, and every proxy serves and every instance is healthy."""
        await self.become("connected")
        for mesh in self.clusters.meshes.values():
            async with Api(mesh.connection) as api:
                await aeventually(lambda mesh=mesh, api=api: _whole(mesh.settled(api)), timeout=90, what="it is whole")

    async def peer(self) -> None:
        """Make them peers by a token, and wait until each knows the other's api. The bytes of it."""
        before = self.passed()
        await peered.peer(self.clusters, WEST, EAST)
        await self.become("connected")
        for cluster in OTHER:
            await self.arrives(cluster, MANY - 1, 81)
            await self.clusters.until(lambda cluster=cluster: peered.known(self.scene, cluster), "api is known")
        self.first = self.first or self.passed() - before

    # -- the question of every test

    @contextlib.asynccontextmanager
    async def unharmed(self, *, far: bool = True) -> AsyncIterator[list[Seen]]:
        """What is in the block takes no local endpoint from any agent, nor its weight, and fails no request.

        far: also of those that cross from one cluster to the other, and of what a gateway has for the other's callers.
        Gives what agents put into force, when it is over.
        """
        marks, seen = await self.histories.marks(), list[Seen]()
        async with self._loads() as loads:
            since = asyncio.get_running_loop().time()
            yield seen
            until = await now(loads)
        seen += await self.histories.since(marks)
        harmed = [one for one in seen if one.local and (far or not one.assignment.startswith("gateway|"))]
        accounts = {name: load.account(since, until) for name, load in loads.items()}
        lost = {n: a.reasons for n, a in accounts.items() if a.failed and (far or not n.startswith("far"))}
        sent = {kind: sum(a.sent for n, a in accounts.items() if n.startswith(kind)) for kind in ("here", "far")}
        print(
            f"\n{until - since:.1f} s: requests sent {sent}, failed {sum(a.failed for a in accounts.values())};"
            f" changes in force: {len(harmed)} of local endpoints, {len(seen) - len(harmed)} of far ones"
        )
        assert not harmed, "local endpoints changed in force:\n" + "\n".join(map(str, harmed))
        assert not lost, f"requests failed: {lost}"
        assert all(account.sent for account in accounts.values()), f"no load was sent: {sent}"

    async def calls_cross(self) -> None:
        """Return once they do, both ways, and nothing changes any more."""
        await self.settle()

        async def look() -> bool:
            async with self.unharmed() as seen:
                await asyncio.sleep(1)
            return not seen

        await aeventually(look, timeout=90, what="calls cross, and nothing changes")

    @contextlib.asynccontextmanager
    async def _loads(self) -> AsyncIterator[Loads]:
        """In both clusters: web calls api, which is here and there, and the other cluster's api alone."""
        loads: Loads = {}
        for cluster, other in OTHER.items():
            web = self.scene.web(cluster)
            for protocol, kind in (("http", Load), ("grpc", GrpcLoad)):
                loads[f"here {cluster} {protocol}"] = kind(web, sites.to_all(protocol), rate=RATE)
                port = sites.to_one(self.clusters.names, other, protocol)
                loads[f"far {cluster} {protocol}"] = kind(web, port, rate=RATE)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load.run()) for load in loads.values()]
            try:
                await aeventually(lambda: all(load.requests for load in loads.values()), timeout=30, what="answers")
                yield loads
            finally:
                for task in tasks:
                    task.cancel()

    async def replace_gateway(self, cluster: str) -> Machine:
        """Another gateway joins, and one that was there is drained until nobody uses it; it is given back, and runs."""
        mesh = self.clusters[cluster]
        async with Api(mesh.connection) as api:
            await mesh.add_gateway(api, top.Gateway("gw-3", f"127.0.0.{self._blocks[cluster] + NEW_GATEWAY}"))
            await aeventually(lambda: _whole(mesh.settled(api)), timeout=90, what="the new gateway serves")
            await self.clusters.holdfast(cluster, "node", "drain", "gw-1", "--no-wait")

            async def left() -> bool:
                await asyncio.sleep(1)  # each look has the agent ask its Envoy
                body = await api.get("/v1/nodes/gw-1/drain")
                assert body["done"], body["words"]
                return True

            # Callers keep a connection for five minutes at the most.
            await aeventually(left, timeout=400, what="no connection goes through the old gateway")
        return mesh.gateways["gw-1"]


async def _whole(objection: Any) -> bool:
    said = await objection
    assert not said, said
    return True


@contextlib.asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[Linked]:
    """Up, peered, and each with what the other exports."""
    rig = Linked(folder)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_close, rig)
        await stack.enter_async_context(rig.clusters)
        for name, mesh in rig.clusters.meshes.items():
            for node in mesh.planes:
                await rig.connect(name, node.plane)
        rig.scene = await stack.enter_async_context(scene(rig.clusters))
        await rig.peer()
        await rig.calls_cross()
        yield rig


async def _close(rig: Linked) -> None:
    for wire in rig.wires:
        await wire.close()


@pytest.fixture(scope="module")
def rig() -> Iterator[tuple[Linked, Background]]:
    """It lives in a loop of its own: tests run in that."""
    folder = Path(f"/tmp/hf-links-{os.getpid()}")  # short: unix sockets lie deep in it
    background, context = Background(), linked(folder)
    try:
        found = background.submit(context.__aenter__()).result(400)
        try:
            yield found, background
        finally:
            background.submit(context.__aexit__(None, None, None)).result(200)
    finally:
        background.close()
        shutil.rmtree(folder, ignore_errors=True)
