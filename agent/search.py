"""Which objects did Envoy refuse? The shell around `quarantine`: compiles trials and lets Envoy validate them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from agent import quarantine
from agent.pipeline import Offer, Substitute, Substitutes
from mesh import compile as mesh_compile
from mesh.compile.types import Snapshot
from mesh.model import Ref

log = structlog.get_logger(__name__)

Validate = Callable[[Snapshot], Awaitable[str | None]]
"""Why Envoy would refuse a snapshot, or None. Slow: it starts an Envoy."""

Verdicts = Mapping[bytes, str | None]
"""Digest of a snapshot -> why an Envoy refused it; None: it took it."""


async def find(offer: Offer, accepted: Offer | None, validate: Validate, known: Verdicts) -> Substitutes:
    """What stands in for the guilty objects of a refused offer; nothing if no object is to blame.

    `known`: what Envoy has said of whole snapshots already. That a running one refused the offer does not count: a
    trial must show it, or no trial could say who is to blame.
    """
    before = accepted.world.objects if accepted else {}
    after = offer.world.objects
    changed = quarantine.changed(before, after)
    search = quarantine.Search(changed, likely=quarantine.newest(changed, after))
    trials = _Trials(offer, before, validate, known)
    while (refs := search.next_trial()) is not None:
        search.result(accepted=await trials.both(refs, search.foreseen()) is None)
    log.warning(
        "searched what Envoy refused",
        verdict=search.verdict,
        guilty=[str(ref) for ref in sorted(search.guilty)],
        trials=search.trials,
        envoys=trials.envoys,
    )
    if search.verdict != "found":
        return {}
    # The smallest refused trial that a guilty object was in says best what is wrong with it.
    reasons = sorted(((refs, why) for refs, why in trials.told.items() if why is not None), key=lambda t: len(t[0]))
    return {
        r.ref: Substitute(
            refused=after.get(r.ref),
            instead=r,
            reason=next((why for refs, why in reasons if r.ref in refs), "refused by Envoy"),
        )
        for r in quarantine.plan(search.guilty, before, after)
    }


class _Trials:
    """Of one search. No snapshot is asked about twice: objects that this proxy has nothing of cost no Envoy."""

    def __init__(self, offer: Offer, before: quarantine.Objects, validate: Validate, known: Verdicts) -> None:
        self._offer, self._before, self._validate = offer, before, validate
        self._verdicts = dict(known)
        self._compiler, self._compiling = mesh_compile.Compiler(), asyncio.Lock()
        self.told: dict[frozenset[Ref], str | None] = {}
        """By objects in their new form."""
        self.envoys = 0

    async def both(self, refs: frozenset[Ref], foreseen: frozenset[Ref] | None) -> str | None:
        """The verdict of a trial, and meanwhile that of the one which comes next."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._try(refs))
            if foreseen is not None:
                group.create_task(self._try(foreseen))
        return self.told[refs]

    async def _try(self, refs: frozenset[Ref]) -> None:
        if refs in self.told:
            return
        async with self._compiling:
            snapshot, fault = await asyncio.to_thread(self._compile, refs)
        if not fault and snapshot.digest not in self._verdicts:
            self.envoys += 1
            self._verdicts[snapshot.digest] = await self._validate(snapshot)
        self.told[refs] = fault or self._verdicts[snapshot.digest]

    def _compile(self, refs: frozenset[Ref]) -> tuple[Snapshot, str]:
        """The snapshot, and why it must not be offered."""
        world = quarantine.keep(self._offer.world, self._before, refs)
        snapshot = self._compiler.compile(self._compiler.project(world, self._offer.local))
        return snapshot, "; ".join(mesh_compile.check(snapshot)[:3])
