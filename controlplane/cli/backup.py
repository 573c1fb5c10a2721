"""`holdfast backup` and `holdfast restore`."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection

SILENCE_SECONDS = 60.0


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@connected
def backup(file: str, flags: Flags) -> None:
    r"""Save all of the mesh's state, as of one revision, to FILE (mode 0600; `-` is stdout).

    What is secret in it stays sealed: to use it, a restore needs the same seal key.

    \b
    Examples:
      holdfast backup mesh-$(date +%F).ndjson
      holdfast backup - | gzip > mesh.ndjson.gz
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import say, talk
    from controlplane.cli.secretfile import write_secret

    if file != "-" and Path(file).exists():
        raise CliError(f"{file} exists already", hint="name another file, or move that one away")

    async def work(api: Api) -> list[bytes]:
        return [line async for line in api.raw_lines("/v1/backup", silence=SILENCE_SECONDS)]

    lines = talk(connection(flags), work, "reading the store")
    head, count = whole(lines)
    if file == "-":
        sys.stdout.buffer.write(b"".join(lines))
    else:
        write_secret(file, b"".join(lines))
    say(f"{count} keys of {head.trust_domain} as of revision {head.revision}" + ("" if file == "-" else f" in {file}"))


def whole(lines: list[bytes]) -> tuple[Any, int]:
    """Head and number of keys of a backup that is complete and undamaged."""
    from controlplane.backup import BackupError, parse

    try:
        head, values = parse(lines)
    except BackupError as exc:
        raise CliError(f"this is no whole backup: {exc}", code=Exit.REFUSED, hint="take another one") from exc
    return head, len(values)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--config", required=True, type=click.Path(exists=True, dir_okay=False), help="A node's controlplane.yaml."
)
@click.option("--overwrite", is_flag=True, help="The store may hold something; what the backup has not is deleted.")
def restore(file: str, config: str, overwrite: bool) -> None:
    r"""Make the store be what FILE holds. It goes straight to etcd, with a control-plane node's settings.

    Stop the control-plane nodes before. Running traffic goes on: agents notice the restored store by its new epoch
    and compare everything anew.
    A restore that was broken off is finished by repeating it.

    \b
    Examples:
      holdfast restore mesh.ndjson --config /etc/holdfast/controlplane.yaml
      gunzip -c mesh.ndjson.gz | holdfast restore - --config controlplane.yaml --overwrite
    """
    from controlplane.cli.output import say

    try:
        with click.open_file(file, "rb") as source:
            lines = list(source)
    except OSError as exc:
        raise CliError(f"{file} cannot be read: {exc.strerror}", code=Exit.NOT_FOUND) from exc
    whole(lines)
    done = asyncio.run(_restore(lines, config, overwrite=overwrite))
    say(f"{done.keys} keys restored, {done.deleted} deleted, revision {done.revision}, epoch {done.epoch}")


async def _restore(lines: list[bytes], config: str, *, overwrite: bool) -> Any:
    from controlplane.cli.configured import errors_of_setup, progress, settings
    from controlplane.setup import restore as put_back

    chosen = settings(Path(config))
    with errors_of_setup(chosen, "nothing was restored"):
        return await put_back(chosen, lines, overwrite=overwrite, progress=progress)
