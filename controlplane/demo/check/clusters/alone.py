"""The other clusters' control planes are gone: what they told stays, with its age, and no call notices."""

import asyncio
from typing import Any

from controlplane.demo.check.clusters.context import Scene, now
from controlplane.demo.check.clusters.failover import count
from controlplane.demo.check.result import Findings
from mesh import keys

TITLE = "the others' control planes are gone, and come back: nothing of what they told is lost"
AWAY_SECONDS = 8.0
NOTICED_SECONDS = 60.0


async def run(scene: Scene, findings: Findings) -> None:
    clock = asyncio.get_running_loop().time
    store = scene.stores[scene.here]
    before = [(item.key, item.revision) for item in (await store.list(keys.IMPORTS)).items]
    findings.expect(bool(before), "nothing is imported: nothing is shown")
    async with scene.loads() as loads:
        since = clock()
        for name in scene.elsewhere:
            for node in scene.clusters[name].planes:
                await asyncio.to_thread(node.stop)
        await scene.clusters.until(lambda: states(scene, "lost"), "the peers are seen to be lost", NOTICED_SECONDS)
        findings.figure("control planes stopped → peers lost", f"{clock() - since:.1f} s")
        await asyncio.sleep(AWAY_SECONDS)
        after = [(item.key, item.revision) for item in (await store.list(keys.IMPORTS)).items]
        findings.figure("keys imported, changed meanwhile", f"{len(before)}, {len(set(before) ^ set(after))}")
        findings.expect(after == before, f"what was imported changed: {sorted(set(before) ^ set(after))[:4]}")
        back = clock()
        for name in scene.elsewhere:
            for node in scene.clusters[name].planes:
                node.start()
        await scene.clusters.until(lambda: states(scene, "connected"), "the peers are back", NOTICED_SECONDS)
        findings.figure("control planes started → peers connected", f"{clock() - back:.1f} s")
        count(findings, loads, since, await now(loads), "meanwhile")


async def states(scene: Scene, wanted: str) -> str:
    """What is still missing until every peer here is in this state."""
    peers: list[dict[str, Any]] = await scene.clusters.objects(scene.here, "peering", "list")
    other = {peer["name"]: peer["state"] for peer in peers if peer["state"] != wanted}
    return "" if len(peers) == len(scene.elsewhere) and not other else f"peers are {other or peers}"
