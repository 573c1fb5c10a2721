"""A host out of service and back: the word is its agent's, which keeps it; here it is passed on and asked for."""

from typing import Any

import msgspec
from aiohttp import web

from controlplane.api.answers import ApiError, answer
from controlplane.api.context import CONTEXT, NOTES
from controlplane.asking import OFFLINE, Question

EACH_SECONDS, ALL_SECONDS = 10.0, 12.0


async def drain(request: web.Request) -> web.Response:
    """Its instances are *draining* from now on, until it is put back."""
    return answer(await _order(request, "drain"), status=202)


async def undrain(request: web.Request) -> web.Response:
    return answer(await _order(request, "undrain"))


async def drained(request: web.Request) -> web.Response:
    """How far callers have left."""
    return answer(await _ask(request, "drained"))


async def _order(request: web.Request, what: str) -> Any:
    request[NOTES].update(node=request.match_info["node"], order=what)
    return await _ask(request, what)


async def _ask(request: web.Request, what: str) -> Any:
    context, node = request.app[CONTEXT], request.match_info["node"]
    heard = await context.asking.everywhere(
        Question(what=what, each_seconds=EACH_SECONDS, all_seconds=ALL_SECONDS, node=node)
    )
    told = heard.told.get(node)
    if told is None:
        why = heard.missing.get(node)
        if why is None:
            raise ApiError(404, f"there is no node {node[:80]!r}")
        hint = "on the host itself: `holdfast-agent drain`; `holdfast proxy status` shows who is connected"
        raise ApiError(409 if why == OFFLINE else 502, f"the agent of node {node!r} was not reached: {why}", hint)
    if told.error:
        raise ApiError(502, f"{node}: {told.error}", "an agent of an earlier version does not know this")
    try:
        return msgspec.json.decode(told.body)
    except msgspec.MsgspecError as exc:
        raise ApiError(502, f"{node}: its answer cannot be read: {exc}") from exc
