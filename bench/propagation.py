"""How soon a change is in force, with real processes: the whole mesh of `holdfast demo`.

put -> applied          a health transition is put into etcd, as the control plane would write it; until `web`'s agent
                        says that its Envoy has it in force
apply -> first answer   an operator lets a Service select another instance; until a client on a kept connection through
                        `web`'s Envoy gets its first answer from that instance
"""

import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import yaml

from agent import admin
from bench.proc import as_installed, cpu_seconds
from bench.progress import Say, Stages
from bench.stats import Figure, latency
from controlplane.cli.client import Api
from controlplane.demo import topology as top
from controlplane.demo.check import http1
from controlplane.demo.machine import Machine
from controlplane.demo.mesh import Mesh
from mesh import codec, keys
from mesh.model import Revision, ServiceRef
from mesh.store.etcd import EtcdStore
from mesh.store.protocol import Put, Range

PUTS, MOVES, WARM_UP = 600, 500, 20
NO_PAUSE, PAUSE = (0.0, 0.0), (0.005, 0.03)
"""Seconds between two changes: none, or at random, so that they meet no rhythm and processors may fall asleep."""
PATIENCE = 10.0
TMPFS = Path("/dev/shm")
ALONE = "one after the other, etcd alone on the disk"
"""As on hosts of their own: what agents write down of the same change does not wait in the same queue as etcd's log."""
IN_MEMORY = "one after the other, no disk: all files of the mesh in memory"
"""Not how a mesh is run: it tells what share of the time is the disk's, since here writing and fsync cost nothing."""
API = ServiceRef(top.NAMESPACE, "api")
MOVING, MOVING_PORT = "moving", 9009


@contextlib.asynccontextmanager
async def whole_mesh(say: Say, *, within: Path | None = None, etcd_apart: bool = False) -> AsyncIterator[Mesh]:
    """The demo, in a folder that goes with it; `within` another than that for temporary files, where etcd may stay."""
    as_installed()
    # Short: unix sockets lie deep in it, and their paths have 107 bytes at most.
    with (
        tempfile.TemporaryDirectory(prefix="hf-", dir=within, ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryDirectory(prefix="hf-etcd-", ignore_cleanup_errors=True) as apart,
    ):
        if etcd_apart:
            (Path(folder) / "etcd").symlink_to(apart)
        async with Mesh(Path(folder), Stages(say)) as mesh:
            yield mesh


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    puts, figures = 40 if quick else PUTS, []
    async with whole_mesh(say) as mesh:
        for how, pause in (("one after the other", NO_PAUSE), ("after random pauses", PAUSE)):
            figures += await put_to_applied(mesh, say, puts, how, pause)
        figures += await apply_to_answer(mesh, say, 30 if quick else MOVES)
    for how in (ALONE, IN_MEMORY) if TMPFS.is_dir() else ():
        async with whole_mesh(say, within=TMPFS, etcd_apart=how == ALONE) as mesh:
            figures += await put_to_applied(mesh, say, puts, how, NO_PAUSE)
    return figures


def groups(mesh: Mesh) -> dict[str, list[int]]:
    """What runs -> its processes."""
    hosts = [*mesh.hosts.values(), *mesh.gates.values()]
    return {
        "agent": [host.agent.pid for host in hosts],
        "agent's Envoy": [pid for host in mesh.hosts.values() for pid in host.envoys()],
        "gate's Envoy": [pid for host in mesh.gates.values() for pid in host.envoys()],
        "Envoy's launcher": [pid for host in hosts if (pid := host.launcher())],
        "control-plane node": [plane.process.pid for plane in mesh.planes],
        "etcd member": [process.pid for process in mesh.etcd.members],
    }


# --- put -> applied ---


class Agent:
    """One agent's admin socket, on a connection that is kept."""

    def __init__(self, machine: Machine) -> None:
        self._path = machine.run / "agent.sock"

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=admin.MAX_ANSWER_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, what: str) -> None:
        self._writer.write(json.dumps({"do": what}).encode() + b"\n")
        await self._writer.drain()

    async def answer(self) -> Any:
        said = msgspec.json.decode(await self._reader.readline())
        if error := said.get("error"):
            raise RuntimeError(f"the agent says: {error}")
        return said["body"]


