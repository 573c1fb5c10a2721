"""Which objects did Envoy refuse? The shell around `quarantine`: compiles trials and lets Envoy validate them."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from agent import quarantine
from agent.pipeline import Offer, Substitute, Substitutes
from mesh import compile as mesh_compile
from mesh.compile.types import Snapshot
from mesh.model import World

log = structlog.get_logger(__name__)

Validate = Callable[[Snapshot], Awaitable[str | None]]
"""Why Envoy would refuse a snapshot, or None. Slow: it starts an Envoy."""


async def find(offer: Offer, accepted: Offer | None, validate: Validate) -> Substitutes:
    """What stands in for the guilty objects of a refused offer; nothing if no object is to blame."""
    before = accepted.world.objects if accepted else {}
    after = offer.world.objects
    search = quarantine.Search(quarantine.changed(before, after))
    reasons: dict[frozenset[object], str] = {}
    compiler = mesh_compile.Compiler()
    while (refs := search.next_trial()) is not None:
        world = quarantine.keep(offer.world, before, refs)
        reason = await _try(world, offer, compiler, validate)
        if reason is not None:
            reasons[frozenset(refs)] = reason
        search.result(accepted=reason is None)
    log.warning(
        "searched what Envoy refused",
        verdict=search.verdict,
        guilty=[str(ref) for ref in sorted(search.guilty)],
        trials=search.trials,
    )
    if search.verdict != "found":
        return {}
    # The smallest refused trial that a guilty object was in says best what is wrong with it.
    return {
        r.ref: Substitute(
            refused=after.get(r.ref),
            instead=r,
            reason=next((reasons[s] for s in sorted(reasons, key=len) if r.ref in s), "refused by Envoy"),
        )
        for r in quarantine.plan(search.guilty, before, after)
    }


async def _try(world: World, offer: Offer, compiler: mesh_compile.Compiler, validate: Validate) -> str | None:
    view = mesh_compile.project(world, offer.local)
    snapshot = await asyncio.to_thread(compiler.compile, view)
    if faults := mesh_compile.check(snapshot):
        return "; ".join(faults[:3])
    return await validate(snapshot)
