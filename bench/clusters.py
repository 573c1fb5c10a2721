"""Two whole clusters of `holdfast demo`, peered: how soon a change of one is in force in the other, and how soon calls
fail over and return.

change    an instance of api in east turns unhealthy, or healthy again, in east's store; until web's agent in west says
          that its Envoy has it in force. Between the two control planes is a wire of our own, which has the round trip
failover  both instances of api in west die under load; until the first answer from east, through gateways of both
return    they come back; until the first answer here, and until no answer comes from there any more
"""

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.proc import as_installed
from bench.progress import Say, Stages
from bench.propagation import API, PATIENCE, Agent, Arrivals, in_force, timed, transitions
from bench.stats import Figure, latency, spread
from controlplane.demo.check.clusters.context import Loads, Scene, answered_by, failed, now, scene
from controlplane.demo.check.clusters.failover import LOCAL
from controlplane.demo.check.clusters.peered import known
from controlplane.demo.clusters import Clusters
from controlplane.demo.machine import Machine
from controlplane.demo.process import free_port
from controlplane.demo.topology import API_PORT
from mesh import keys
from mesh.store.etcd import EtcdStore
from tests.support.relay import Relay

WEST, EAST = "west", "east"
CHANGES, WARM_UP = 300, 20
ROUND_TRIPS = (0.0, 0.3)
"""Seconds, of the wire between the control planes."""
REPEATS = 12
RATE = 50.0
"""Requests a second, of each protocol."""
AFTER_SECONDS, BACK_SECONDS = 3.0, 60.0
"""How long after a death requests are counted, and how long a return may take."""


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    changes, repeats = (20, 2) if quick else (CHANGES, REPEATS)
    as_installed()
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as folder:
        async with Clusters(Path(folder), Stages(say), 2) as clusters, scene(clusters) as found, wire(found) as relay:
            await peered(found, say)
            figures: list[Figure] = []
            for round_trip in ROUND_TRIPS:
                relay.delay = round_trip / 2
                say(f"clusters: {changes} changes in east, one after the other, {round_trip * 1000:.0f} ms round trip")
                figures += await changes_travel(found, changes, round_trip)
            relay.delay = 0.0
            await through_gateways(found)
            for how in (HOSTS, APPLICATIONS):
                figures += await failovers(found, say, how, repeats)
            return figures


@contextlib.asynccontextmanager
async def wire(found: Scene) -> AsyncIterator[Relay]:
    """East's control plane is reached over it by other clusters, and by nobody else."""
    (node,) = found.clusters[EAST].planes
    relay = Relay(free_port(), lambda: (node.plane.address, API_PORT))
    await relay.start()
    try:
        node.settings["peerAddresses"] = [f"https://127.0.0.1:{relay.port}"]
        node.write()
        await asyncio.to_thread(node.stop)
        node.start()
        await asyncio.to_thread(node.wait)
        yield relay
    finally:
        await relay.close()


async def peered(found: Scene, say: Say) -> None:
    say("clusters: peered with a token of east's")
    made = await found.apis[EAST].call("POST", "/v1/peering/tokens", body={})
    await found.apis[WEST].call("POST", "/v1/peering/accept", body={"token": made["token"]})
    for name in (WEST, EAST):
        await found.clusters.until(partial(known, found, name), f"{name} knows the other's api")
    await found.settle()


async def through_gateways(found: Scene) -> None:
    """From here on what leaves west for east leaves through gateways of west."""
    api = found.apis[WEST]
    peering = await api.get(f"/v1/objects/peerings/{EAST}")
    peering["spec"]["through"] = "Gateway"
    await api.call("POST", "/v1/apply", body={"objects": [peering], "delete": [], "dryRun": False})
    await asyncio.sleep(1)
    await found.settle()


# --- a change of one cluster, in force in the other ---


async def changes_travel(found: Scene, count: int, round_trip: float) -> list[Figure]:
    there: EtcdStore = found.clusters[EAST].etcd.store()
    here: EtcdStore = found.clusters[WEST].etcd.store()
    web = found.clusters[WEST].host("web-1")
    told = Arrivals(there, keys.endpoints_of(API))
    imported = Arrivals(here, f"{keys.imports_of(EAST)}endpoints/")
    samples: list[Travelled] = []
    try:
        flips = await transitions(there, "api-1")
        async with asyncio.TaskGroup() as group, Agent(web) as waits, Agent(web) as asks:
            tasks = [group.create_task(one.run(await one.store.revision())) for one in (told, imported)]
            for one in (told, imported):
                await one.open.wait()
            for number in range(count + WARM_UP):
                await waits.ask("applied")
                # A question on another connection, answered: the first one has been read.
                await asks.ask("status")
                await asks.answer()
                began = time.perf_counter()
                async with asyncio.TaskGroup() as both:
                    answer = both.create_task(timed(in_force(waits)))
                    write = both.create_task(timed(there.txn((), flips[number % 2])))
                (body, applied), (revision, _) = answer.result(), write.result()
                written = await imported.of(body["appliedNewest"])
                samples.append(Travelled(began, await told.of(revision), written, applied))
            if (count + WARM_UP) % 2:
                await there.txn((), flips[1])
            for task in tasks:
                task.cancel()
    finally:
        await there.close()
        await here.close()
    return shown(samples[WARM_UP:], round_trip)


