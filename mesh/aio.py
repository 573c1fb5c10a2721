"""Small asyncio tools: the only sleep, retry and mailbox code of the house."""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Latest(Generic[T]):
    """A one-slot mailbox: a slow reader sees the newest value and never a queue."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._full = asyncio.Event()

    def put(self, value: T) -> None:
        self._value = value
        self._full.set()

    def peek(self) -> T | None:
        """The value that waits, left in place."""
        return self._value

    async def take(self) -> T:
        """Wait for a value and empty the slot. One reader only."""
        await self._full.wait()
        self._full.clear()
        value, self._value = self._value, None
        assert value is not None
        return value


class Backoff:
    """Full jitter: each delay is uniform between 0 and a ceiling that doubles up to `cap` (seconds)."""

    def __init__(self, rng: random.Random, *, base: float = 0.5, cap: float = 30.0) -> None:
        self._rng, self._base, self._cap = rng, base, cap
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next(self) -> float:
        ceiling = min(self._cap, self._base * 2 ** min(self._failures, 32))
        self._failures += 1
        return self._rng.uniform(0, ceiling)


async def keep(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    retry_on: type[Exception] | tuple[type[Exception], ...],
    rng: random.Random,
    base: float = 0.5,
    cap: float = 30.0,
) -> None:
    """Run forever; on `retry_on` wait with full jitter and run again. Anything else ends the daemon.

    The wait starts small again after a run that lasted longer than `cap` seconds.
    """
    loop, backoff = asyncio.get_running_loop(), Backoff(rng, base=base, cap=cap)
    while True:
        started = loop.time()
        try:
            await run()
        except retry_on as exc:
            if loop.time() - started > cap:
                backoff.reset()
            delay = backoff.next()
            log.warning("task failed, will retry", task=name, delay=round(delay, 3), error=str(exc))
            await asyncio.sleep(delay)
        else:
            raise RuntimeError(f"{name} returned; loops run until cancelled")


async def every(seconds: float, run: Callable[[], Awaitable[None]]) -> None:
    """Run now and then at this interval, measured from end to start."""
    while True:
        await run()
        await asyncio.sleep(seconds)


async def pause(seconds: float) -> None:
    """Wait; for loops that must pace themselves."""
    await asyncio.sleep(seconds)


async def first(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all of them; when the first ends, end the others. Its outcome, also its error, is ours."""
    # Not a TaskGroup: one that swallows the error that ended it may swallow an outer cancellation too (cpython 116720).
    tasks = [asyncio.create_task(part) for part in parts]  # noqa: TID251 - they end here, whatever happens
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # noqa: TID251 - waits for the end of what was cancelled
    for task in done:
        task.result()


async def unless(stop: asyncio.Event, wanted: Coroutine[Any, Any, T]) -> T | None:
    """What is wanted, or None if `stop` is set first. Then it is ended where it waits; a result it has is not lost."""
    tasks = task, stopper = asyncio.create_task(wanted), asyncio.create_task(stop.wait())  # noqa: TID251 - both end here
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        stopper.cancel()
        await asyncio.wait(tasks)
    return None if task.cancelled() else task.result()


def freeze_loaded() -> None:
    """Call once, when all is imported and before the loop runs: what is loaded by now stays for good.

    The collector looks through everything that it holds before it finds nothing, and the loop stands still meanwhile:
    28 ms in an agent and 46 ms in a control-plane node for their modules alone. Those it need not look at again.
    """
    gc.collect()
    gc.freeze()
