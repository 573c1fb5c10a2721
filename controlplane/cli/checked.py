"""`holdfast apply --all-or-nothing`: what is told of each step, and how it ended."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.cli.apply import located, name_of, objects_of, warn
from controlplane.cli.client import Api
from controlplane.cli.context import Connection
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.files import Source
from controlplane.cli.options import Patience
from controlplane.cli.output import Waiting, emit, say, table
from controlplane.cli.settle import conclude, progress

Line = Mapping[str, Any]
SILENCE_SECONDS = 240.0
"""Without a word; judging takes the longest."""


def apply_checked(to: Connection, sources: Sequence[Source], patience: Patience, form: str) -> None:
    body = {
        "objects": objects_of(sources),
        "delete": [],
        "seconds": patience.seconds,
        "requireAll": patience.require_all,
    }
    try:
        end = asyncio.run(_follow(to, body))
    except CliError as exc:
        raise located(exc, {name_of(s.document): s.origin for s in sources}) from None
    if form != "table":
        emit(end, form)
    elif "results" in end:
        table(["OBJECT", "ACTION"], [[r["object"], r["action"]] for r in end["results"]])
        say(f"revision {end['revision']}")
        warn(end)
    judge(end)


async def _follow(to: Connection, body: object) -> dict[str, Any]:
    """The last line."""
    step, written = "", time.monotonic()
    async with Api(to) as api, Waiting("the proxies' agents have an Envoy judge the change") as waiting:
        try:
            async for line in api.posted("/v1/apply/checked", body, silence=SILENCE_SECONDS):
                step = line["step"]
                match step:
                    case "judged":
                        waiting.update(f"{line['asked']} proxies were asked")
                    case "written":
                        written = time.monotonic()
                    case "progress" if line["state"] == "waiting":
                        waiting.update(progress(line))
                    case "end":
                        return {**line, "seconds": round(time.monotonic() - written, 3)}
        except CliError as exc:
            if step in {"written", "progress"}:
                exc.hint = f"the change is written; how it ended is not known: see `holdfast history`. {exc.hint}"
            raise
    raise CliError(
        f"the control-plane node stopped before it said how this ended (last step: {step})",
        code=Exit.UNREACHABLE,
        hint="`holdfast history` tells whether it was written, and whether it was put back",
    )


def judge(end: Line) -> None:
    """Say how it ended.

    Raises:
        CliError: it is not in force, for whatever reason.

    """
    match end["outcome"]:
        case "in force" | "waiting":
            conclude({**end["progress"], "seconds": end["seconds"]})
        case "refused" | "unknown" as outcome:
            refusals = [line for one in end["refusals"] for line in _refusal(one)]
            unknown = [f"{one['node']} could not be asked: {one['reason']}" for one in end["unknown"]]
            many = (
                f"{end['refusalCount']} proxies would refuse it" if outcome == "refused" else "not all could be asked"
            )
            raise CliError(
                f"nothing was written: {many}",
                code=Exit.REFUSED if outcome == "refused" else Exit.FAILED,
                details=[*refusals, *unknown],
                hint="" if outcome == "refused" else "`holdfast apply` without --all-or-nothing asks nobody",
            )
        case "conflict":
            raise CliError("nothing was written", code=Exit.CONFLICT, details=end["reasons"], hint="apply it again")
        case "put back":
            raise CliError(
                f"a proxy refused it: the objects are again what they were, by revision {end['back']['revision']}",
                code=Exit.NOT_IN_FORCE,
                details=_rejected(end),
                hint=f"`holdfast history show {end['revision']}` is what was tried",
            )
        case outcome:
            raise CliError(
                f"a proxy refused it, and it was {outcome}: revision {end['revision']} stays written",
                code=Exit.NOT_IN_FORCE,
                details=[*_rejected(end), *end["reasons"]],
                hint="that proxy goes on with the last version it took; `holdfast proxy status` tells more",
            )


def _refusal(one: Line) -> list[str]:
    """What one proxy's Envoy says, by object where that is known."""
    if not one["objects"]:
        return [f"{one['node']}: {one['reason']}"]
    return [f"{one['node']}: {name}: {reason}" for name, reason in one["objects"].items()]


def _rejected(end: Line) -> list[str]:
    told = end["progress"]
    lines = [f"{one['node']}: {one['object']} is refused: {one['reason']}" for one in told["rejected"]]
    hidden = told["rejectedCount"] - len(lines)
    return [*lines, f"and {hidden} more"] if hidden else lines