async def put_to_applied(mesh: Mesh, say: Say, count: int, how: str, pause: tuple[float, float]) -> list[Figure]:
    store, rng = mesh.etcd.store(), random.Random(1)
    taken: list[float] = []
    puts: list[float] = []
    seen: list[float] = []
    before = busy(mesh)
    try:
        flips = await transitions(store, "api-1")
        arrivals = Arrivals(store, keys.endpoints_of(API))
        async with asyncio.TaskGroup() as group, Agent(mesh.host("web-1")) as waits, Agent(mesh.host("web-1")) as asks:
            watching = group.create_task(arrivals.run(await store.revision()))
            await arrivals.open.wait()
            for number in range(count + WARM_UP):
                if number == WARM_UP:
                    say(f"put -> applied: {count} changes, {how}")
                    before = busy(mesh)
                await waits.ask("applied")
                # A question on another connection, answered: the first one has been read.
                await asks.ask("status")
                await asks.answer()
                started = time.perf_counter()
                async with asyncio.TaskGroup() as both:
                    answer = both.create_task(timed(in_force(waits)))
                    write = both.create_task(timed(store.txn((), flips[number % 2])))
                (body, applied), (revision, written) = answer.result(), write.result()
                if body["appliedNewest"] != revision:
                    raise RuntimeError(f"revision {revision} was put, and {body['appliedNewest']} came into force")
                if number >= WARM_UP:
                    taken.append(applied - started)
                    puts.append(written - started)
                    seen.append(await arrivals.of(revision) - started)
                await asyncio.sleep(rng.uniform(*pause))
            spent = {name: (used - before[name]) / count * 1e3 for name, used in busy(mesh).items()}
            await store.txn((), flips[1])
            watching.cancel()
    finally:
        await store.close()
    return [
        latency(
            f"put -> applied, {how}",
            taken,
            goal="" if how == IN_MEMORY else "p50 ≤ 8, p99 ≤ 25",
            notes="through etcd, a gate, web's agent and its Envoy; two control-plane nodes and another agent take the"
            " same change meanwhile. `watched`: by a watch of the client's at etcd itself",
        ),
        latency("  of it: put, until etcd has answered", puts),
        latency("  of it: put -> watched", seen),
        latency("  after it: watched -> applied", [a - b for a, b in zip(taken, seen, strict=True)]),
        Figure(
            "  meanwhile: processor time of one change, all processes of a kind together",
            "ms",
            count,
            spent,
            notes="on all processors; the client's own is not in it",
        ),
    ]


def busy(mesh: Mesh) -> dict[str, float]:
    """Seconds of processor time so far, of all processes of a kind."""
    return {name: sum(map(cpu_seconds, pids)) for name, pids in groups(mesh).items()}


async def transitions(store: EtcdStore, node: str) -> tuple[list[Put], list[Put]]:
    """An instance turns unhealthy, and healthy again: its record and its endpoint in one transaction."""
    items = [
        *(await store.list(keys.prefix_for("Instance", top.NAMESPACE))).items,
        *(await store.list(keys.endpoints_of(API))).items,
    ]
    flips: tuple[list[Put], list[Put]] = ([], [])
    for item in items:
        kind = "Instance" if item.key.startswith(keys.prefix_for("Instance")) else "Endpoint"
        found: Any = codec.decode(kind, item.value)
        if found.spec.node == node:
            for flip, health in zip(flips, ("unhealthy", "healthy"), strict=True):
                turned = msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, health=health))
                flip.append(Put(item.key, codec.encode(turned)))
    if len(flips[0]) != 2:
        raise RuntimeError(f"{node} has {len(flips[0])} records instead of an instance and its endpoint")
    return flips


async def in_force(agent: Agent) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await agent.answer()


async def timed(work: Any) -> tuple[Any, float]:
    done = await work
    return done, time.perf_counter()


@dataclass(slots=True)
class Arrivals:
    """When each revision of a range came over a watch of ours."""

    store: EtcdStore
    prefix: str
    open: asyncio.Event = field(default_factory=asyncio.Event)
    _at: dict[Revision, float] = field(default_factory=dict)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, revision: Revision) -> None:
        async for batch in self.store.watch([Range(self.prefix, Revision(revision + 1))]):
            self.open.set()
            if batch.events:
                self._at[batch.revision] = time.perf_counter()
                self._more.set()

    async def of(self, revision: Revision) -> float:
        async with asyncio.timeout(PATIENCE):
            while revision not in self._at:
                self._more.clear()
                await self._more.wait()
        return self._at[revision]


