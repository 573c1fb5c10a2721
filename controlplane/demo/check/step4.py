"""Step 4: an instance fails its health check, then a host dies; with the control plane, and without it."""

import asyncio
from collections.abc import Callable

from controlplane.demo import topology as top
from controlplane.demo.check.context import Context
from controlplane.demo.check.load import Load
from controlplane.demo.check.result import Findings
from controlplane.demo.mesh import DemoError
from mesh import codec, keys
from mesh.model import Endpoint, ServiceRef

TITLE = "steady load; an api instance fails its health check, then an api host is killed"
SICK, DEAD, DEAD_LATER = "api-1", "api-2", "api-3"
SLACK_SECONDS = 1.0
"""Removal may take this much longer than the grace."""
AFTER_SECONDS = 2.0
POLL_SECONDS = 0.05

Health = dict[str, str]
"""Host -> health of its api endpoint, for those that there are."""


async def run(context: Context, findings: Findings) -> None:
    findings.figure("grace", f"{context.mesh.grace:g} s")
    async with context.load() as load:
        with findings.part("with control plane"):
            await _sick(context, findings, load)
            await _dead(context, findings, load)
        with findings.part("without control plane"):
            await _alone(context, findings, load)
        _whole(findings, load)


async def _sick(context: Context, findings: Findings, load: Load) -> None:
    """Health goes, traffic turns away from the instance; health comes back, and so does traffic."""
    clock = asyncio.get_running_loop().time
    since = clock()
    await context.switch(SICK, ok=False)
    await _health(context, lambda h: h.get(SICK) == "unhealthy", f"{SICK} is seen unhealthy")
    findings.figure("health check fails → unhealthy", f"{clock() - since:.1f} s")
    await asyncio.sleep(AFTER_SECONDS)
    last = max((r.finished for r in load.requests if r.instance == SICK), default=since)
    findings.expect(last < clock() - AFTER_SECONDS / 2, f"{SICK} still gets requests while it is unhealthy")
    await context.switch(SICK, ok=True)
    await _health(context, lambda h: h.get(SICK) == "healthy", f"{SICK} is seen healthy again")
    found = load.account(since, await _now(load))
    findings.figure("requests during failed health check: sent, failed", f"{found.sent}, {found.failed}")
    findings.expect(not found.failed, f"{found.failed} requests failed while {SICK} was unhealthy: {found.reasons}")


async def _dead(context: Context, findings: Findings, load: Load) -> None:
    """A host is gone from one moment to the next."""
    clock = asyncio.get_running_loop().time
    killed = await asyncio.to_thread(context.mesh.host(DEAD).kill9)
    await _health(context, lambda h: h.get(DEAD, "lost") == "lost", f"{DEAD} is removed")
    removed = clock() - killed
    await asyncio.sleep(AFTER_SECONDS)
    _count(findings, load, killed, await _now(load))
    findings.figure("host killed → removed", f"{removed:.1f} s")
    allowed = context.mesh.grace + SLACK_SECONDS
    findings.expect(removed <= allowed, f"removal took {removed:.2f} s, more than grace + 1 s = {allowed:g} s")
    await asyncio.to_thread(context.mesh.host(DEAD).start)
    await context.settle()


async def _alone(context: Context, findings: Findings, load: Load) -> None:
    """The same with nobody there to notice."""
    mesh, clock = context.mesh, asyncio.get_running_loop().time
    for node in mesh.planes:
        await asyncio.to_thread(node.stop)
    since = clock()
    await context.switch(SICK, ok=False)
    killed = await asyncio.to_thread(mesh.host(DEAD_LATER).kill9)
    await asyncio.sleep(mesh.grace + AFTER_SECONDS)
    early = [r.error for r in load.requests if since <= r.sent and r.finished < killed and not r.ok]
    findings.expect(not early, f"{len(early)} requests failed before the kill: {early[:3]}")
    _count(findings, load, killed, await _now(load))
    health = await stored(context)
    findings.figure("endpoints that are lost", sum(h == "lost" for h in health.values()))
    wanted = {host.name for host in mesh.topology.apis}
    findings.expect(
        set(health) == wanted, f"endpoints of {wanted - set(health)} were removed with no control plane there"
    )
    findings.expect("lost" not in health.values(), f"somebody was marked lost with no control plane there: {health}")
    await context.switch(SICK, ok=True)
    for node in mesh.planes:
        node.start()
    await asyncio.to_thread(mesh.host(DEAD_LATER).start)
    await context.settle()


def _count(findings: Findings, load: Load, killed: float, until: float) -> None:
    found = load.account(killed, until)
    findings.figure("requests after the kill: sent, failed", f"{found.sent}, {found.failed}")
    findings.figure("in flight at the kill and failed", found.in_flight_failed)
    findings.figure("p50, p99 after the kill", f"{found.p50_ms:g} ms, {found.p99_ms:g} ms")
    findings.expect(not found.failed, f"{found.failed} requests that were sent after the kill failed: {found.reasons}")
    findings.expect(found.sent > 0, "no load was sent")


def _whole(findings: Findings, load: Load) -> None:
    fresh = sum(r.fresh for r in load.requests)
    findings.figure("requests in all, on a connection of their own", f"{len(load.requests)}, {fresh}")
    findings.figure("requests that could not start in time", len(load.late))


async def _now(load: Load) -> float:
    """Now, once everything that was sent before it has ended."""
    now = asyncio.get_running_loop().time()
    await load.settled(now)
    return now


async def _health(context: Context, wanted: Callable[[Health], bool], what: str) -> None:
    async def objection() -> str:
        found = await stored(context)
        return "" if wanted(found) else str(found)

    deadline = asyncio.get_running_loop().time() + context.mesh.grace + 20
    while reason := await objection():
        if asyncio.get_running_loop().time() > deadline:
            raise DemoError(f"{what}: not in time: {reason}")
        await asyncio.sleep(POLL_SECONDS)


async def stored(context: Context) -> Health:
    """Health of api's endpoints as the store has it, so as every proxy will see it; needs no control plane."""
    store = context.store
    listing = await store.list(keys.endpoints_of(ServiceRef(top.NAMESPACE, "api")))
    found = [codec.decode("Endpoint", item.value) for item in listing.items]
    return {e.spec.node: e.spec.health for e in found if isinstance(e, Endpoint)}
