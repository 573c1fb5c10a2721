"""Wait for a condition with a deadline: what tests use where others would sleep."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

STEP = 0.02


def eventually(condition: Callable[[], T], *, within: float = 10.0, what: str = "") -> T:
    """Call until the result is true, and return it. AssertionError after the deadline, with the last result or error."""
    deadline = time.monotonic() + within
    while True:
        try:
            last: object = condition()
            if last:
                return cast("T", last)
        except AssertionError as exc:
            last = exc
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or condition}; at the end: {last!r}")
        time.sleep(STEP)


async def aeventually(condition: Callable[[], T | Awaitable[T]], *, within: float = 10.0, what: str = "") -> T:
    """As eventually, for a condition that may be a coroutine function, beside a running loop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        try:
            last: object = condition()
            if inspect.isawaitable(last):
                last = await last
            if last:
                return cast("T", last)
        except AssertionError as exc:
            last = exc
        if loop.time() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or condition}; at the end: {last!r}")
        await asyncio.sleep(STEP)