# --- apply -> first answer ---


async def apply_to_answer(mesh: Mesh, say: Say, count: int) -> list[Figure]:
    await prepare(mesh)
    apis, rng = [host.name for host in mesh.topology.apis], random.Random(2)
    web = mesh.topology.host("web-1")
    taken: list[float] = []
    applies: list[float] = []
    async with Api(mesh.connection) as api:
        await moved(api, apis[0])
        probe = Probe(web.address, MOVING_PORT)
        async with asyncio.TaskGroup() as group:
            probing = group.create_task(probe.run())
            await probe.answered_by(apis[0])
            for number in range(count + WARM_UP):
                if number == WARM_UP:
                    say(f"apply -> first answer: {count} changes")
                    probe.others.clear()
                target = apis[(number + 1) % len(apis)]
                started = time.perf_counter()
                async with asyncio.TaskGroup() as both:
                    answer = both.create_task(probe.answered_by(target))
                    apply = both.create_task(timed(moved(api, target)))
                if number >= WARM_UP:
                    taken.append(answer.result() - started)
                    applies.append(apply.result()[1] - started)
                await asyncio.sleep(rng.uniform(*PAUSE))
            probing.cancel()
    total = sum(probe.others.values())
    told = ", ".join(f"{n} times {what!r}" for what, n in sorted(probe.others.items())) or "none"
    return [
        latency(
            "API apply -> first request answered by the new endpoint",
            taken,
            notes="a Service's selector moves from one instance to another; meanwhile one client on a kept connection"
            f" asks without rest; answers other than 200 among its requests: {total} ({told})",
        ),
        latency("  of it: apply, until the API has answered", applies),
    ]


async def prepare(mesh: Mesh) -> None:
    """Instances with a label of their own, and a Service that takes one of them at a time, called by web."""
    for host in mesh.topology.apis:
        await redefine(mesh.host(host.name), "api", labels={"app": "api", "copy": host.name})
    web = mesh.topology.host("web-1")
    definition = top.service_definition(web)
    listen = f"{web.address}:{MOVING_PORT}"
    upstreams = [*definition["upstreams"], {"service": MOVING, "port": 80, "listen": listen}]
    await redefine(mesh.host("web-1"), "web", upstreams=upstreams)


async def redefine(machine: Machine, service: str, **changed: object) -> None:
    path = machine.home / "services.d" / f"{service}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changed}, sort_keys=False))
    answer = await admin.ask(machine.run / "agent.sock", "reload")
    if answer["problems"]:
        raise RuntimeError(f"{machine.name}: {answer['problems']}")


async def moved(api: Api, instance: str) -> Any:
    spec = {
        "ports": [{"port": 80, "name": "http", "protocol": "http", "targetPort": "http"}],
        "serviceAccounts": ["api"],
        "selector": {"copy": instance},
    }
    service = {
        "apiVersion": "holdfast.dev/v1",
        "kind": "Service",
        "metadata": {"name": MOVING, "namespace": top.NAMESPACE},
        "spec": spec,
    }
    objects = [service, top.allow(f"web-to-{MOVING}", MOVING, "web")]
    return await api.call("POST", "/v1/apply", body={"objects": objects, "delete": [], "dryRun": False})


class Probe:
    """A client that asks again as soon as it has its answer, on one connection."""

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        self._instance, self._since = "", 0.0
        self._changed = asyncio.Event()
        self.others: dict[str, int] = {}
        """Answers that were not 200, and how many."""

    async def run(self) -> None:
        connection: http1.Connection | None = None
        while True:
            try:
                connection = connection or await http1.connect(self._address, self._port)
                answer = await connection.get("moving", "/")
            except (OSError, http1.BadAnswerError) as exc:
                self._count(type(exc).__name__)
                connection = None
                await asyncio.sleep(0.01)
                continue
            now = time.perf_counter()
            if answer.status != 200:
                self._count(f"{answer.status} {answer.body[:60].decode(errors='replace')}")
                await asyncio.sleep(0.001)
            elif (instance := json.loads(answer.body)["instance"]) != self._instance:
                self._instance, self._since = instance, now
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()

    def _count(self, what: str) -> None:
        self.others[what] = self.others.get(what, 0) + 1

    async def answered_by(self, instance: str) -> float:
        """When its first answer was there."""
        async with asyncio.timeout(PATIENCE):
            while self._instance != instance:
                await self._changed.wait()
        return self._since
