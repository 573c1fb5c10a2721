"""`holdfast node`."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection
from mesh.durations import WAIT, spelled

LOOK_SECONDS = 0.5


@click.group()
def node() -> None:
    """Take a host out of service, and put it back."""


@node.command()
@click.argument("name")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when callers have left.")
@click.option("--timeout", type=WAIT, default="60s", show_default=True, help="How long; then status 1.")
@connected
def drain(name: str, timeout: float, *, wait: bool, flags: Flags) -> None:
    r"""Take a host out of service: its instances are draining, callers leave, what is under way finishes.

    The host keeps it, over restarts of the agent and of itself, until `holdfast node undrain`. Calls that it makes
    itself go on.

    \b
    Examples:
      holdfast node drain vm-7
      holdfast node drain vm-7 --timeout 5m
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import say, talk

    async def work(api: Api) -> Any:
        end, said = time.monotonic() + timeout, ""
        body: Mapping[str, Any] = await api.call("POST", f"/v1/nodes/{name}/drain")
        while True:
            if (words := str(body.get("words", ""))) != said:
                said = words
                say(f"{name}: {words}")
            if not wait or body.get("done"):
                return body
            if time.monotonic() >= end:
                raise CliError(
                    f"{name}: not done after {spelled(timeout)}: {said}",
                    hint="it stays out of service; `holdfast node drain` again waits on, `undrain` puts it back",
                    code=Exit.FAILED,
                )
            await asyncio.sleep(LOOK_SECONDS)
            body = await api.get(f"/v1/nodes/{name}/drain")

    talk(connection(flags), work, "asking the host")


@node.command()
@click.argument("name")
@connected
def undrain(name: str, flags: Flags) -> None:
    r"""Put a host back into service: what is healthy is called again.

    \b
    Examples:
      holdfast node undrain vm-7
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import say, talk

    async def work(api: Api) -> Any:
        return await api.call("POST", f"/v1/nodes/{name}/undrain")

    body = talk(connection(flags), work, "asking the host")
    for service, health in body["services"].items():
        say(f"{service}: {health}")
