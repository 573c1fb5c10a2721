"""One control-plane node with many peers: what it costs to import from all, to hold that, and to follow changes.

The peers are bench/peer.py's; the node, and the etcd behind it, are real.
"""

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

from bench.peer import PATIENCE, Peer, peer
from bench.proc import cpu_seconds, memory
from bench.progress import Say
from bench.servers import ControlPlane, controlplane
from bench.stats import Figure, quantile

PEERS, SERVICES = 20, 500
CHANGES = 400
IDLE_SECONDS = 10.0
MB = 1e6


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    peers, services, changes = (3, 50, 20) if quick else (PEERS, SERVICES, CHANGES)
    with tempfile.TemporaryDirectory(prefix="hf-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        say("peers: etcd, control plane")
        async with controlplane(folder, "builtin") as plane, contextlib.AsyncExitStack() as stack:
            made = [await stack.enter_async_context(peer(folder, number, services)) for number in range(peers)]
            return await measured(plane, made, services, changes, say, seconds=2.0 if quick else IDLE_SECONDS)


async def measured(
    plane: ControlPlane, peers: list[Peer], services: int, changes: int, say: Say, *, seconds: float
) -> list[Figure]:
    pid, what = plane.node.process.pid, f"{len(peers)} peers, {services} services each"
    before, cpu, began = memory(pid), cpu_seconds(pid), time.monotonic()
    say(f"peers: {what}")
    for one in peers:
        await one.establish(plane)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for one in peers:
            group.create_task(one.synced.wait())
    took, used = time.monotonic() - began, cpu_seconds(pid) - cpu
    say(f"peers: {changes} changes, one after the other")
    seconds_each = [await peers[number % len(peers)].change(number) for number in range(changes)]
    after, cpu, began = memory(pid), cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    idle = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    grown = {name: after[name] / MB for name in ("rss", "own")} | {"before": before["rss"] / MB}
    return [
        Figure(f"peers: {what}, first import", "s; s of a core", 1, {"seconds": took, "cpu": used}),
        Figure(f"peers: {what}, memory of the node", "MB", 1, grown),
        Figure(f"peers: {what}, in step and idle", "% of a core", 1, {"cpu": 100 * idle}),
        Figure(
            f"peers: {what}, a change told -> in the importer's store",
            "ms",
            changes,
            {f"p{share}": 1000 * quantile(seconds_each, share / 100) for share in (50, 99)}
            | {"max": 1000 * max(seconds_each)},
            goal="p99 ≤ a round trip + 50 ms",
        ),
    ]
