"""Waiting until a change is in force: how far it has come meanwhile, and whom it still lacks at the end."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.cli.client import Api
from controlplane.cli.context import Connection
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import Patience
from controlplane.cli.output import Waiting, say
from controlplane.cli.views import when

Document = Mapping[str, Any]
STEP_SECONDS = 2.0
"""How long one question waits: so often the progress that is shown is new."""
NAMED = 3
"""Proxies that the progress names; at the end all are named that the answer lists."""
AGAIN_SECONDS = 0.5


def settle(to: Connection, revision: int, objects: Sequence[str], patience: Patience) -> dict[str, Any]:
    """How the change stands when it is in force, refused, or time is up.

    `revision` is `waitFor` of the answer to the change; with 0 there is nothing to wait for.
    """
    if not revision:
        return {"revision": 0, "state": "in force", "live": 0, "inForce": 0, "seconds": 0.0}
    return asyncio.run(_settle(to, revision, objects, patience))


async def _settle(to: Connection, revision: int, objects: Sequence[str], patience: Patience) -> dict[str, Any]:
    started = time.monotonic()
    body = {"revision": revision, "objects": list(objects), "requireAll": patience.require_all}
    async with Api(to) as api, Waiting(f"waiting for revision {revision}") as waiting:
        while True:
            left = patience.seconds - (time.monotonic() - started)
            try:
                found: dict[str, Any] = await api.call(
                    "POST", "/v1/wait", body=body | {"seconds": max(0.0, min(STEP_SECONDS, left))}, repeatable=True
                )
            except CliError as exc:
                if exc.exit_code != Exit.UNREACHABLE or left <= 0:
                    exc.hint = f"the change is written; it is not known where it is in force. {exc.hint}"
                    raise
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            if found["state"] != "waiting" or left <= STEP_SECONDS:
                return {**found, "seconds": round(time.monotonic() - started, 3)}
            waiting.update(progress(found))


def progress(found: Document) -> str:
    """`412/414 in force, waiting for api-3 (stale: ...) and 1 more`. Pure."""
    named = [f"{one['node']} ({one['reason']})" for one in found["waiting"][:NAMED]]
    more = found["waitingCount"] - len(named)
    return f"{found['inForce']}/{found['live']} in force, waiting for {', '.join(named)}" + (
        f" and {more} more" if more else ""
    )


def conclude(found: Document) -> None:
    """Say how it ended.

    Raises:
        CliError: not in force everywhere.

    """
    if not found["revision"]:
        say("nothing of this concerns proxies")
        return
    offline = [f"{one['node']} (not seen since {when(one['since'])})" for one in found["offline"]]
    if more := found["offlineCount"] - len(offline):
        offline.append(f"{more} more")
    count = f"{found['inForce']} of {found['live']} live proxies"
    if found["state"] == "in force":
        say(f"in force at {count}, after {found['seconds']:.1f} s")
        if offline:
            say(f"offline, and not waited for: {', '.join(offline)}")
        return
    refused = [f"{one['node']}: {one['object']} is refused: {one['reason']}" for one in found["rejected"]]
    waiting = [f"{one['node']}: {one['reason']}" for one in found["waiting"]]
    for lines, key in ((refused, "rejectedCount"), (waiting, "waitingCount")):
        if hidden := found[key] - len(lines):
            lines.append(f"and {hidden} more")
    if offline:
        say(f"offline: {', '.join(offline)}")
    what = "was refused by a proxy" if refused else f"is not in force everywhere after {found['seconds']:.0f} s"
    raise CliError(
        f"revision {found['revision']} is written, and {what}: in force at {count}",
        code=Exit.NOT_IN_FORCE,
        details=[*refused, *waiting],
        hint="a proxy that refuses an object goes on with the last version it took; `holdfast proxy status` tells more"
        if refused
        else "`holdfast proxy status` tells more; what is written comes into force as soon as it can",
    )
