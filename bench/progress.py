"""One line a step, on stderr, with the time since the start."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]


class Steps:
    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=sys.stderr, flush=True)


class Stages:
    """A `controlplane.demo.progress.Progress` that says its stages."""

    def __init__(self, say: Say) -> None:
        self._say = say

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._say(name)
        yield

    def note(self, text: str) -> None:
        """Too much detail here."""
