"""`holdfast doctor`."""

import asyncio
import time
from typing import Any

import click

from controlplane.cli.context import Connection, Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection, output


@click.command()
@output("table", "json", "yaml")
@connected
def doctor(form: str, flags: Flags) -> None:
    r"""Check the way to the mesh and the mesh itself, and say what to do about what is wrong.

    Looks at each control-plane node's address, certificate and clock, at your token, at etcd, at the issuing
    certificates' runway, at versions, and at the age of each agent's last word. Fails if a check does.

    \b
    Examples:
      holdfast doctor
      holdfast doctor -o json | jq '.checks[] | select(.verdict != "ok")'
    """
    from controlplane.cli import examine
    from controlplane.cli.output import emit, table

    checks = asyncio.run(examine_all(connection(flags)))
    verdict = examine.worst(checks)
    if form == "table":
        table(["CHECK", "VERDICT", "FOUND", "WHAT TO DO"], [[c.name, c.verdict, c.found, c.advice] for c in checks])
    else:
        emit({"verdict": verdict, "checks": [c._asdict() for c in checks]}, form)
    if verdict == "fail":
        raise SystemExit(int(Exit.FAILED))


async def examine_all(to: Connection) -> list[Any]:
    """All checks; the network ones of all addresses at the same time."""
    from controlplane.cli import examine
    from controlplane.cli.client import Api
    from controlplane.cli.output import Waiting
    from controlplane.cli.reach import reach

    async with Waiting("examining"):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(reach(address, to.ca)) for address in to.addresses]
        checks = [check for task in tasks for check in examine.reached(task.result(), time.time())]
        if not any(task.result().status for task in tasks):
            return checks
        async with Api(to) as api:
            try:
                who, status = await api.get("/v1/whoami"), await api.get("/v1/status")
                proxies = await api.get("/v1/proxies")
            except CliError as exc:
                return [*checks, examine.Check("token", "fail", exc.message, exc.hint)]
        from importlib.metadata import version

        return [
            *checks,
            examine.token(who, time.time()),
            examine.store(status),
            *examine.issuers(status, time.time()),
            examine.versions(version("holdfast"), status, proxies),
            *examine.agents(status, proxies, time.time()),
            *examine.peers(status),
        ]
