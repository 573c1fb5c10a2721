"""`holdfast-controlplane`: runs a control-plane node."""

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

import click

from ca.seal import SealError
from controlplane.settings import SettingsError, load
from mesh.lean import lean


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A control-plane node of a Holdfast mesh."""


@main.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/holdfast/controlplane.yaml"),
    show_default=True,
    help="Settings in YAML.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="Of what goes to stdout.",
)
def run(config: Path, log_format: str) -> None:
    """Serve until SIGTERM. Status 2: the settings, or what they name, cannot be used.

    \b
    Examples:
      holdfast-controlplane run
      holdfast-controlplane run --config ./controlplane.yaml --log-format text
    """
    # structlog loads rich if it is there, for tracebacks in colour: 4 MB that a daemon has no use for.
    sys.modules.setdefault("rich", cast("ModuleType", None))
    with lean():
        from controlplane.daemon import run as serve
        from controlplane.setup import SetupError
        from mesh.aio import freeze_loaded
        from mesh.obs import setup_logging

    try:
        settings = load(config)
        setup_logging(settings.log_level, json=log_format == "json")
        freeze_loaded()
        asyncio.run(serve(settings))
    except (SettingsError, SealError, SetupError) as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(2)


@main.command()
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
def check(config: Path) -> None:
    """Check a file of settings, and say everything that is wrong with it. Nothing is asked or changed.

    \b
    Example:
      holdfast-controlplane check /etc/holdfast/controlplane.yaml
    """
    try:
        load(config)
    except SettingsError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(2)
    click.echo(f"{config} is fine")


if __name__ == "__main__":
    main()
