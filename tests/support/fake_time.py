"""Run asyncio code on a loop whose time passes by itself: an hour of waiting takes milliseconds."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import looptime

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run; the loop's time starts at 0 and jumps to the next timer when nothing else is to be done."""
    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(start=0)) as runner:
        return runner.run(main)
