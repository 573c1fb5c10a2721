"""`holdfast debug`."""

import base64
import time
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection

SECONDS = 70.0
"""The control plane gives up before."""


@click.group()
def debug() -> None:
    """Collect what somebody else needs to see what is wrong."""


@debug.command()
@click.argument("node")
@click.option("--out", default="", metavar="FILE", help="Default: holdfast-NODE-TIME.tar.gz in this folder.")
@connected
def dump(node: str, out: str, flags: Flags) -> None:
    r"""Fetch all that is known of the host called NODE, secrets removed, as one tar.gz (mode 0600).

    It is `holdfast-agent debug dump`, run by the host's agent with the agent's rights: what only root may see there
    (nftables, other units' journals) is missing from it, as its index.json says. With the agent dead, run that there.

    \b
    Examples:
      holdfast debug dump web-1
      holdfast debug dump web-1 --out web-1.tar.gz && tar -xzOf web-1.tar.gz --wildcards '*/doctor.json'
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import say, talk
    from controlplane.cli.secretfile import write_secret

    async def work(api: Api) -> Any:
        return await api.call("POST", f"/v1/nodes/{node}/dump")

    body = talk(connection(flags), work, f"{node} collects", timeout=SECONDS)
    try:
        raw = base64.b64decode(body["archive"], validate=True)
    except (KeyError, TypeError, ValueError) as exc:
        raise CliError(f"{node}: the answer is no archive", code=Exit.FAILED) from exc
    target = out or f"holdfast-{node}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz"
    write_secret(target, raw)
    say(f"{target}: {len(raw) / 1024:.0f} KiB")
