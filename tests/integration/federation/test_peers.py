"""Two clusters of real processes: what travels, how fast, and what stays when links and nodes go."""

import asyncio
import statistics
import time
from contextlib import asynccontextmanager

import msgspec
import pytest

from controlplane.backup import dump, restore
from mesh import keys
from mesh.model import Revision
from mesh.store.protocol import Range
from tests.integration.federation.pair import anew, names_of, offered, pair, peer
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import service

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Runs what is given the two, in one loop. For all tests that stop no node."""
    with asyncio.Runner() as runner:
        context = pair(tmp_path_factory.mktemp("pair"))
        west, east = runner.run(context.__aenter__())
        try:
            runner.run(peer(east, west))
            yield lambda scenario: runner.run(scenario(west, east))
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture
def run(peers):
    """Runs a scenario of west and east, who are peers and offer each other nothing yet."""
    peers(anew)
    return peers


class Arrivals:
    """The moments at which changes of a range are in a store, as a watch of it tells them."""

    def __init__(self, store, prefix):
        self._store, self._prefix, self.moments = store, prefix, []

    @asynccontextmanager
    async def watching(self):
        start = Revision(await self._store.revision() + 1)
        watch = self._store.watch([Range(self._prefix, start)])

        async def read():
            async for batch in watch:
                if batch.events:
                    self.moments.append(time.monotonic())

        task = asyncio.create_task(read())
        try:
            yield self
        finally:
            task.cancel()
            await watch.aclose()

    async def count(self, number):
        await aeventually(lambda: len(self.moments) >= number, timeout=10, what=f"{number} changes")


HOSTS = [f"h{n}" for n in range(8)]


async def travel(west, east, changes, made=0):
    """Seconds from one store to the other, for each of so many changes of an endpoint."""
    mine = Arrivals(east.store, keys.ENDPOINTS + "shop/api/")
    theirs = Arrivals(west.store, keys.imports_of("east") + "endpoints/shop/api/")
    async with mine.watching(), theirs.watching():
        for number in range(1, changes + 1):
            # In turn, since one host may not register that often.
            turn, host = divmod(made + number, len(HOSTS))
            await east.register(HOSTS[host], ("api", "shop", ("unhealthy", "healthy")[turn % 2]))
            await mine.count(number)
            await theirs.count(number)
    return [there - here for here, there in zip(mine.moments, theirs.moments, strict=True)]


def told(name, seconds):
    cuts = statistics.quantiles(seconds, n=100)
    print(f"\n{name}: p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, max {max(seconds) * 1000:.1f} ms")
    return cuts[98]


def test_a_change_is_in_the_other_store_within_a_round_trip_and_a_little(run):
    async def scenario(west, east):
        await offered(east, west, "api")
        for number, host in enumerate(HOSTS):
            await east.host(host, f"10.0.1.{number}", "shop/api")
            await east.register(host, ("api", "shop", ("unhealthy", "healthy")[host != HOSTS[0]]))
        near = told("endpoint change, store to store, 200 changes", await travel(west, east, 200))
        for relay in (*west.relays.values(), *east.relays.values()):
            relay.delay = 0.15
        far = told("the same with a round trip of 300 ms, 30 changes", await travel(west, east, 30, 200))
        # The goal is the round trip and 50 ms, on a machine of its own. What fails here is a wait of our making.
        assert near < 0.5
        assert far < 0.3 + 0.5

    run(scenario)


def test_a_link_that_is_cut_takes_nothing_away_and_resumes_by_difference(run):
    many = ["api", *(f"s{n}" for n in range(300))]

    async def scenario(west, east):
        await offered(east, west, *many)
        wire = east.relays["cp1"]
        before = await west.imported("east")
        all_of_it = sum(len(value) for value, _ in before.values())
        wire.cut()
        west.relays["cp1"].cut()
        await west.becomes("east", "lost")
        await east.becomes("west", "lost")
        body = await west.state("east")
        assert body["imported"] == len(many)
        assert "holdfast_controlplane_peer_connected" in await metrics(west)
        await east.apply(service("later"), service("s7", ports=[{"port": 81}]), delete=[removal("s8")])
        assert await west.imported("east") == before
        sent, got = wire.to, wire.back
        wire.mend()
        west.relays["cp1"].mend()
        await west.becomes("east", "connected")
        await west.holds("east", [*names_of(*(n for n in many if n != "s8")), *names_of("later")])
        resumed = wire.back - got
        print(f"\nimported: {all_of_it} bytes; the resume: {resumed} bytes back, {wire.to - sent} there")
        assert resumed < all_of_it / 4
        after = await west.imported("east")
        kept = {key for key in before if after.get(key) == before[key]}
        # Only what changed was written: s7 anew, s8 gone (its endpoint too).
        assert len(before) - len(kept) <= 4

    run(scenario)


async def metrics(west):
    async with west.fleet.request(west.alive(), "GET", "/metrics") as answer:
        return await answer.text()


def removal(name):
    return {"kind": "Service", "namespace": "shop", "name": name}


@pytest.mark.parametrize("direction", ["lose_to", "lose_back"])
def test_a_link_that_loses_one_direction_is_noticed_and_mended(run, direction):
    async def scenario(west, east):
        await offered(east, west, "api")
        before = await west.imported("east")
        wire = east.relays["cp1"]
        setattr(wire, direction, True)
        await west.becomes("east", "lost", timeout=40)
        assert await west.imported("east") == before
        await east.apply(service("later"))
        wire.mend()
        # The other direction's session was never touched.
        await west.becomes("east", "connected", timeout=60)
        await west.holds("east", names_of("api", "later"))

    run(scenario)


def test_the_leader_is_killed_and_then_every_node_of_one_side_is_another(tmp_path):
    async def run():
        async with pair(tmp_path, west=("cp1", "cp2"), east=("cp1", "cp2")) as (west, east):
            await west.fleet.start("cp2")
            await east.offer()
            await peer(east, west)
            await west.holds("east", names_of("api"))
            before = await west.imported("east")
            leader = await west.fleet.leader("cp1")
            west.fleet.processes[leader].kill9()
            await east.apply(service("later"))
            began = time.monotonic()
            await west.holds("east", names_of("api", "later"))
            print(f"\nafter the leader was killed the next change came after {time.monotonic() - began:.1f} s")
            after = await west.imported("east")
            assert {key: after[key] for key in before} == before  # not written again
            # east's only node goes, and another one, at another address, takes its place.
            await east.fleet.start("cp2")
            east.fleet.processes["cp1"].kill9()
            await east.apply(service("last"))
            await west.holds("east", names_of("api", "later", "last"), timeout=60)
            await west.becomes("east", "connected")
            await east.becomes("west", "connected", timeout=60)
            after = await west.imported("east")
            assert {key: after[key] for key in before} == before

    asyncio.run(run())


def test_a_peer_restored_from_an_old_backup_is_taken_at_its_word(run):
    async def scenario(west, east):
        await offered(east, west, "api", "old")
        saved = list(await dump(east.store, cluster="east", trust_domain="east.test", now=time.time()))
        await east.apply(service("new"), delete=[removal("old")])
        await west.holds("east", names_of("api", "new"))
        before = await west.imported("east")
        await restore(east.store, saved, overwrite=True, author="test", new_epoch="another", now=time.time())
        await west.holds("east", names_of("api", "old"), timeout=60)
        after = await west.imported("east")
        same = [key for key in names_of("api") if after[key] == before[key]]
        assert len(same) == 2
        await west.becomes("east", "connected", timeout=60)

    run(scenario)


def test_both_sides_part_and_are_peered_again(run):
    async def scenario(west, east):
        await offered(east, west, "api")
        east.relays["cp1"].cut()  # east does not hear of it
        await west.apply(delete=[{"kind": "Peering", "name": "east"}])
        await west.holds("east", [])
        east.relays["cp1"].mend()
        await east.becomes("west", "refused")
        assert "delete it here as well" in (await east.state("west"))["reason"]
        await east.apply(delete=[{"kind": "Peering", "name": "west"}])

        async def gone():
            return {i.key for i in (await east.store.list(keys.BUNDLES)).items} == {keys.BUNDLES + "east.test"}

        await aeventually(gone, timeout=20, what="west's bundle is gone")
        await peer(west, east)
        await west.holds("east", names_of("api"))

    run(scenario)


async def remove_after(west, limit=""):
    """How long what east offers stays once it is lost; empty: for good."""
    _, found = await west.call("GET", "/v1/objects/peerings/east")
    found.pop("status", None)
    found["spec"].pop("removeAfter", None)
    found["spec"] |= {"removeAfter": limit} if limit else {}
    status, told = await west.call("PUT", "/v1/objects/peerings/east", found)
    assert status == 200, told


def test_what_a_lost_peer_left_is_removed_only_if_its_peering_says_so(run):
    async def scenario(west, east):
        await offered(east, west, "api")
        east.relays["cp1"].cut()
        await west.becomes("east", "lost")
        await remove_after(west, "1s")
        await west.holds("east", [], timeout=60)
        await remove_after(west)
        east.relays["cp1"].mend()
        await west.holds("east", names_of("api"), timeout=60)
        assert msgspec.json.decode((await west.store.get(keys.total_of("east"))).value)["total"] >= 2

    run(scenario)
