"""The leader's work: endpoints follow Services, silent hosts are marked lost, and what is over is removed.

One loop, level-triggered: it wakes when something changed or a grace ends, looks at the View, and writes the plans
of `registry` fenced by its election. It holds no state that a new leader would miss.
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from controlplane.election import Election
from controlplane.history import surplus
from controlplane.liveness import Liveness
from controlplane.mirror import Mirror
from controlplane.registry import Plan, pack, plan_endpoints, plan_remove, plan_service
from controlplane.touched import Touched
from controlplane.view import Expiring, View
from controlplane.writer import Writer
from mesh import codec, keys
from mesh.aio import Backoff, pause
from mesh.model import MeshConfigSpec
from mesh.store.errors import Refused, StoreError, Unavailable
from mesh.store.protocol import Compare, Delete, Item, Store

log = structlog.get_logger(__name__)
T = TypeVar("T")

SWEEP_SECONDS = 300.0
"""Everything is looked at anew, and expired records are removed."""
KEEP_SECONDS = 24 * 3600.0
"""Expired tokens stay that long, so that their use is told apart from an unknown token's."""
DEFAULT_GRACE = MeshConfigSpec(trust_domain="").liveness_grace_seconds


def grace_of(view: View) -> float:
    config = view.config
    return config.spec.liveness_grace_seconds if config else DEFAULT_GRACE


def plan_orphans(view: View, nodes: Iterable[str]) -> tuple[Plan, ...]:
    """Instances of those of these nodes that exist no more."""
    gone = [node for node in nodes if view.node(node) is None]
    return tuple(plan_remove(view, held) for node in gone for held in view.instances_on(node))


def plan_expired(items: tuple[Item, ...], now: float) -> tuple[Plan, ...]:
    """Records that expired long ago; one that cannot be read is left for people to look at."""
    parts: list[Plan] = []
    for item in items:
        try:
            record = codec.decode_struct(Expiring, item.value)
        except codec.Undecodable:
            continue
        if record.expires + KEEP_SECONDS < now:
            part = Plan()
            part.change(Delete(item.key), item.revision)
            parts.append(part)
    return tuple(parts)


def plan_history(index: tuple[Item, ...], now: float) -> tuple[Plan, ...]:
    """Entries of the history that are too many or too old, each with its objects."""
    parts: list[Plan] = []
    for item in surplus(index, now):
        part = Plan()
        part.change(Delete(item.key), item.revision)
        objects = keys.HISTORY_OBJECTS + item.key.removeprefix(keys.HISTORY_INDEX)
        part.ops[objects] = Delete(objects)
        parts.append(part)
    return tuple(parts)


class Reconciler:
    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        election: Election,
        *,
        author: str,
        limit: int,
        wall: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._store, self._mirror, self._view, self._election = store, mirror, mirror.view, election
        self._writer = Writer(store, mirror.view)
        self._author, self._limit, self._wall = author, limit, wall
        self._backoff = Backoff(rng, base=0.02, cap=2.0)
        self._liveness = Liveness()
        self._silent: frozenset[str] = frozenset()
        """Nodes of which nothing has been heard for the grace, when it was last looked at."""
        self._due = 0.0
        """When the next of them may become so."""
        self._lost: frozenset[str] = frozenset()
        self._dirty = Touched()
        self._wake = asyncio.Event()
        self._term = (-1, -1)
        self._next_sweep = 0.0
        mirror.subscribe(self._notice)
        election.subscribe(self._wake.set)

    def _notice(self, touched: Touched) -> None:
        if self._election.leading:  # a new leader begins with a look at everything
            self._dirty.add(touched)
        self._wake.set()

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            fence = await self._election.fence()
            await self._mirror.ready.wait()
            self._wake.clear()
            dirty, self._dirty = self._dirty, Touched()
            try:
                await self._step(dirty, fence, clock())
            except StoreError as exc:
                # A conflict: somebody else was faster, or leads now; the view has been refreshed.
                if isinstance(exc, Refused):
                    log.error("the store refuses the leader's write", error=str(exc))  # noqa: TRY400 - expected, no trace
                self._dirty.add(dirty)
                await pause(self._backoff.next())
                continue
            self._backoff.reset()
            await self._sleep(clock)

    async def _sleep(self, clock: Callable[[], float]) -> None:
        try:
            async with asyncio.timeout(max(0.001, min(self._next_sweep, self._due) - clock())):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _step(self, dirty: Touched, fence: Compare, now: float) -> None:
        """Do what `dirty` asks for; what is done is taken out of it."""
        if not self._mirror.connected:
            raise Unavailable("the store is away")
        view = self._view
        term = (self._election.terms, self._mirror.outages)
        if new := term != self._term:
            self._term, self._next_sweep = term, now
            self._liveness.restart(now)
        sweep = now >= self._next_sweep
        if sweep:
            dirty.services |= view.services.keys() | view.endpoints.keys()
            dirty.nodes.update(view.nodes_with_instances())
        if new or now >= self._due or dirty.replicas or dirty.nodes or dirty.config:
            self._listen(now)
        # Lost are those that are silent, and those that an earlier leader marked and that are not back.
        dirty.nodes |= self._turned(self._silent | (view.marked_lost() - self._liveness.connected))
        await self._write(plan_orphans(view, dirty.nodes), fence)
        dirty.instances.update(held.object.ref for node in dirty.nodes for held in view.instances_on(node))
        dirty.nodes, dirty.replicas, dirty.config = set(), False, False
        await self._work_off(dirty.services, lambda service: plan_service(view, service, self._lost), fence)
        await self._work_off(dirty.instances, lambda ref: plan_endpoints(view, ref, self._lost), fence)
        if sweep:
            await self._sweep(fence)
            self._next_sweep = now + SWEEP_SECONDS

    def _listen(self, now: float) -> None:
        """Who has been silent for too long, and when to look again."""
        self._liveness.observe(self._view.replicas, now)
        nodes, grace = list(self._view.nodes_with_instances()), grace_of(self._view)
        self._silent = self._liveness.lost(nodes, now, grace)
        left = self._liveness.next([node for node in nodes if node not in self._silent], now, grace)
        self._due = now + left if left is not None else math.inf

    def _turned(self, lost: frozenset[str]) -> frozenset[str]:
        """Nodes that are lost now and were not, or the other way round."""
        for node in lost - self._lost:
            log.warning("host lost", node=node)
        for node in self._lost - lost:
            log.info("host back", node=node)
        turned, self._lost = lost ^ self._lost, lost
        return turned

    async def _work_off(self, dirty: set[T], plan: Callable[[T], tuple[Plan, ...]], fence: Compare) -> None:
        """One after the other; what could not be written stays to be done."""
        while dirty:
            one = dirty.pop()
            try:
                await self._write(plan(one), fence)
            except StoreError:
                dirty.add(one)
                raise

    async def _sweep(self, fence: Compare) -> None:
        for prefix in (keys.TOKENS, keys.OPERATORS, keys.JOINS, keys.PEERING_TOKENS):
            await self._write(plan_expired((await self._store.list(prefix)).items, self._wall()), fence)
        await self._write(plan_history((await self._store.list(keys.HISTORY_INDEX)).items, self._wall()), fence)

    async def _write(self, parts: tuple[Plan, ...], fence: Compare) -> None:
        for plan in pack(parts, self._limit):
            await self._writer.commit(plan, author=self._author, fence=fence)
