"""What becomes of traffic and of what proxies hold when the link between two clusters, or one end of it, fails.

Whatever happens between clusters takes no local endpoint from any proxy, and its weight neither; what was known of the
other cluster stays; requests go on, those from one cluster to the other, too; and what changed meanwhile is sent, and
nothing else. What takes minutes is in tests/chaos.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest

from controlplane.backup import dump, restore
from controlplane.demo import sites
from tests.integration.compile.hosts import Background
from tests.integration.federation.linked import EAST, MANY, OTHER, WEST, Linked, rig, spare
from tests.support.waiting import aeventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
Rig = tuple[Linked, Background]
__all__ = ["rig"]

NEXT = iter(range(82, 10_000))
"""Ports of the many, so that each change is one."""


def run(found: Rig, scenario: Coroutine[Any, Any, None], seconds: float = 300) -> None:
    found[1].submit(scenario).result(seconds)


async def change(rig: Linked, cluster: str, numbers: Iterable[int]) -> int:
    """Other ports for so many of the services that it exports; nobody calls them."""
    port = next(NEXT)
    await rig.apply(cluster, *(spare(number, port) for number in numbers))
    return port


async def cut(rig: Linked, seconds: float, changed: int, *, silent: bool = False) -> int:
    """Cut the wires for so long, with changes in east meanwhile; the bytes of the resume."""
    async with rig.unharmed() as seen:
        before = await rig.imported(WEST)
        began = time.monotonic()
        rig.cut(silent=silent)
        await rig.become("lost")
        port = await change(rig, EAST, range(changed))
        await asyncio.sleep(began + seconds - time.monotonic())
        assert await rig.imported(WEST) == before
        sent = rig.passed()
        mended = time.monotonic()
        rig.mend()
        await rig.arrives(WEST, changed - 1, port)
        took = time.monotonic() - mended
        await rig.become("connected")
        after = await rig.imported(WEST)
        resumed = rig.passed() - sent
    assert len({key for key in {*before, *after} if before.get(key) != after.get(key)}) == changed
    # What crosses is called by nobody but the gateways, which pass it on: and they hold what changed, no more.
    assert all(f".s{n}." not in one.assignment for one in seen for n in range(changed, MANY))
    print(f"cut for {seconds:g} s, {changed} services changed: known {took:.1f} s after, resumed with {resumed} bytes")
    return resumed


def test_a_cut_of_a_second_resumes_by_what_changed(rig: Rig):
    async def scenario() -> None:
        found = rig[0]
        few = await cut(found, 1, 1)
        more = await cut(found, 1, 40)
        print(f"first sessions: {found.first} bytes; one change: {few}, 40 changes: {more}")
        # Both ends dial, and each handshake has its certificates, whatever changed.
        assert few < found.first / 4
        assert few < more < found.first

    run(rig, scenario())


@pytest.mark.parametrize("direction", ["lose_to", "lose_back"])
def test_a_wire_that_loses_one_direction(rig: Rig, direction: str):
    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed():
            before = await found.imported(WEST)
            for wire in found.relays[EAST].values():
                setattr(wire, direction, True)
            await found.become("lost", clusters=[WEST])
            assert await found.imported(WEST) == before
            port = await change(found, EAST, [3])
            found.mend()
            await found.become("connected")
            await found.arrives(WEST, 3, port)

    run(rig, scenario())


def test_a_round_trip_of_300_ms(rig: Rig):
    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed():
            try:
                for wire in found.wires:
                    wire.delay = 0.15
                for _ in range(5):
                    began = time.monotonic()
                    await found.arrives(WEST, 5, await change(found, EAST, [5]))
                    print(f"applied there and known here after {(time.monotonic() - began) * 1000:.0f} ms")
                await found.become("connected")
            finally:
                found.mend()

    run(rig, scenario())


def test_a_peer_that_is_restored_from_an_old_backup(rig: Rig):
    async def scenario() -> None:
        found = rig[0]
        store = found.scene.stores[EAST]
        domain = sites.trust_domain(EAST)
        async with found.unharmed():
            old = await change(found, EAST, [7])
            await found.arrives(WEST, 7, old)
            saved = list(await dump(store, cluster=EAST, trust_domain=domain, now=time.time()))
            await found.arrives(WEST, 7, await change(found, EAST, [7]))
            await restore(store, saved, overwrite=True, author="test", new_epoch=f"after-{old}", now=time.time())
            await found.arrives(WEST, 7, old)
            await found.settle()

    run(rig, scenario())


def test_both_sides_part_and_are_peered_again(rig: Rig):
    """What a peering brought goes with it, by word: no call crosses until there is another."""

    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed(far=False):
            for cluster, other in OTHER.items():
                await found.clusters.holdfast(cluster, "peering", "delete", other)

                async def gone(cluster: str = cluster) -> bool:
                    return not await found.imported(cluster)

                await aeventually(gone, timeout=60, what=f"{cluster} holds nothing of its peer")
            await found.peer()
        await found.calls_cross()

    run(rig, scenario())


@pytest.mark.parametrize("cluster", [WEST, EAST])
def test_a_leader_is_killed(rig: Rig, cluster: str):
    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed():
            before = await found.imported(OTHER[cluster])
            leader = await found.leader(cluster)
            began = time.monotonic()
            leader.process.kill9()
            try:
                port = await change(found, cluster, [9])
                await found.arrives(OTHER[cluster], 9, port)
                print(f"the next change of {cluster} was known {time.monotonic() - began:.1f} s after")
                await found.arrives(cluster, 9, await change(found, OTHER[cluster], [9]))
                print(f"and the other way after {time.monotonic() - began:.1f} s")
            finally:
                leader.start()
                await asyncio.to_thread(leader.wait)
            await found.settle()
            after = await found.imported(OTHER[cluster])
            assert len({key for key in before if after.get(key) != before[key]}) == 1

    run(rig, scenario())


async def changes_go_both_ways(rig: Linked) -> None:
    for cluster, other in OTHER.items():
        await rig.arrives(other, 11, await change(rig, cluster, [11]))
    await rig.become("connected")
    for cluster, other in OTHER.items():
        known = json.loads(await rig.clusters.holdfast(other, "peering", "describe", cluster, "-o", "json"))
        running = {rig.peer_address(cluster, node.plane.name) for node in rig.clusters[cluster].planes}
        assert set(known["spec"]["addresses"]) == running


@pytest.mark.parametrize(("cluster", "overlap"), [(EAST, False), (WEST, True)])
def test_all_control_plane_nodes_of_a_side_are_replaced(rig: Rig, cluster: str, overlap: bool):
    """By ones with other addresses, keys and certificates: after the others ended, or while they still live."""

    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed():
            await found.replace_planes(cluster, overlap=overlap)
            began = time.monotonic()
            await changes_go_both_ways(found)
            print(f"changes go both ways {time.monotonic() - began:.1f} s after the last of the old ones")
            await found.settle()

    run(rig, scenario())


def test_all_control_plane_nodes_of_both_sides_are_replaced_at_once(rig: Rig):
    """No address that one knows of the other is left: another token tells them, and what was imported stays."""

    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed():
            before = await found.imported(WEST)
            await found.replace_planes(WEST, EAST, overlap=False)
            await found.become("lost")
            token = await found.clusters.holdfast(WEST, "peering", "token", "--for", EAST)
            await found.clusters.holdfast(EAST, "peering", "accept", "-", stdin=token)
            await found.become("connected")
            assert await found.imported(WEST) == before
            await changes_go_both_ways(found)
            await found.settle()

    run(rig, scenario())


def test_the_gateways_go_with_the_link_and_calls_stay_here(rig: Rig):
    """The whole of the link: control planes do not reach each other, and what calls would cross by is dead."""

    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed(far=False):
            found.cut()
            gateways = list(found.clusters[EAST].gateways.values())
            pids = [pid for machine in gateways for pid in machine.envoys()]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                await found.become("lost")
                await asyncio.sleep(5)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                found.mend()
        await found.calls_cross()

    run(rig, scenario())


def test_what_is_asserted_here_can_fail(rig: Rig):
    """An instance that dies is in the histories of all that may call it, in its own cluster as a local endpoint."""

    async def scenario() -> None:
        found = rig[0]
        marks = await found.histories.marks()
        application = found.clusters[EAST].host("api-2").application
        assert application is not None

        async def told(health: str) -> bool:
            seen = [one for one in await found.histories.since(marks) if one.before and one.after]
            last = {(one.agent, one.endpoint): one.after.health for one in seen if one.local}
            heavier = {one.agent[0] for one in seen if not one.local and one.after.weight != one.before.weight}
            return bool(last) and set(last.values()) == {health} and heavier == {WEST}

        try:
            with pytest.raises(AssertionError):
                async with found.unharmed(far=False):
                    application.stop()
                    await aeventually(lambda: told("unhealthy"), timeout=60, what="the histories tell of it")
        finally:
            application.start()
        await aeventually(lambda: told("healthy"), timeout=60, what="the histories tell that it is back")
        await found.settle()

    run(rig, scenario())
