"""What a command prints: data on stdout, talk on stderr."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

import click
import msgspec

from controlplane.cli.client import Api
from controlplane.cli.context import Connection
from controlplane.cli.plain import plain

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds after which a command that still waits says what for."""


def emit(data: object, form: str) -> None:
    """Data for programs: `json` or `yaml`."""
    if form == "yaml":
        import yaml

        click.echo(yaml.safe_dump(msgspec.to_builtins(data), sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2))


def say(text: str) -> None:
    """Talk for people: never mixed into data."""
    click.echo(plain(text), err=True)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns of text on stdout. A pipe gets every character; a terminal gets colour and folding."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=10_000, no_color=True, highlight=False)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        shown.add_column(title, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(plain(cell), style=STYLES.get(cell.split(" ")[0], "")) for cell in row))
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


STYLES = {
    "healthy": "green", "ok": "green", "live": "green", "serving": "green", "ready": "green", "yes": "green",
    "unhealthy": "red", "lost": "red", "FAIL": "bold red", "fail": "bold red", "down": "red", "no": "red",
    "draining": "yellow", "stale": "yellow", "warn": "yellow", "joining": "yellow", "syncing": "yellow",
}  # fmt: skip


def talk(connection: Connection, work: Callable[[Api], Awaitable[T]], doing: str, *, timeout: float = 15.0) -> T:
    """Run a command's calls. After a second it says what it waits for."""

    async def run() -> T:
        async with Api(connection, timeout=timeout) as api, Waiting(doing):
            return await work(api)

    return asyncio.run(run())


class Waiting:
    """A spinner on a terminal, one line otherwise, once something takes longer than PATIENCE."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._timer: asyncio.TimerHandle | None = None
        self._spinner: Any = None
        self._shown = False

    async def __aenter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._show)
        return self

    def update(self, doing: str) -> None:
        """It waits for something else now."""
        if doing == self._doing:
            return
        self._doing = doing
        if self._spinner:
            self._spinner.update(plain(doing))
        elif self._shown and not sys.stderr.isatty():
            say(f"{doing} ...")

    def _show(self) -> None:
        self._shown = True
        if not sys.stderr.isatty():
            say(f"{self._doing} ...")
            return
        from rich.console import Console

        self._spinner = Console(stderr=True).status(plain(self._doing))
        self._spinner.start()

    async def __aexit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
        if self._spinner:
            self._spinner.stop()
