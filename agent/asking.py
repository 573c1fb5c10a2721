"""What commands on the host share: their options, the settings, and how the agent of this host is asked."""

import asyncio
from pathlib import Path
from typing import Any

import click

from agent.settings import DEFAULT_PATH, Settings, SettingsError, load

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    show_default=True,
    help="The agent's settings.",
)
output_option = click.option(
    "-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of output."
)


def settings_of(path: Path) -> Settings:
    """Those of this file, or an error for the operator."""
    try:
        return load(path)
    except SettingsError as exc:
        raise click.ClickException(str(exc)) from exc


def asked(config: Path, do: str, what: str = "", timeout: float = 20.0) -> Any:
    """The agent's answer, or an error for the operator."""
    from agent.admin import AdminError, ask

    settings = settings_of(config)
    try:
        return asyncio.run(ask(settings.admin_socket, do, what, timeout=timeout))
    except AdminError as exc:
        raise click.ClickException(str(exc)) from exc
