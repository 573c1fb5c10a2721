"""Small asyncio tools, on a loop whose time passes by itself."""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import aio
from tests.support import fake_time


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_slow_reader_sees_the_newest_value_once():
    async def main() -> None:
        box: aio.Latest[int] = aio.Latest()
        for number in (1, 2, 3):
            box.put(number)
        assert box.peek() == 3
        assert await box.take() == 3
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await box.take()
        box.put(4)
        assert await box.take() == 4

    fake_time.run(main())


def test_a_waiting_reader_is_woken():
    async def main() -> None:
        box: aio.Latest[str] = aio.Latest()
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(box.take())
            await asyncio.sleep(5)
            box.put("x")
        assert reader.result() == "x"

    fake_time.run(main())


@given(st.integers(), st.integers(1, 80))
def test_back_off_stays_under_its_doubling_ceiling(seed: int, failures: int):
    backoff = aio.Backoff(random.Random(seed), base=0.5, cap=30)
    for number in range(failures):
        assert 0 <= backoff.next() <= min(30, 0.5 * 2**number)
    backoff.reset()
    assert backoff.next() <= 0.5


class Top(random.Random):
    """Always the largest delay."""

    def uniform(self, a: float, b: float) -> float:
        return b


def runs(outcomes: list[float | Exception]) -> tuple[Callable[[], Awaitable[None]], list[float]]:
    """A run that lasts so many seconds and then breaks its connection, or raises; and when each began."""
    began: list[float] = []

    async def run() -> None:
        outcome = outcomes[len(began)]
        began.append(now())
        if isinstance(outcome, Exception):
            raise outcome
        await asyncio.sleep(outcome)
        raise ConnectionError

    return run, began


def test_keep_waits_longer_after_each_failure_and_starts_small_again_after_a_long_run():
    run, began = runs([0.0, 0.0, 0.0, 0.0, 100.0, 0.0, ValueError("fatal")])
    with pytest.raises(ValueError, match="fatal"):
        fake_time.run(aio.keep("x", run, retry_on=ConnectionError, rng=Top(), base=1, cap=4))
    assert began == pytest.approx([0, 1, 3, 7, 11, 112, 114])


def test_keep_refuses_a_run_that_returns():
    async def run() -> None:
        return

    with pytest.raises(RuntimeError, match="x returned"):
        fake_time.run(aio.keep("x", run, retry_on=ConnectionError, rng=random.Random(0)))


def test_keep_is_cancelled_while_it_waits():
    async def main() -> None:
        run, began = runs([0.0] * 100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(9.5):
                await aio.keep("x", run, retry_on=(ConnectionError, OSError), rng=Top(), base=1, cap=4)
        assert len(began) == 4

    fake_time.run(main())


def test_every_measures_from_end_to_start():
    async def main() -> None:
        began: list[float] = []

        async def run() -> None:
            began.append(now())
            await asyncio.sleep(2)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(11):
                await aio.every(3, run)
        assert began == pytest.approx([0, 5, 10])

    fake_time.run(main())


def test_pause():
    async def main() -> float:
        await aio.pause(7)
        return now()

    assert fake_time.run(main()) == pytest.approx(7)


class Part:
    """Works for so many seconds, then ends or raises; remembers that it was ended, after its clean-up."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds, self.error, self.cleaned = seconds, error, False

    async def run(self) -> None:
        try:
            await asyncio.sleep(self.seconds)
            if self.error:
                raise self.error
        finally:
            await asyncio.sleep(1)
            self.cleaned = True


def test_first_ends_the_others_and_waits_for_their_clean_up():
    short, long = Part(1), Part(1000)

    async def main() -> float:
        await aio.first(short.run(), long.run())
        return now()

    assert fake_time.run(main()) < 5
    assert short.cleaned
    assert long.cleaned


def test_first_raises_what_ended_it():
    long = Part(1000)
    with pytest.raises(OSError, match="broken"):
        fake_time.run(aio.first(Part(1, OSError("broken")).run(), long.run()))
    assert long.cleaned


def test_first_is_cancelled_as_a_whole():
    parts = [Part(1000), Part(1000)]

    async def main() -> None:
        async with asyncio.timeout(3):
            await aio.first(*(part.run() for part in parts))

    with pytest.raises(TimeoutError):
        fake_time.run(main())
    assert all(part.cleaned for part in parts)


async def _answer(seconds: float, result: str) -> str:
    await asyncio.sleep(seconds)
    return result


def test_unless_gives_the_result_or_nothing_when_stopped_first():
    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(5, stop.set)
        assert await aio.unless(stop, _answer(3, "x")) == "x"
        assert now() == pytest.approx(3)
        assert await aio.unless(stop, _answer(30, "y")) is None
        assert now() == pytest.approx(5)
        assert len(asyncio.all_tasks()) == 1, "nothing is left running"

    fake_time.run(main())


def test_unless_raises_what_the_wanted_raised_and_is_cancelled_as_a_whole():
    async def main() -> None:
        stop, part = asyncio.Event(), Part(1000)
        with pytest.raises(OSError, match="broken"):
            await aio.unless(stop, Part(1, OSError("broken")).run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await aio.unless(stop, part.run())
        assert part.cleaned

    fake_time.run(main())


def test_what_is_loaded_is_not_looked_through_again():
    loaded: list[object] = []
    try:
        aio.freeze_loaded()
        later: list[object] = []
        seen = {id(one) for one in gc.get_objects()}
    finally:
        gc.unfreeze()
    assert id(loaded) not in seen
    assert id(later) in seen
