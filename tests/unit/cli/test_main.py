"""The command's frame: help, mistakes, exit codes, start-up."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from controlplane.cli.errors import CliError, Exit
from controlplane.cli.main import COMMANDS, main


def run(*arguments: str, **env: str):
    return CliRunner().invoke(main, arguments, env={"HOLDFAST_CONFIG": "/nonexistent", **env})


def leaves(command: click.Command, path: tuple[str, ...] = ()):
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from leaves(command.get_command(context, name), (*path, name))
    else:
        yield path, command


@pytest.mark.parametrize(("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in leaves(main)])
def test_every_command_has_help_with_an_example_of_itself(path, command):
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"holdfast {' '.join(path)}" in result.output


def test_the_table_and_the_commands_agree():
    for name in COMMANDS:
        assert main.get_command(click.Context(main), name).name == name


def test_a_command_that_is_not_there_is_a_usage_error_with_the_nearest():
    result = run("gett")
    assert result.exit_code == Exit.USAGE
    assert "did you mean `holdfast get`?" in result.output


def test_a_kind_that_is_not_there_names_all_kinds():
    result = run("get", "servics", "--addr", "127.0.0.1:1")
    assert result.exit_code == Exit.USAGE
    assert "did you mean service" in result.output
    assert "authorizationpolicies" in result.output


def test_no_control_plane_said_is_told_with_the_ways_to_say_it():
    result = run("get", "services")
    assert result.exit_code == Exit.USAGE
    assert "HOLDFAST_ADDR" in result.output


def test_errors_go_to_stderr_with_what_where_and_what_next():
    error = CliError("no", code=Exit.CONFLICT, details=["here"], hint="do this")
    assert error.lines() == ["error: no", "  - here", "hint: do this"]
    result = run("get", "servics", "--addr", "127.0.0.1:1")
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")


def test_help_imports_no_network_nor_drawing_library():
    code = (
        "import sys; from click.testing import CliRunner; from controlplane.cli.main import main;"
        "CliRunner().invoke(main, ['--help']);"
        "print([m for m in ('aiohttp', 'rich', 'cryptography', 'grpc', 'mesh.model') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
