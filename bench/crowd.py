"""One control-plane node with a hundred peers, ten of which are slow: what the other ninety notice of them.

Both ways: the node imports from each, and each from the node. Measured once with the ninety alone, and once, on a fresh
node, with the slow ones (bench/slow.py) peered before them.
"""

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peer import PATIENCE, Peer, peer
from bench.proc import cpu_seconds, memory
from bench.progress import Say
from bench.servers import ControlPlane, controlplane
from bench.slow import KINDS
from bench.stats import Figure, latency
from controlplane.cli.client import Api
from multicluster.link import LinkError

WELL, SLOW = 90, 10
SERVICES, EXPORTED = 50, 20
"""What each peer offers, and what the node does."""
CHANGES, TOLD = 450, 30
"""Changes of peers' items, in turn; and of the node's own, each told to all."""
IDLE_SECONDS = 20.0
BETWEEN_SECONDS = 0.2
MB = 1e6


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    well, slow, services = (8, len(KINDS), 10) if quick else (WELL, SLOW, SERVICES)
    figures: list[Figure] = []
    for more in (0, slow):
        with tempfile.TemporaryDirectory(prefix="hf-bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            say(f"crowd: etcd, control plane; {well} peers and {more} slow ones")
            async with controlplane(folder, "builtin") as plane, contextlib.AsyncExitStack() as stack:
                await exporting(plane)
                made = [
                    await stack.enter_async_context(peer(folder, well + number, services, KINDS[number % len(KINDS)]))
                    for number in range(more)
                ]
                neighbours = [await stack.enter_async_context(peer(folder, n, services)) for n in range(well)]
                figures += await Crowd(plane, neighbours, made, say).measured(quick=quick)
    return figures


class Crowd:
    def __init__(self, plane: ControlPlane, well: list[Peer], slow: list[Peer], say: Say) -> None:
        self.plane, self.well, self.slow, self.say = plane, well, slow, say
        self.what = f"crowd: {len(well)} peers" + (f" and {len(slow)} slow ones" if slow else " alone")

    async def measured(self, *, quick: bool) -> list[Figure]:
        changes, told, seconds = (40, 5, 3.0) if quick else (CHANGES, TOLD, IDLE_SECONDS)
        pid = self.plane.node.process.pid
        before, cpu, began = memory(pid)["rss"], cpu_seconds(pid), time.monotonic()
        async with asyncio.TaskGroup() as group:
            pulls = []
            for one in (*self.slow, *self.well):
                await one.establish(self.plane)
                pulls.append(group.create_task(self.pulling(one)))
            async with asyncio.timeout(PATIENCE):
                for one in self.well:
                    await one.synced.wait()
                await until(lambda: all(one.pulled for one in self.well))
            took, used = time.monotonic() - began, cpu_seconds(pid) - cpu
            self.say(f"{self.what}: {changes} changes of theirs, one after the other")
            imports = [await self.well[number % len(self.well)].change(number) for number in range(changes)]
            self.say(f"{self.what}: {told} changes of the node's, each told to all")
            exports = [taken for number in range(told) for taken in await self.tell(number)]
            self.say(f"{self.what}: {seconds:g} s of rest")
            cpu, since = cpu_seconds(pid), time.monotonic()
            await asyncio.sleep(seconds)
            idle = (cpu_seconds(pid) - cpu) / (time.monotonic() - since)
            after, states = memory(pid)["rss"], await self.states()
            for pull in pulls:
                pull.cancel()
        grown = {"rss": after / MB, "before": before / MB}
        return [
            Figure(f"{self.what}: all in step", "s; s of a core", 1, {"seconds": took, "cpu": used}),
            latency(f"{self.what}: a change told -> in the importer's store", imports, goal="as without slow ones"),
            latency(
                f"{self.what}: `apply` here -> told to each of them",
                exports,
                goal="as without slow ones",
                notes=f"{told} changes; {len(self.well)} samples each, of the same moment",
            ),
            Figure(f"{self.what}: memory of the node", "MB", 1, grown),
            Figure(f"{self.what}: at rest", "% of a core", 1, {"cpu": 100 * idle}, notes=f"peers at its end: {states}"),
        ]

    async def pulling(self, one: Peer) -> None:
        """Import from the node, whatever becomes of links."""
        while True:
            try:
                await one.pull(self.plane)
            except LinkError as exc:
                if one in self.well:
                    self.say(f"crowd: {one.name}: {exc}")
            await asyncio.sleep(BETWEEN_SECONDS)

    async def tell(self, number: int) -> list[float]:
        """Change one Service of the node's; seconds until each peer was told."""
        async with self.plane.api() as api:
            began = time.monotonic()
            revision = await applied(api, [service(number % EXPORTED, name=f"http-{number}")])
            async with asyncio.timeout(PATIENCE):
                await until(lambda: all(one.position >= revision for one in self.well))
        return [one.told - began for one in self.well]

    async def states(self) -> str:
        async with self.plane.api() as api:
            found = (await api.get("/v1/peerings"))["items"]
        counted = Counter(str(one["state"]) for one in found)
        return ", ".join(f"{count} {state}" for state, count in counted.most_common())


async def exporting(plane: ControlPlane) -> None:
    policy = {
        "apiVersion": "holdfast.dev/v1",
        "kind": "ExportPolicy",
        "metadata": {"name": "all", "namespace": "shop"},
        "spec": {"services": ["*"], "to": ["*"]},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    async with plane.api() as api:
        await applied(api, [namespace, *(service(number) for number in range(EXPORTED)), policy])


def service(number: int, name: str = "http") -> dict[str, Any]:
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": "Service",
        "metadata": {"name": f"s{number}", "namespace": "shop"},
        "spec": {"ports": [{"port": 80, "name": name, "protocol": "http"}], "serviceAccounts": ["api"]},
    }


async def applied(api: Api, objects: list[dict[str, Any]]) -> int:
    answer = await api.call("POST", "/v1/apply", body={"objects": objects, "delete": [], "dryRun": False})
    return int(answer["revision"])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)
