"""What is ordered or asked of one host: out of service and back, a dump. The agent does it; here it is passed on."""

from typing import Any

import msgspec
from aiohttp import web

from controlplane.api.answers import ApiError, answer
from controlplane.api.context import CONTEXT, NOTES
from controlplane.asking import OFFLINE, Question

EACH_SECONDS, ALL_MORE_SECONDS = 10.0, 2.0
DUMP_SECONDS = 55.0
"""An agent gives up five seconds before."""


async def drain(request: web.Request) -> web.Response:
    """Its instances are *draining* from now on, until it is put back."""
    return answer(await _order(request, "drain"), status=202)


async def undrain(request: web.Request) -> web.Response:
    return answer(await _order(request, "undrain"))


async def drained(request: web.Request) -> web.Response:
    """How far callers have left."""
    return answer(await _ask(request, "drained"))


async def dump(request: web.Request) -> web.Response:
    """All that is known of a host, as its agent packs it: a tar.gz, in base64."""
    node = request.match_info["node"]
    request[NOTES].update(node=node, order="dump")
    return answer(await _ask(request, "dump", DUMP_SECONDS))


async def _order(request: web.Request, what: str) -> Any:
    request[NOTES].update(node=request.match_info["node"], order=what)
    return await _ask(request, what)


async def _ask(request: web.Request, what: str, seconds: float = EACH_SECONDS) -> Any:
    context, node = request.app[CONTEXT], request.match_info["node"]
    heard = await context.asking.everywhere(
        Question(what=what, each_seconds=seconds, all_seconds=seconds + ALL_MORE_SECONDS, node=node)
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
