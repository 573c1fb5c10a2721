"""All hosts of api here die: others answer, and only what was under way is lost. They return: so do calls."""

import asyncio

from controlplane.demo.check.clusters.context import Loads, Scene, answered_by, failed, now
from controlplane.demo.check.result import Findings

TITLE = "api here dies and returns: calls go elsewhere, and come back"
LOCAL = ("api-1", "api-2")
WATCHED_SECONDS = 6.0
BACK_SECONDS = 60.0


async def run(scene: Scene, findings: Findings) -> None:
    clock = asyncio.get_running_loop().time
    async with scene.loads() as loads:
        began = clock()
        await asyncio.sleep(2)
        here = answered_by(loads, began, await now(loads))
        findings.figure("answered before", shown(here))
        findings.expect(set(here) == {scene.here}, f"not all was answered here while api was well: {here}")

        killed = [await asyncio.to_thread(scene.home.host(name).kill9) for name in LOCAL]
        await asyncio.sleep(WATCHED_SECONDS)
        count(findings, loads, killed[-1], await now(loads), "after both died")
        took = first_elsewhere(loads, killed[-1], scene.here) - killed[-1]
        findings.figure("first answer from elsewhere after", f"{took * 1000:.0f} ms")
        since = clock()
        await asyncio.sleep(2)
        there = answered_by(loads, since, await now(loads))
        findings.figure("answered then", shown(there))
        findings.expect(bool(there) and scene.here not in there, f"somebody answered here who is dead: {there}")

        since = clock()
        for name in LOCAL:
            await asyncio.to_thread(scene.home.host(name).start)
        await scene.settle()
        back = await _home(scene, loads)
        findings.figure("settled → all answered here again", f"{back:.1f} s")
        count(findings, loads, since, await now(loads), "while they returned")


async def _home(scene: Scene, loads: Loads) -> float:
    """Seconds until a whole second's calls were answered here."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while clock() < began + BACK_SECONDS:
        since = clock()
        await asyncio.sleep(1)
        if set(answered_by(loads, since, await now(loads))) == {scene.here}:
            return since - began
    raise TimeoutError(f"calls did not come back within {BACK_SECONDS:g} s")


def first_elsewhere(loads: Loads, since: float, here: str) -> float:
    """When the first answer of another cluster came."""
    ends = [
        request.finished
        for load in loads.values()
        for request in load.requests
        if request.ok and request.finished >= since and not request.instance.endswith(f".{here}")
    ]
    return min(ends, default=float("inf"))


def count(findings: Findings, loads: Loads, since: float, until: float, when: str) -> None:
    sent, lost, under_way, reasons = failed(loads, since, until)
    findings.figure(f"{when}: sent, failed; in flight and failed", f"{sent}, {lost}; {under_way}")
    findings.expect(not lost, f"{when}: {lost} requests that were sent then failed: {reasons}")
    findings.expect(sent > 0, f"{when}: no load was sent")


def shown(clusters: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(clusters.items())) or "nobody"
