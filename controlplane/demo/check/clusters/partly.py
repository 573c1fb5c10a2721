"""Only some of the endpoints behind a far gateway die: the gateway is well, and still nothing is lost."""

import asyncio

from controlplane.demo.check.clusters.context import Scene, answered_by, now
from controlplane.demo.check.clusters.failover import LOCAL, count, shown
from controlplane.demo.check.result import Findings

TITLE = "api is away here; some of it dies elsewhere, behind gateways that live"
WATCHED_SECONDS = 6.0
DEAD = "api-1"


async def run(scene: Scene, findings: Findings) -> None:
    clock = asyncio.get_running_loop().time
    async with scene.loads() as loads:
        for name in LOCAL:
            await asyncio.to_thread(scene.home.host(name).kill9)
        await asyncio.sleep(WATCHED_SECONDS)
        since = clock()
        await asyncio.sleep(2)
        findings.figure("answered before", shown(answered_by(loads, since, await now(loads))))

        meshes = [scene.clusters[name] for name in scene.elsewhere]
        killed = [await asyncio.to_thread(mesh.host(DEAD).kill9) for mesh in meshes]
        await asyncio.sleep(WATCHED_SECONDS)
        count(findings, loads, killed[-1], await now(loads), f"after {DEAD} died elsewhere")
        since = clock()
        await asyncio.sleep(2)
        then = answered_by(loads, since, await now(loads))
        findings.figure("answered then", shown(then))
        findings.expect(bool(then), "nobody answers any more")
        for mesh in (scene.home, *meshes):
            for name in LOCAL:
                await asyncio.to_thread(mesh.host(name).start)
        await scene.settle()
