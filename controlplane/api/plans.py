"""What a change would do, before it is written: asked of the agents, who compile it as they would if it were."""

import asyncio

import msgspec
from aiohttp import web

from controlplane.api.answers import ApiError, answer, strict
from controlplane.api.context import CONTEXT, NOTES, Context
from controlplane.api.objects import ApplyRequest, author_of, refusal, warned
from controlplane.applier import Applied
from controlplane.asking import BusyError, Heard, Question, Told, proposal
from mesh import codec
from mesh.model.uplink import Planned

EACH_SECONDS, ALL_SECONDS = 20.0, 60.0
OF_ALL = frozenset({"plan", "judge"})
"""What another replica may ask of all agents that are connected here."""
OF_ONE = frozenset({"explain-call", "explain-answer", "drain", "undrain", "drained", "dump"})
"""What it may ask or order of one of them."""
MOST_SECONDS = 300
LIMIT, LIMIT_OF_ONE = 100, 2000
"""Resources that are named of each proxy: when all are asked, and when one is."""


class PlanRequest(ApplyRequest, frozen=True, kw_only=True):
    proxy: str = ""
    """Only that of this node."""


async def plan(request: web.Request) -> web.Response:
    """Nothing is written, whatever comes of it."""
    context = request.app[CONTEXT]
    # The body is read and checked in the time of a request; asking everybody may take longer.
    async with asyncio.timeout(context.settings.limits.request_seconds):
        wanted = await strict(request, PlanRequest)
        done = await context.applier.apply(
            wanted.objects, wanted.delete, author=author_of(request), source="apply", dry_run=True
        )
    if not isinstance(done, Applied):
        raise refusal(request, done)
    heard = Heard({}, {})
    if body := proposal(done.changes, LIMIT_OF_ONE if wanted.proxy else LIMIT):
        question = Question(
            what="plan", body=body, each_seconds=EACH_SECONDS, all_seconds=ALL_SECONDS, node=wanted.proxy
        )
        heard = await everywhere(context, question)
        if wanted.proxy and not heard.told and not heard.missing:
            raise ApiError(404, f"there is no node {wanted.proxy[:80]!r}", "`holdfast proxy status` lists them")
    document = {**_document(done, heard), "warnings": await warned(context, done)}
    request[NOTES].update(planned=len(done.changes), asked=len(heard.told))
    return answer(document)


async def everywhere(context: Context, question: Question) -> Heard:
    """Ask, while nobody else does so here."""
    try:
        async with context.asking.turns.look():
            return await context.asking.everywhere(question)
    except BusyError as exc:
        hint = "each costs every host a compile; try again"
        raise ApiError(429, "another plan is under way", hint, retry_after=5) from exc


def _document(done: Applied, heard: Heard) -> dict[str, object]:
    changed: list[dict[str, object]] = []
    unknown, unchanged = dict(heard.missing), 0
    for node, told in sorted(heard.told.items()):
        found = _planned(told)
        if isinstance(found, str):
            unknown[node] = found
        elif found.changes or found.more or found.problems:
            changed.append({"node": node, "changes": [], "more": 0, "problems": [], **msgspec.to_builtins(found)})
        else:
            unchanged += 1
    return {
        "revision": done.revision,
        "results": [msgspec.to_builtins(result) for result in done.results],
        "proxies": changed,
        "unchanged": unchanged,
        "unknown": [{"node": node, "reason": reason} for node, reason in sorted(unknown.items())],
    }


def _planned(told: Told) -> Planned | str:
    """Or why it is not known."""
    if told.error:
        return told.error
    try:
        return codec.decode_struct(Planned, told.body)
    except codec.Undecodable as exc:
        return f"its answer cannot be read: {exc}"


async def ask(request: web.Request) -> web.Response:
    """For another replica: the answers of the agents that are connected here."""
    context = request.app[CONTEXT]
    async with asyncio.timeout(context.settings.limits.request_seconds):
        question = await strict(request, Question)
    known = question.what in OF_ALL or (question.what in OF_ONE and question.node)
    if not known or not 0 < question.all_seconds <= MOST_SECONDS:
        raise ApiError(422, f"{question.what[:80]!r} is not asked of {question.node[:80] or 'all agents'}")
    told = await context.asking.here(question)
    return answer({"items": [msgspec.to_builtins(one) for one in told]})
