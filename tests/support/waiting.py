"""Waiting for a condition with a deadline: the only waiting that tests do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL = 0.01
COSTLY = 2.0
"""A pause is this many times as long as the check took: one that asks whole clusters does not keep them busy."""
PATIENT = 0.05
"""A pause is also this part of what was waited before: a look that is cheap is not taken thousands of times."""
MOST = 0.5


def _pause(took: float, waited: float) -> float:
    return min(max(POLL, COSTLY * took, PATIENT * waited), MOST)


def eventually(check: Callable[[], T], *, timeout: float = 10.0, what: str = "") -> T:
    """Call until the answer is true, and return it. An AssertionError of the check is tried again, too."""
    start = time.monotonic()
    deadline = start + timeout
    while True:
        began = time.monotonic()
        try:
            if answer := check():
                return answer
            reason = f"last answer: {answer!r}"
        except AssertionError as exc:
            reason = f"last failure: {exc}"
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'the condition'}: not within {timeout:g} s; {reason}")
        now = time.monotonic()
        time.sleep(_pause(now - began, now - start))


async def aeventually(check: Callable[[], T | Awaitable[T]], *, timeout: float = 10.0, what: str = "") -> T:
    """The same inside a loop; the check may be async."""
    deadline, clock = time.monotonic() + timeout, asyncio.get_running_loop().time
    start = clock()
    while True:
        began = clock()
        try:
            answer = check()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            reason = f"last answer: {answer!r}"
        except AssertionError as exc:
            reason = f"last failure: {exc}"
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'the condition'}: not within {timeout:g} s; {reason}")
        await asyncio.sleep(_pause(clock() - began, clock() - start))
