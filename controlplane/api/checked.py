"""The apply that comes into force whole or is undone, as lines of JSON: each step as it is done, and how it ended."""

import asyncio
from contextlib import aclosing

import msgspec
from aiohttp import web

from controlplane.admission import Invalid, Plan, cannot_undo, read
from controlplane.api.answers import ApiError, strict
from controlplane.api.context import CONTEXT, NOTES
from controlplane.api.objects import ApplyRequest, author_of, refusal, warned
from controlplane.checked import Checked, Wish
from mesh.model import Violation

MAX_SECONDS = 3600.0
WRITE_SECONDS = 30.0
"""A client that reads slower is not told any more; the work goes on."""


class CheckedRequest(ApplyRequest, frozen=True, kw_only=True):
    seconds: float = 60.0
    """To wait until it is in force."""
    require_all: bool = False


async def apply(request: web.Request) -> web.StreamResponse:
    """What can be told before anybody is asked is an answer like any other; from then on it is lines."""
    context = request.app[CONTEXT]
    async with asyncio.timeout(context.settings.limits.request_seconds):
        wanted = await strict(request, CheckedRequest)
        wish, prepared = await _prepared(request, wanted)
    # A plan that is under way is waited for; another change may take much longer.
    if context.asking.turns.changing:
        hint = "each costs every host a compile; try again"
        raise ApiError(429, "another change is being judged", hint, retry_after=5)
    work = Checked(
        context.applier,
        context.asking,
        context.revisions,
        stopping=context.stopping,
        clock=asyncio.get_running_loop().time,
        wall=context.wall,
    )
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    await response.prepare(request)
    listening, warnings = True, await warned(context, prepared)
    async with aclosing(work.run(wish, prepared)) as lines:
        async for line in lines:
            if line["step"] == "written":
                request[NOTES].update(revision=line["revision"], changed=_changed(line))
                for result in line["results"]:
                    context.metrics.applied.labels(result["action"]).inc()
            elif line["step"] == "end":
                request[NOTES]["outcome"] = line["outcome"]
                line = {**line, "warnings": warnings}  # noqa: PLW2901 - the last one, and told once
            # Whoever asked may go away; what was begun is finished all the same, so that nothing stays half done.
            listening = listening and await _tell(response, msgspec.json.encode(line) + b"\n")
    return response


async def _prepared(request: web.Request, wanted: CheckedRequest) -> tuple[Wish, Plan]:
    context = request.app[CONTEXT]
    if not 0 <= wanted.seconds <= MAX_SECONDS:
        fault = Violation(path="seconds", reason=f"from 0 to {MAX_SECONDS:g}")
        raise ApiError(422, "the request is not valid", violations=[fault])
    if wanted.dry_run:
        raise ApiError(422, "a dry run writes nothing", "POST /v1/plan tells what would change")
    if not context.mirror.ready.is_set():
        raise ApiError(503, "this node has not read the store yet", "try again soon", retry_after=1)
    intent = read(wanted.objects, wanted.delete)
    if isinstance(intent, Invalid):
        raise refusal(request, intent)
    author = author_of(request)
    prepared = await context.applier.prepare(intent, author=author, source="apply")
    if not isinstance(prepared, Plan):
        raise refusal(request, prepared)
    if faults := cannot_undo(prepared.changes):
        raise refusal(request, Invalid(faults))
    return Wish(intent, author, wanted.seconds, wanted.require_all), prepared


def _changed(line: dict[str, object]) -> list[str]:
    results = line["results"]
    assert isinstance(results, list)
    return [f"{r['object']} {r['action']}" for r in results if r["action"] != "unchanged"][:100]


async def _tell(response: web.StreamResponse, line: bytes) -> bool:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(line)
    except (TimeoutError, ConnectionError):
        return False
    return True
