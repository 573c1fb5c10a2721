"""Exit codes, and the exception that ends a command with one of them."""

from collections.abc import Sequence
from enum import IntEnum
from typing import IO, Any

import click

from controlplane.cli.plain import plain


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_IN_FORCE = 3
    """Written, but not in force everywhere: time was up, or a proxy refused an object."""
    CONFLICT = 4
    REFUSED = 5
    """Violations of the input, or not permitted."""
    UNREACHABLE = 6


class CliError(click.ClickException):
    """What is wrong, the details of it, and what to do next."""

    def __init__(self, what: str, *, code: Exit = Exit.FAILED, details: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(what)
        self.exit_code = int(code)  # type: ignore[misc]  # click declares it on the class and reads it here
        self.details = tuple(details)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.lines():
            click.echo(plain(line), err=file is None, file=file)

    def lines(self) -> list[str]:
        found = [f"error: {self.message}", *(f"  - {detail}" for detail in self.details)]
        return [*found, f"hint: {self.hint}"] if self.hint else found
