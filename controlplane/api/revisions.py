"""How far a revision has come: the question of operators, and the part of it that other replicas are asked."""

import msgspec
from aiohttp import web

from controlplane.api.answers import ApiError, answer, number, strict
from controlplane.api.context import CONTEXT, Context
from controlplane.progress import Question, document
from controlplane.revisions import MAX_WAIT_SECONDS
from mesh.model import Frozen, Violation


class WaitRequest(Frozen, frozen=True, kw_only=True):
    revision: int
    objects: tuple[str, ...] = ()
    """As answers name them; that a proxy refuses one of these ends the wait."""
    require_all: bool = False
    seconds: float = 0.0
    """0: as it is now."""


async def wait(request: web.Request) -> web.Response:
    """Answers when the revision is in force, when an object of it is refused, or after these seconds."""
    context, wanted = request.app[CONTEXT], await strict(request, WaitRequest)
    faults = []
    if not 0 <= wanted.revision < 1 << 63:
        faults.append(Violation(path="revision", reason="it is a revision of the store"))
    if not 0 <= wanted.seconds <= MAX_WAIT_SECONDS:
        faults.append(Violation(path="seconds", reason=f"from 0 to {MAX_WAIT_SECONDS:g}; ask again to wait longer"))
    if faults:
        raise ApiError(422, "the request is not valid", violations=faults)
    _ready(context)
    if context.open_watches >= context.settings.limits.watches:
        raise ApiError(429, "too many watches are open on this node", "try another node", retry_after=1)
    revisions = context.revisions
    question = Question(
        wanted.revision, await revisions.epoch(), frozenset(wanted.objects), require_all=wanted.require_all
    )
    with context.watching():
        progress = await revisions.wait(question, wanted.seconds)
    return answer(document(progress, context.wall()))


async def standings(request: web.Request) -> web.Response:
    """For another replica: the proxies that are connected here."""
    revisions = request.app[CONTEXT].revisions
    found = await revisions.local(number(request, "revision"), number(request, "wait"))
    return answer({"items": [msgspec.to_builtins(one) for one in found]})


def _ready(context: Context) -> None:
    if not context.mirror.ready.is_set():
        raise ApiError(503, "this node has not read the store yet", "try again soon", retry_after=1)
