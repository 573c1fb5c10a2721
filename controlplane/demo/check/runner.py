"""Runs the steps in order, each bounded in time; what one of them breaks does not hide what the next one finds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from controlplane.demo.check.result import Figure, Findings, Report, Step
from controlplane.demo.progress import Progress


class Stage(Protocol):
    """What the steps happen on."""

    @property
    def progress(self) -> Progress: ...
    def logs(self) -> list[Path]: ...
    async def mend(self) -> None:
        """Bring back whatever a broken step left stopped or ill."""


S = TypeVar("S", bound=Stage)


class Planned(NamedTuple, Generic[S]):
    number: int
    title: str
    run: Callable[[S, Findings], Awaitable[None]]
    seconds: float
    """The most it may take."""


async def run(planned: Sequence[Planned[S]], context: S, facts: dict[str, Figure]) -> Report:
    """All steps. A step that raises has failed, with the error as its reason."""
    began = time.monotonic()
    steps: list[Step] = []
    for plan in planned:
        with context.progress.stage(f"step {plan.number}: {plan.title}"):
            steps.append(await _one(plan, context))
        if not steps[-1].ok:
            # What one step left broken is mended, so that the next one finds its own faults only.
            with context.progress.stage("mend what the step left behind"):
                await _mend(context)
    ok = all(step.ok for step in steps)
    tails = {} if ok else log_tails(context.logs())
    return Report(ok=ok, seconds=round(time.monotonic() - began, 1), steps=tuple(steps), facts=facts, log_tails=tails)


async def _one(plan: Planned[S], context: S) -> Step:
    findings, began = Findings(), time.monotonic()
    try:
        async with asyncio.timeout(plan.seconds):
            await plan.run(context, findings)
    except TimeoutError:
        findings.failures.append(f"not done within {plan.seconds:g} s")
    except Exception as exc:  # noqa: BLE001 - whatever went wrong, it is this step's result
        findings.failures.append(_words(exc))
    return findings.step(plan.number, plan.title, time.monotonic() - began)


async def _mend(context: Stage) -> None:
    try:
        async with asyncio.timeout(MEND_SECONDS):
            await context.mend()
    except Exception as exc:  # noqa: BLE001 - then the next step says what is missing
        context.progress.note(_words(exc))


def _words(exc: BaseException) -> str:
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(_words(inner) for inner in exc.exceptions)
    first, *rest = f"{type(exc).__name__}: {exc}".splitlines() or [type(exc).__name__]
    # A dead process's error carries the end of its log, most telling last.
    return "\n".join([first, *rest[-LAST_LINES:]])


TAIL_LINES = 6
MEND_SECONDS = 60.0
LAST_LINES = 4
MAX_LINE = 300
QUIET = ("access.log", "application.log")
"""What they say is in the figures already."""


def log_tails(paths: Sequence[Path]) -> dict[str, str]:
    """The ends of those logs that may say why something failed."""
    tails = {}
    for path in paths:
        lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        if lines and path.name not in QUIET:
            tails[str(path)] = "\n".join(line[:MAX_LINE] for line in lines)
    return tails
