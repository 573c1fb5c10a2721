"""What every step with several clusters is given."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from controlplane.cli.client import Api
from controlplane.demo import sites
from controlplane.demo.check.grpcload import GrpcLoad
from controlplane.demo.check.load import Load
from controlplane.demo.clusters import Clusters
from controlplane.demo.mesh import Mesh
from controlplane.demo.progress import Progress
from mesh.store.protocol import Store

LOAD_RATE = 25.0
"""Requests a second, of each protocol."""
WARM_UP_SECONDS = 2.0
SETTLE_SECONDS = 90.0

Loads = dict[str, Load]
"""By protocol."""


@dataclass(slots=True)
class Scene:
    clusters: Clusters
    apis: dict[str, Api]
    stores: dict[str, Store]
    """Read past the control plane, with its own credentials."""

    @property
    def progress(self) -> Progress:
        return self.clusters.progress

    def logs(self) -> list[Path]:
        return self.clusters.logs()

    @property
    def here(self) -> str:
        """The cluster that is looked from."""
        return self.clusters.names[0]

    @property
    def elsewhere(self) -> tuple[str, ...]:
        return tuple(self.clusters.names[1:])

    @property
    def home(self) -> Mesh:
        return self.clusters[self.here]

    def web(self, cluster: str) -> str:
        """The address of this cluster's web."""
        return self.clusters[cluster].topology.host("web-1").address

    @asynccontextmanager
    async def loads(self, *, warm_up: float = WARM_UP_SECONDS, rate: float = LOAD_RATE) -> AsyncIterator[Loads]:
        """A steady load from web's host here to api wherever it is, in all protocols, until the block ends."""
        found: Loads = {
            protocol: (GrpcLoad if protocol == "grpc" else Load)(self.web(self.here), sites.to_all(protocol), rate=rate)
            for protocol in sites.PROTOCOLS
        }
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load.run()) for load in found.values()]
            try:
                await asyncio.sleep(warm_up)
                yield found
            finally:
                for task in tasks:
                    task.cancel()

    async def mend(self) -> None:
        """Bring back whatever a broken step left stopped."""
        for mesh in self.clusters.meshes.values():
            for node in mesh.planes:
                node.start()
            for machine in mesh.machines:
                await asyncio.to_thread(machine.start)
        await self.settle()

    async def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Return once every proxy serves and every instance is healthy, everywhere."""
        for name, mesh in self.clusters.meshes.items():
            api = self.apis[name]
            await mesh.until(partial(mesh.settled, api), f"{name} is whole again", seconds)

    async def connections(self, cluster: str) -> int:
        """How many connections this cluster's gateways have taken, all together."""
        return sum([await _taken(machine.run) for machine in self.clusters[cluster].gateways.values()])


@asynccontextmanager
async def scene(clusters: Clusters) -> AsyncIterator[Scene]:
    """With a connection to each control plane and to each etcd."""
    async with contextlib.AsyncExitStack() as stack:
        apis: dict[str, Api] = {}
        stores: dict[str, Store] = {}
        for name, mesh in clusters.meshes.items():
            apis[name] = await stack.enter_async_context(Api(mesh.connection))
            store = stores[name] = mesh.etcd.store()
            stack.push_async_callback(store.close)
        yield Scene(clusters, apis, stores)


async def _taken(run: Path) -> int:
    connector = aiohttp.UnixConnector(path=str(run / "envoy.sock"))
    url = "http://envoy/stats?filter=^listener\\..*downstream_cx_total$&format=json&usedonly"
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        found = await answer.json(content_type=None)
    return sum(int(one.get("value", 0)) for one in found["stats"] if ".worker_" not in one["name"])


def failed(loads: Loads, since: float, until: float) -> tuple[int, int, int, dict[str, int]]:
    """Of the requests sent in [since, until): how many, how many failed; how many failed that were under way at its
    beginning; and why the former did.
    """
    found = [load.account(since, until) for load in loads.values()]
    reasons = {f"{p}: {r}": n for p, a in zip(loads, found, strict=True) for r, n in a.reasons.items()}
    return sum(a.sent for a in found), sum(a.failed for a in found), sum(a.in_flight_failed for a in found), reasons


async def now(loads: Loads) -> float:
    """Now, once everything that was sent before it has ended."""
    moment = asyncio.get_running_loop().time()
    for load in loads.values():
        await load.settled(moment)
    return moment


def answered_by(loads: Loads, since: float, until: float) -> dict[str, int]:
    """Cluster -> answers to requests sent in that time; each instance is named `<host>.<cluster>`."""
    found: dict[str, int] = {}
    for load in loads.values():
        for instance, count in load.account(since, until).by_instance.items():
            cluster = instance.rpartition(".")[2]
            found[cluster] = found.get(cluster, 0) + count
    return found
