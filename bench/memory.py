"""Resident memory and processor time of each process of the mesh: idle, with 1,000 Services known, and with all called.

Memory is `Rss`, which counts what is shared with other processes (libraries) in full; `own` leaves that out.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from agent import admin
from bench.proc import cpu_seconds, memory
from bench.progress import Say
from bench.propagation import groups, redefine, whole_mesh
from bench.stats import Figure
from controlplane.cli.client import Api
from controlplane.demo import topology as top
from controlplane.demo.machine import Machine
from controlplane.demo.mesh import Mesh

SERVICES, CHUNK = 1000, 250
IDLE_SECONDS, SETTLE_SECONDS = 20.0, 10.0
PATIENCE = 120.0
FIRST_PORT = 20_000
MB = 1e6
GOAL = "≤ 60 MB"


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    seconds, settle = (3.0, 1.0) if quick else (IDLE_SECONDS, SETTLE_SECONDS)
    count = 50 if quick else SERVICES
    async with whole_mesh(say) as mesh:
        figures: list[Figure] = []
        await asyncio.sleep(settle)  # what a start leaves behind is over
        say(f"idle, {seconds:g} s")
        figures += await watched(groups(mesh), "idle", seconds, goal=GOAL)
        async with Api(mesh.connection, timeout=60) as api:
            say(f"{count:,} more Services")
            revision = await apply(api, count)
        await until_applied(mesh.host("web-1"), revision)
        await asyncio.sleep(settle)
        figures += await watched(one_host(mesh), f"{count:,} Services known", seconds)
        say(f"web calls all {count:,}")
        started = time.monotonic()
        await call_all(mesh, count)
        await until_listening(mesh.host("web-1"), count)
        took = time.monotonic() - started
        await asyncio.sleep(settle)
        figures += await watched(one_host(mesh), f"{count:,} Services called", seconds)
        figures.append(
            Figure(f"memory: {count:,} upstreams defined -> served by web's Envoy", "s", 1, {"seconds": took})
        )
    return figures


# --- what is measured ---


@dataclass(frozen=True, slots=True)
class Used:
    rss: float
    own: float
    cpu: float
    """Share of one core."""


def one_host(mesh: Mesh) -> dict[str, list[int]]:
    web = mesh.host("web-1")
    return {
        "agent of web": [web.agent.pid],
        "Envoy of web": web.envoys(),
        "control-plane node": [plane.process.pid for plane in mesh.planes],
    }


async def watched(processes: Mapping[str, list[int]], when: str, seconds: float, *, goal: str = "") -> list[Figure]:
    before = {pid: cpu_seconds(pid) for pids in processes.values() for pid in pids}
    started = time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - started
    figures = []
    for name, pids in processes.items():
        used = [look(pid, before[pid], passed) for pid in pids]
        figures.append(
            Figure(
                f"memory: {name}, {when}",
                "MB; % of a core",
                len(used),
                {
                    "rss": max(one.rss for one in used),
                    "own": max(one.own for one in used),
                    "lowest rss": min(one.rss for one in used),
                    "cpu %": 100 * sum(one.cpu for one in used) / len(used),
                },
                goal=goal if name.startswith("agent") and "Envoy" not in name else "",
                notes=f"the largest of {len(used)}; processor time is their mean over {passed:.0f} s",
            )
        )
    return figures


def look(pid: int, before: float, passed: float) -> Used:
    now = memory(pid)
    return Used(now["rss"] / MB, now["own"] / MB, (cpu_seconds(pid) - before) / passed)


# --- what is done to the mesh ---


def name_of(number: int) -> str:
    return f"s-{number}"


async def apply(api: Api, count: int) -> int:
    """Services, each with one endpoint: on api-1. Returns the last revision."""
    revision = 0
    for start in range(0, count, CHUNK):
        objects = [
            {
                "apiVersion": "holdfast.dev/v1",
                "kind": "Service",
                "metadata": {"name": name_of(number), "namespace": top.NAMESPACE},
                "spec": {
                    "ports": [{"port": 80, "name": "http", "protocol": "http", "targetPort": "http"}],
                    "serviceAccounts": ["api"],
                    "selector": {"copy": "api-1"},
                },
            }
            for number in range(start, min(start + CHUNK, count))
        ]
        answer = await api.call("POST", "/v1/apply", body={"objects": objects, "delete": [], "dryRun": False})
        revision = int(answer["revision"])
    return revision


async def call_all(mesh: Mesh, count: int) -> None:
    """api-1 becomes an endpoint of all of them, and web's host calls them all."""
    await redefine(mesh.host("api-1"), "api", labels={"app": "api", "copy": "api-1"})
    web = mesh.topology.host("web-1")
    more = [{"service": name_of(n), "port": 80, "listen": f"{web.address}:{FIRST_PORT + n}"} for n in range(count)]
    definition = top.service_definition(web)
    await redefine(mesh.host("web-1"), "web", upstreams=[*definition["upstreams"], *more])


async def until_applied(machine: Machine, revision: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await admin.ask(machine.run / "agent.sock", "status"))["applied"] < revision:
            await asyncio.sleep(0.1)


async def until_listening(machine: Machine, count: int) -> None:
    """Until its Envoy has a listener for each, and load assignments."""
    async with asyncio.timeout(PATIENCE):
        while True:
            held = (await admin.ask(machine.run / "agent.sock", "status"))["resources"]
            if held.get("lds", 0) >= count and held.get("eds", 0) >= count:
                return
            await asyncio.sleep(0.1)
