"""Help keeps the lines of its examples, for every command."""

import click
import pytest
from click.testing import CliRunner

from controlplane.cli.main import COMMANDS, main


def all_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, inner) for inner in command.commands]
    return found


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_help_is_readable(words):
    shown = CliRunner().invoke(main, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "\\b" not in shown.output
    for line in shown.output.splitlines():
        assert line.count("  holdfast ") <= 1, "examples run together"
