"""python -m bench [--only NAME ...] [--json FILE] [--quick]: measure, print a table, write JSON."""

import argparse
import asyncio
import datetime as dt
import sys
from pathlib import Path

import structlog

from bench import clusters, compile_cost, crowd, issuing, memory, peers, propagation, traffic_cost
from bench.facts import facts
from bench.progress import Steps
from bench.stats import Report

PARTS = {
    "compile": compile_cost.run,
    "traffic": traffic_cost.run,
    "issuing": issuing.run,
    "peers": peers.run,
    "crowd": crowd.run,
    "propagation": propagation.run,
    "memory": memory.run,
    "clusters": clusters.run,
}
"""In this order: what needs the fewest processes first."""
OUT = Path(__file__).parent / "out"


async def measure(names: list[str], *, quick: bool) -> Report:
    steps, report = Steps(), Report()
    report.facts = facts(quick=quick)
    for name in names:
        report.add(*await PARTS[name](steps.say, quick=quick))
    report.facts["load average at the end"] = facts(quick=quick)["load average"]
    steps.say("done")
    return report


def quiet() -> None:
    """What parts of ours log in this process would mix with progress."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Holdfast with real processes.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="this part; may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures [bench/out/<time>.json]")
    parser.add_argument("--quick", action="store_true", help="few samples: does it run, not how fast")
    said = parser.parse_args()
    quiet()
    report = asyncio.run(measure(said.only or list(PARTS), quick=said.quick))
    report.show()
    path = said.json or OUT / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.json"
    report.write(path)
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
