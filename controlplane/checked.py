"""An apply that comes into force whole, or is undone.

    prepare -> every connected agent lets an Envoy judge it -> write -> wait -> a proxy refuses it after all: put back

What an Envoy refuses is not written. What was judged is what is written: the transaction compares everything that the
plan stood on. What a running proxy refuses nevertheless (an address in use, say) is put back to what it was, unless
somebody changed it meanwhile.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from controlplane.admission import Conflicts, Intent, Invalid, Plan, cannot_undo
from controlplane.applier import Applied, Applier
from controlplane.asking import OFFLINE, Asking, Heard, Question, Told, proposal
from controlplane.progress import MAX_LISTED, Progress, document
from controlplane.progress import Question as Target
from controlplane.revisions import Revisions
from mesh import codec
from mesh.model.uplink import Judged
from mesh.store.errors import Conflict, StoreError

log = structlog.get_logger(__name__)

EACH_SECONDS, ALL_SECONDS = 45.0, 150.0
ATTEMPTS = 3
"""When somebody changes the same objects meanwhile, what was judged is not what would be written: all of it again."""
STEP_SECONDS = 1.0
"""How often progress is told."""

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    intent: Intent
    author: str
    seconds: float
    """To wait for, once it is written."""
    require_all: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    asked: int = 0
    refusals: tuple[tuple[str, Judged], ...] = ()
    """Node, and what its Envoy says."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Node that must be asked and cannot be -> why."""
    offline: tuple[str, ...] = ()


def verdict(heard: Heard, *, require_all: bool) -> Verdict:
    """What all of them say together. Pure."""
    refusals: list[tuple[str, Judged]] = []
    unknown: dict[str, str] = {}
    offline: list[str] = []
    for node, reason in sorted(heard.missing.items()):
        if reason == OFFLINE and not require_all:
            offline.append(node)
        else:
            unknown[node] = reason
    for node, told in sorted(heard.told.items()):
        found = _judged(told)
        if isinstance(found, str):
            unknown[node] = found
        elif found.refused:
            refusals.append((node, found))
    return Verdict(len(heard.told), tuple(refusals), unknown, tuple(offline))


def _judged(told: Told) -> Judged | str:
    """Or why it is not known."""
    if told.error:
        return told.error
    try:
        return codec.decode_struct(Judged, told.body)
    except codec.Undecodable as exc:
        return f"its answer cannot be read: {exc}"


class Checked:
    def __init__(
        self,
        applier: Applier,
        asking: Asking,
        revisions: Revisions,
        *,
        stopping: asyncio.Event,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._applier, self._asking, self._revisions = applier, asking, revisions
        self._stopping, self._clock, self._wall = stopping, clock, wall

    async def run(self, wish: Wish, prepared: Plan) -> AsyncGenerator[Line, None]:
        """Tell each step; the last line is `{"step": "end", "outcome": ...}`."""
        done: Applied | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                again = await self._applier.prepare(wish.intent, author=wish.author, source="apply")
                if isinstance(again, Plan) and (faults := cannot_undo(again.changes)):
                    again = Invalid(faults)
                if not isinstance(again, Plan):
                    yield _end("conflict", reasons=_reasons(again))
                    return
                prepared = again
            found = await self._ask(prepared, wish)
            yield {"step": "judged", "asked": found.asked, "offline": list(found.offline)[:MAX_LISTED]}
            if found.refusals or found.unknown:
                yield _unwritten(found)
                return
            if (done := await self._applier.commit(prepared)) is not None:
                break
        if done is None:
            yield _end("conflict", reasons=["others change the same objects faster than they can be judged"])
            return
        yield {"step": "written", **written(done)}
        progress = Progress(done.wait_for)
        async for progress in self._wait(done, wish):
            yield {"step": "progress", **document(progress, self._wall())}
        yield await self._conclude(done, progress, wish)

    async def _ask(self, prepared: Plan, wish: Wish) -> Verdict:
        body = proposal(prepared.changes, 0)
        if not body:
            return Verdict()
        question = Question(what="judge", body=body, each_seconds=EACH_SECONDS, all_seconds=ALL_SECONDS)
        async with self._asking.turns.change():
            return verdict(await self._asking.everywhere(question), require_all=wish.require_all)

    async def _wait(self, done: Applied, wish: Wish) -> AsyncIterator[Progress]:
        if not done.wait_for:
            return
        objects = frozenset(result.object for result in done.results)
        target = Target(done.wait_for, await self._revisions.epoch(), objects, require_all=wish.require_all)
        end = self._clock() + wish.seconds
        while True:
            left = end - self._clock()
            progress = await self._revisions.wait(target, max(0.0, min(STEP_SECONDS, left)))
            yield progress
            if progress.state != "waiting" or left <= STEP_SECONDS or self._stopping.is_set():
                return

    async def _conclude(self, done: Applied, progress: Progress, wish: Wish) -> Line:
        told = {**written(done), "progress": document(progress, self._wall())}
        if progress.state != "rejected":
            return _end(progress.state, **told)
        if not done.changes:
            return _end("not put back", reasons=["nothing was changed by this call"], **told)
        try:
            back = await self._applier.put_back(done, author=wish.author)
        except (Conflict, StoreError) as exc:
            log.warning("what a proxy refused was not put back", revision=done.revision, error=str(exc))
            return _end("not put back", reasons=[str(exc)], **told)
        if not isinstance(back, Applied):
            return _end("not put back", reasons=_reasons(back), **told)
        return _end("put back", back=written(back), **told)


def _end(outcome: str, **more: Any) -> Line:
    return {"step": "end", "outcome": outcome, **more}


def _unwritten(found: Verdict) -> Line:
    refusals = [
        {"node": node, "reason": judged.refused, "objects": judged.objects}
        for node, judged in found.refusals[:MAX_LISTED]
    ]
    unknown = [{"node": node, "reason": reason} for node, reason in sorted(found.unknown.items())[:MAX_LISTED]]
    return _end(
        "refused" if refusals else "unknown",
        refusals=refusals,
        refusalCount=len(found.refusals),
        unknown=unknown,
        unknownCount=len(found.unknown),
    )


def written(done: Applied) -> Line:
    """A write, for answers."""
    return {
        "revision": done.revision,
        "waitFor": done.wait_for,
        "entry": done.entry,
        "results": [msgspec.to_builtins(result) for result in done.results],
    }


def _reasons(outcome: Invalid | Conflicts) -> list[str]:
    if isinstance(outcome, Conflicts):
        return [f"somebody else changed {name} meanwhile" for name in outcome.objects]
    return [f"{fault.object} {fault.path}: {fault.reason}".strip() for fault in outcome.violations]
