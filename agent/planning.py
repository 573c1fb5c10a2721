"""What a change that nobody has written yet would do to this host's proxy: computed beside the pipeline, not in it.

The changed world is compiled anew, in a thread, by a compiler of its own; what Envoy would say to it, an Envoy in
validation mode says. One question at a time, in bounded time: what takes longer is answered with an error.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.pipeline import Offer
from agent.search import Validate, find
from mesh import codec, keys
from mesh import compile as mesh_compile
from mesh.model import Ref, Revision, World
from mesh.model.uplink import Judged, Planned, Proposal, Proposed, ResourceChange
from mesh.store.protocol import Event

PLAN_SECONDS = 15.0
JUDGE_SECONDS = 40.0
"""A trial takes some 100 ms; finding which of many objects is guilty takes several."""
MAX_CHANGES = 2000
"""Resources that an answer names, whatever it is asked for; the rest is counted."""
MAX_PROBLEMS = 50


class PlanError(Exception):
    """The question cannot be answered, with the reason."""


@dataclass(frozen=True, slots=True)
class _Changed:
    """What would be offered, and the faults that would keep it from being offered."""

    offer: Offer
    problems: tuple[str, ...]


class Planner:
    def __init__(self, present: Callable[[], Offer | None], validate: Validate) -> None:
        """Answer for a host.

        Args:
            present: What is offered to Envoy now.
            validate: Asks an Envoy in validation mode.

        """
        self._present, self._validate = present, validate
        self._one, self._judges = asyncio.Lock(), 0
        self._thread: asyncio.Future[_Changed] | None = None
        """A compile under way, also when nobody waits for it any more."""

    async def plan(self, body: str) -> str:
        """Which resources the proposed objects would change. Whoever only looks does not wait."""
        proposal = _proposal(body)
        if self._one.locked() or self._judges or (self._thread is not None and not self._thread.done()):
            raise PlanError("another plan is under way on this host; try again")
        return await self._alone(self._plan(proposal), PLAN_SECONDS)

    async def judge(self, body: str) -> str:
        """Would Envoy take what the proposed objects would make, and if not, which of them does it refuse?

        It waits for a plan that is under way, which may be of another control-plane node, and goes before later ones.
        """
        proposal = _proposal(body)
        if self._judges:
            raise PlanError("another change is being judged on this host; try again")
        self._judges += 1
        try:
            return await self._alone(self._judge(proposal), JUDGE_SECONDS)
        finally:
            self._judges -= 1

    async def _alone(self, work: Coroutine[Any, Any, msgspec.Struct], seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds), self._one:
                if self._thread is not None and not self._thread.done():
                    await asyncio.wait([self._thread])
                return msgspec.json.encode(await work).decode()
        except TimeoutError as exc:
            raise PlanError(f"no answer within {seconds:g} s") from exc
        finally:
            work.close()

    async def _changed(self, proposed: tuple[Proposed, ...]) -> tuple[Offer, _Changed]:
        present = self._present()
        if present is None:
            raise PlanError("this host has not compiled anything yet")
        self._thread = asyncio.get_running_loop().run_in_executor(None, changed, present, proposed)
        self._thread.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else may ask for it
        return present, await asyncio.shield(self._thread)

    async def _plan(self, proposal: Proposal) -> Planned:
        present, then = await self._changed(proposal.objects)
        named = max(0, min(proposal.limit, MAX_CHANGES))
        found = mesh_compile.difference(present.snapshot, then.offer.snapshot)
        return Planned(
            revision=present.snapshot.revision,
            changes=tuple(
                ResourceChange(type=d.type, name=d.name, action=d.action, before=d.before, after=d.after)
                for d in found[:named]
            ),
            more=len(found[named:]),
            problems=then.problems,
        )

    async def _judge(self, proposal: Proposal) -> Judged:
        present, then = await self._changed(proposal.objects)
        if then.offer.snapshot.digest == present.snapshot.digest:
            return Judged(problems=then.problems)
        refused = await self._validate(then.offer.snapshot)
        if refused is None:
            return Judged(problems=then.problems)
        guilty = await find(then.offer, present, self._validate, {then.offer.snapshot.digest: refused})
        if not guilty and await self._validate(present.snapshot) is not None:
            # The change is not to blame: what is offered now is refused as well.
            return Judged(problems=(*then.problems, f"the present configuration is refused, too: {refused}"))
        objects = {str(ref): substitute.reason for ref, substitute in sorted(guilty.items())}
        return Judged(refused=refused, objects=objects, problems=then.problems)


def _proposal(body: str) -> Proposal:
    try:
        return codec.decode_struct(Proposal, body)
    except codec.Undecodable as exc:
        raise PlanError(f"the question cannot be read: {exc}") from exc


def changed(present: Offer, proposed: Iterable[Proposed]) -> _Changed:
    """What would be offered with these objects in the world. What stands in for refused objects stays, but for these.

    Raises:
        PlanError: it would not be offered at all.

    """
    world, problems = _world(present.world, proposed)
    view = mesh_compile.project(world, present.local)
    snapshot = mesh_compile.Compiler().compile(view)
    if faults := mesh_compile.check(snapshot):
        raise PlanError(f"it would not be offered to Envoy: {'; '.join(faults[:5])}")
    known = set(present.snapshot.problems)
    problems += [f"{p.object or view.frame.node}: {p.path}: {p.reason}" for p in snapshot.problems if p not in known]
    return _Changed(Offer(snapshot, world, present.local, present.newest), tuple(problems[:MAX_PROBLEMS]))


def _world(world: World, proposed: Iterable[Proposed]) -> tuple[World, list[str]]:
    """The world with these objects, read as the store's would be."""
    events, problems = [], []
    for one in proposed:
        try:
            key = keys.key_for(Ref(one.kind, one.namespace, one.name))
        except keys.BadKeyError as exc:
            problems.append(f"passed over here: {exc}")
            continue
        value = msgspec.json.encode(one.object) if one.object is not None else None
        events.append(Event(key, value, Revision(world.revision)))
    after = world.apply(codec.changes(events), world.revision)
    named = {event.key for event in events}
    problems += [f"{key}: {reason}" for key, reason in sorted(after.undecodable.items()) if key in named]
    return after, problems
