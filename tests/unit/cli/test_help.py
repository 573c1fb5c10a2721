"""Help of every command of the three programs: its examples keep their lines, and each option is described."""

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from agent.cli import main as agent
from agent.hostd.cli import COMMANDS as HELPER
from agent.hostd.cli import main as helper
from controlplane.cli.main import main as holdfast
from controlplane.main import main as controlplane
from mesh.durations import Duration

PROGRAMS = {"holdfast": holdfast, "holdfast-agent": agent, "holdfast-controlplane": controlplane}


def commands(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands((*path, name), inner)


ALL = [found for name, program in PROGRAMS.items() for found in commands((name,), program)]


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_help_is_readable(path, command):
    program, *words = path
    shown = CliRunner().invoke(PROGRAMS[program], [*words, "--help"], prog_name=program)
    assert shown.exit_code == 0, shown.output
    assert shown.output == CliRunner().invoke(PROGRAMS[program], [*words, "-h"], prog_name=program).output
    assert "\\b" not in shown.output
    lines = shown.output.splitlines()
    for line in lines:
        assert line.count(f"  {program} ") <= 1, "examples run together"
    if not isinstance(command, click.Group):
        title = next((index for index, line in enumerate(lines) if line in {"  Example:", "  Examples:"}), None)
        assert title is not None, "no example"
        assert " ".join(path) in lines[title + 1], "the first example is of another command"


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_each_option_is_described(path, command):
    del path
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.opts


TIMES = {"--timeout", "--ttl"}


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_times_are_spelled_alike_in_all_programs(path, command):
    del path
    for option in command.params:
        if TIMES & set(option.opts) or any("seconds" in name for name in option.opts):
            assert isinstance(option.type, Duration), option.opts


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in HELPER.items() for name in names])
def test_the_helper_s_commands_have_examples_and_describe_their_options(capsys, group, name):
    with pytest.raises(SystemExit) as ended:
        helper([group, name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"holdfast-agent {group} {name}" in shown.split("example:")[1]
    options = re.split(r"\n\n(?:options|example):\n", shown)[1]
    for described in re.split(r"\n  (?=-)", options):
        assert len(described.split()) > 2, described


@pytest.mark.parametrize("words", ["holdfast node drain", "holdfast-agent drain", "holdfast-agent service stop"])
def test_one_need_not_wait_at_all(words):
    """Plays say `holdfast_drain_seconds` as it is."""
    command = dict(ALL)[tuple(words.split())]
    (timeout,) = [option for option in command.params if "--timeout" in option.opts]
    assert timeout.type.convert("0", None, None) == 0
