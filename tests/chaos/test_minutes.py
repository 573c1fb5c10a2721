"""What takes minutes between two whole clusters: long cuts, and a gateway that goes once nobody uses it any more."""

import asyncio

import pytest

from tests.integration.federation.linked import EAST, rig
from tests.integration.federation.test_links import Rig, cut, run

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]
__all__ = ["rig"]


@pytest.mark.parametrize(("seconds", "silent"), [(60, False), (600, True)])
def test_a_cut_of_minutes_takes_nothing_away(rig: Rig, seconds: float, silent: bool):
    async def scenario() -> None:
        few = await cut(rig[0], seconds, 1, silent=silent)
        more = await cut(rig[0], 1, 40)
        print(f"first sessions: {rig[0].first} bytes; one change: {few}, 40 changes: {more}")
        assert few < rig[0].first / 4

    run(rig, scenario(), seconds + 300)


def test_a_gateway_is_replaced(rig: Rig):
    async def scenario() -> None:
        found = rig[0]
        async with found.unharmed() as seen:
            before = await found.histories.marks()
            old = await found.replace_gateway(EAST)
            assert not [one for one in await found.histories.since(before) if one.local]
            del found.clusters[EAST].gateways["gw-1"]
            await asyncio.to_thread(old.stop)
            await found.clusters.holdfast(EAST, "delete", "node", "gw-1")
            await asyncio.sleep(2)  # of calls without it
            await found.settle()
        assert seen, "nobody saw another gateway"

    run(rig, scenario(), 600)
