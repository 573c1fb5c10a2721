"""What the simulator says, and what a real Envoy does: no difference.

`make test` asks some 1,000 random requests of random configurations, from a fixed seed. Longer, and with other seeds:

    HOLDFAST_DIFFERENTIAL=50000 HOLDFAST_SEED=7 pytest -s tests/integration/traffic/differential/test_differential.py

A difference is shown with its seed, its route configuration's name, the request, both outcomes, and the trace.
"""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from controlplane.demo.process import free_ports
from mesh.compile.simulate import Verdict, call
from tests.integration.traffic.differential import rig
from tests.integration.traffic.differential.compare import differences
from tests.integration.traffic.differential.configs import Config, Maker
from tests.integration.traffic.differential.pieces import CLUSTERS, MIRRORS
from tests.integration.traffic.differential.requests import Ask, request_for
from tests.support.snapshots import listener_on, snapshot_of
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real

REQUESTS = int(os.environ.get("HOLDFAST_DIFFERENTIAL", "1000"))
SEED = int(os.environ.get("HOLDFAST_SEED", "1"))
LISTENERS = 40
"""In one Envoy."""
EACH = 60
"""Requests to one listener; one after the other, and all listeners at once."""

CASE = "x-case"
"""The header by which a request is known again."""


class Outcome(NamedTuple):
    config: str
    asked: Ask
    said: Verdict
    found: rig.Answer | rig.Closed
    case: str
    seconds: float


class Found(NamedTuple):
    differences: list[str]
    kinds: Counter[str]
    """How often there was which verdict."""


async def _round(folder: Path, configs: list[Config], requests: int, rng: random.Random) -> Found:
    """One Envoy with these configurations, and so many requests to each."""
    echo, ports = rig.Echo(folder), free_ports(len(configs))
    clusters = [await echo.serve(name) for name in (*CLUSTERS, *MIRRORS)]
    listeners = [listener_on(c.routes.name, port, c.manager) for c, port in zip(configs, ports, strict=True)]
    snapshot = snapshot_of(*clusters, *listeners, *(config.routes for config in configs))
    outcomes: list[Outcome] = []

    async def ask_all(config: Config, port: int, own: random.Random) -> None:
        name, client = config.routes.name, rig.Client("127.0.0.1", port)
        for number in range(requests):
            asked, case = request_for(config.routes, own), f"{name}-{number}"
            headers = (*asked.headers, (CASE, case))
            said = call(snapshot, name, asked.method, asked.path, headers, asked.host, draw=own.random())
            began = time.monotonic()
            found = await client.ask(asked.method, asked.path, asked.host, headers)
            outcomes.append(Outcome(name, asked, said, found, case, time.monotonic() - began))
        client.close()

    try:
        async with rig.envoy(folder, snapshot, ports):
            async with asyncio.TaskGroup() as group:
                for config, port in zip(configs, ports, strict=True):
                    group.create_task(ask_all(config, port, random.Random(rng.random())))
            # Nobody waits for the answers to copies. One that never comes is told with its case.
            copies = {(o.case, cluster) for o in outcomes for cluster in getattr(o.said, "mirrors", ())}
            with contextlib.suppress(AssertionError):
                await aeventually(lambda: not copies - {(_case(one), one.cluster) for one in echo.seen})
    finally:
        await echo.close()
    return Found(list(_differences(outcomes, echo.seen)), Counter(type(o.said).__name__ for o in outcomes))


def _case(seen: rig.Seen) -> str:
    return dict(seen.headers)[CASE]


def _differences(outcomes: Iterable[Outcome], seen: Iterable[rig.Seen]) -> Iterable[str]:
    by_case: dict[str, list[rig.Seen]] = {}
    for one in seen:
        by_case.setdefault(_case(one), []).append(one)
    for outcome in outcomes:
        found = list(differences(outcome.said, outcome.found, by_case.get(outcome.case, []), outcome.asked.method))
        # A busy Envoy counts from when it last looked at the clock.
        if outcome.seconds < getattr(outcome.said, "delay", 0) / 2:
            found.append(f"said to be held back, and it took {outcome.seconds:.4f} s")
        if found:
            steps = "\n    ".join(
                f"{s.kind}: {s.field}: {s.said}{'' if s.decided else ' (no)'}" for s in outcome.said.trace
            )
            yield f"{outcome.config} {outcome.asked}\n  " + "\n  ".join(found) + f"\n  {outcome.found}\n    {steps}"


@pytest.mark.timeout(180 + REQUESTS // 50)
def test_no_difference(tmp_path: Path) -> None:
    """Whatever is configured, and whatever is asked."""
    rng, found, kinds, asked = random.Random(SEED), [], Counter[str](), 0
    while asked < REQUESTS:
        seed = rng.randrange(1 << 30)
        maker = Maker(seed)
        count = min(LISTENERS, -(-(REQUESTS - asked) // EACH))
        configs = [maker.config(f"{seed}-{index}") for index in range(count)]
        folder = tmp_path / str(asked)
        folder.mkdir()
        differing, seen = asyncio.run(_round(folder, configs, EACH, rng))
        found += differing
        kinds += seen
        asked += count * EACH
    print(f"{asked} requests, {len(found)} differences, {dict(kinds)}")
    assert not found, f"{len(found)} of {asked}:\n" + "\n".join(found[:8])
