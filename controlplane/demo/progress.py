"""What a demo is doing right now, on stderr: one line a stage, with its time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Stages do not overlap."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Something that takes a while begins; it ends with the block."""

    def note(self, text: str) -> None:
        """What the stage is at."""


class Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)  # noqa: T201 - this is the display
        yield
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        print(f"  {text}", file=sys.stderr, flush=True)  # noqa: T201


class Display:
    """A spinner with a running clock for the stage under way, a tick for each one done."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bar: Any = None
        self._task: Any = None
        self._name = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        from rich.progress import Progress as Bar
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        began, self._name = time.monotonic(), name
        try:
            with Bar(*columns, console=self._console, transient=True) as self._bar:
                self._task = self._bar.add_task(name)
                yield
        except BaseException:
            self._console.print(f"[red]✗[/] {name}")
            raise
        finally:
            self._bar = None
        self._console.print(f"[green]✓[/] {name} [dim]{time.monotonic() - began:.1f} s[/]")

    def note(self, text: str) -> None:
        if self._bar:
            self._bar.update(self._task, description=f"{self._name}: [dim]{text}[/]")


def progress() -> Progress:
    """The display that fits stderr."""
    return Display() if sys.stderr.isatty() else Lines()
