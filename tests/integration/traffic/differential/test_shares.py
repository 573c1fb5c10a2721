"""What a real Envoy chooses by chance: as often as `shares` says, and never what it says to be impossible."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from controlplane.demo.process import free_port
from mesh import pb
from mesh.compile.parts import http_filter, network_filter
from mesh.compile.simulate import Fault, To, Verdict, calling, shares
from tests.integration.traffic.differential import rig
from tests.sim.traffic.build import LISTENER, config, fraction, manager, match, percent, to, weights
from tests.support.snapshots import listener_on, snapshot_of
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real

REQUESTS, CLIENTS = 2000, 4
DEVIATIONS = 5
"""So many standard deviations are allowed: one run in a million fails by chance."""

Outcome = tuple[str, bool]
"""The cluster, and whether a copy was made."""

ABORT = pb.HttpFault(abort=pb.FaultAbort(http_status=503, percentage=percent(20)))
HALF = {"request_mirror_policies": [{"cluster": "copy", "runtime_fraction": fraction(50)}]}

HALF_OF_ALL = match(runtime_fraction=fraction(50))
SOME = match(runtime_fraction=fraction(3000, "TEN_THOUSAND"))

CASES = {
    # Of the lower half all go to the first, and all with a copy.
    "by one number": (config(to("one", HALF_OF_ALL, **weights(one=50, two=50), **HALF), to("three")), ()),
    "by several numbers": (config(to("one", SOME, **weights(one=1, two=2), **HALF), to("three")), ()),
    "faults on their own": (config(to(**weights(one=1, two=3), **HALF)), (http_filter("fault", ABORT),)),
}


def named(verdict: Verdict) -> Outcome:
    return (verdict.cluster, bool(verdict.mirrors)) if isinstance(verdict, To) else (type(verdict).__name__, False)


async def ask_all(
    folder: Path, filters: pb.Filter, *routes: pb.RouteConfiguration
) -> tuple[Counter[Outcome], dict[Outcome, float]]:
    echo, port = rig.Echo(folder), free_port()
    clusters = [await echo.serve(name) for name in ("one", "two", "three", "copy")]
    snapshot = snapshot_of(*clusters, listener_on(LISTENER, port, filters), *routes)
    said = {named(share.verdict): float(share.probability) for share in shares(calling(snapshot, LISTENER, host="h"))}
    aborted: list[str] = []

    async def ask(first: int) -> None:
        client = rig.Client("127.0.0.1", port)
        for number in range(first, REQUESTS, CLIENTS):
            answer = await client.ask("GET", "/", "h", [("x-case", str(number))])
            assert isinstance(answer, rig.Answer)
            if answer.status == 503:
                aborted.append(str(number))
            if not routes:  # TCP: a choice for each connection
                client.close()
        client.close()

    try:
        async with rig.envoy(folder, snapshot, [port]):
            async with asyncio.TaskGroup() as group:
                for first in range(CLIENTS):
                    group.create_task(ask(first))
            await aeventually(Quiet(echo))
    finally:
        await echo.close()
    copied = {dict(one.headers)["x-case"] for one in echo.seen if one.cluster == "copy"}
    found = Counter((one.cluster, dict(one.headers)["x-case"] in copied) for one in echo.seen if one.cluster != "copy")
    if aborted:
        found[Fault.__name__, False] = len(aborted)
    return found, said


class Quiet:
    """True once ten looks in a row have found nothing new: nobody says when the last copy has come."""

    def __init__(self, echo: rig.Echo) -> None:
        self._echo, self._known, self._same = echo, -1, 0

    def __call__(self) -> bool:
        self._same = self._same + 1 if len(self._echo.seen) == self._known else 0
        self._known = len(self._echo.seen)
        return self._same >= 10


def compare(found: Counter[Outcome], said: dict[Outcome, float]) -> None:
    assert found.total() == REQUESTS
    assert found.keys() <= said.keys()
    for outcome, share in said.items():
        deviation = (REQUESTS * share * (1 - share)) ** 0.5
        assert abs(found[outcome] - REQUESTS * share) <= DEVIATIONS * deviation, (outcome, found, said)


@pytest.mark.parametrize("case", CASES)
def test_http(case: str, tmp_path: Path) -> None:
    routes, filters = CASES[case]
    compare(*asyncio.run(ask_all(tmp_path, manager(filters), routes)))


def test_tcp(tmp_path: Path) -> None:
    clusters = [{"name": "one", "weight": 1}, {"name": "two", "weight": 3}]
    proxy = pb.TcpProxy(stat_prefix="x", weighted_clusters={"clusters": clusters})
    compare(*asyncio.run(ask_all(tmp_path, network_filter("tcp", proxy))))