@dataclass(frozen=True, slots=True)
class Travelled:
    """Moments of one change."""

    began: float
    told: float
    """The exporter's store told it to a watch."""
    imported: float
    """The importer's store did."""
    applied: float


def shown(samples: list["Travelled"], round_trip: float) -> list[Figure]:
    trip = f"round trip {round_trip * 1000:.0f} ms"
    goal = f"p99 ≤ {round_trip * 1000 + 50:.0f}"
    notes = (
        "east's etcd and control plane, the wire, west's control plane and etcd, a gate, web's agent and its Envoy;"
        " all of both clusters on this machine"
    )
    return [
        latency(
            f"clusters: a change in east -> in force in a caller's Envoy in west, {trip}",
            [one.applied - one.began for one in samples],
            goal=goal,
            notes=notes,
        ),
        latency("  of it: put -> watched in east", [one.told - one.began for one in samples]),
        latency("  of it: store to store", [one.imported - one.told for one in samples]),
        latency("  of it: watched in west -> applied", [one.applied - one.imported for one in samples]),
    ]


# --- failover and return ---


@dataclass(frozen=True, slots=True)
class Death:
    """What ends, and how it is brought back."""

    what: str
    kill: Callable[[Machine], float]
    """The moment from which on it was dead."""


def kill_application(machine: Machine) -> float:
    assert machine.application
    machine.application.kill9()
    return time.monotonic()


HOSTS = Death("hosts (proxy and application at once)", Machine.kill9)
APPLICATIONS = Death("applications alone", kill_application)


@dataclass(slots=True)
class Outcomes:
    first: dict[str, list[float]] = field(default_factory=dict)
    """Protocol -> seconds until the first answer from elsewhere, of each repeat."""
    back: list[float] = field(default_factory=list)
    """Seconds from the start of what had died until the first answer here."""
    home: list[float] = field(default_factory=list)
    """Seconds from when both are healthy in the store until the last answer from elsewhere."""
    sent: int = 0
    lost: int = 0
    under_way: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def count(self, account: tuple[int, int, int, dict[str, int]]) -> None:
        self.sent, self.lost, self.under_way = (
            had + more for had, more in zip((self.sent, self.lost, self.under_way), account[:3], strict=True)
        )
        self.reasons.update(account[3])


async def failovers(found: Scene, say: Say, how: Death, repeats: int) -> list[Figure]:
    died, returned = Outcomes(), Outcomes()
    for number in range(repeats):
        say(f"clusters: {how.what} die, {number + 1} of {repeats}")
        async with found.loads(rate=RATE) as loads:
            await once(found, how, loads, died, returned)
    figures = [
        spread(
            f"clusters: {how.what} of api in west die -> first answer from east, {protocol}",
            "ms",
            [1000 * seconds for seconds in taken],
            notes=f"of {RATE:g} requests a second",
        )
        for protocol, taken in died.first.items()
    ]
    return [
        *figures,
        requests(f"  requests sent within {AFTER_SECONDS:g} s of a death", died),
        spread("  started again -> first answer here", "s", returned.back),
        spread("  both healthy in the store -> last answer from east", "s", returned.home),
        requests("  requests sent while they returned", returned),
    ]


def requests(what: str, seen: Outcomes) -> Figure:
    told = ", ".join(f"{n} times {reason}" for reason, n in seen.reasons.most_common(5))
    return Figure(
        what,
        "requests",
        seen.sent,
        {"failed": seen.lost, "under way before, and failed": seen.under_way},
        goal="0 failed",
        notes=told,
    )


async def once(found: Scene, how: Death, loads: Loads, died: Outcomes, returned: Outcomes) -> None:
    machines = [found.home.host(name) for name in LOCAL]
    moments = await asyncio.gather(*(asyncio.to_thread(how.kill, machine) for machine in machines))
    dead = max(moments)
    await until(lambda: all_elsewhere(found, loads, dead), PATIENCE)
    await asyncio.sleep(max(0.0, dead + AFTER_SECONDS - time.monotonic()))
    died.count(failed(loads, dead, await now(loads)))
    for protocol, load in loads.items():
        died.first.setdefault(protocol, []).append(ends(found, {protocol: load}, dead, here=False)[0] - dead)

    began = time.monotonic()
    for machine in machines:
        await asyncio.to_thread(machine.start)
    await found.settle()
    settled = time.monotonic()
    await until(lambda: all_here(found, loads), BACK_SECONDS)
    returned.count(failed(loads, began, await now(loads)))
    returned.back.append(ends(found, loads, began, here=True)[0] - began)
    last = ends(found, loads, began, here=False)
    returned.home.append(max(0.0, last[-1] - settled) if last else 0.0)


def ends(found: Scene, loads: Loads, since: float, *, here: bool) -> list[float]:
    """When answers ended that came from here, or from elsewhere; in order."""
    return sorted(
        request.finished
        for load in loads.values()
        for request in load.requests
        if request.ok and request.finished >= since and request.instance.endswith(f".{found.here}") == here
    )


async def all_elsewhere(found: Scene, loads: Loads, since: float) -> bool:
    return all(ends(found, {name: load}, since, here=False) for name, load in loads.items())


async def all_here(found: Scene, loads: Loads) -> bool:
    """Was a whole second's answered here?"""
    since = time.monotonic()
    await asyncio.sleep(1)
    return set(answered_by(loads, since, await now(loads))) == {found.here}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)
