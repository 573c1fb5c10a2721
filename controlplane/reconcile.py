"""The leader's work: endpoints follow Services, silent hosts are marked lost, and what is over is removed.

One loop, level-triggered: it wakes when something changed or a grace ends, looks at the View, and writes the plans
of `registry` fenced by its election. It holds no state that a new leader would miss.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from controlplane.election import Election
from controlplane.history import surplus
from controlplane.liveness import Liveness
from controlplane.mirror import Mirror
from controlplane.registry import Plan, pack, plan_remove, plan_service
from controlplane.view import Expiring, Touched, View
from controlplane.writer import Writer
from mesh import codec, keys
from mesh.aio import Backoff, pause
from mesh.model import MeshConfigSpec, ServiceRef
from mesh.store.errors import Conflict, Refused, StoreError, Unavailable
from mesh.store.protocol import Compare, Delete, Item, Store

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 300.0
"""Everything is looked at anew, and expired records are removed."""
KEEP_SECONDS = 24 * 3600.0
"""Expired tokens stay that long, so that their use is told apart from an unknown token's."""
DEFAULT_GRACE = MeshConfigSpec(trust_domain="").liveness_grace_seconds


def grace_of(view: View) -> float:
    config = view.config
    return config.spec.liveness_grace_seconds if config else DEFAULT_GRACE


def known_lost(view: View, liveness: Liveness, now: float) -> frozenset[str]:
    """Nodes that are lost now: silent for the grace, or marked by an earlier leader and not back."""
    silent = liveness.lost(view.nodes_with_instances(), now, grace_of(view))
    return silent | (view.marked_lost() - liveness.connected)


def services_on(view: View, nodes: frozenset[str] | set[str]) -> set[ServiceRef]:
    """Services that any instance of these nodes is an endpoint of, or could be."""
    found: set[ServiceRef] = set()
    for node in nodes:
        for held in view.instances_on(node):
            found.update(view.endpoints_of(held.object.ref))
            found.update(service.object.service for service in view.candidates(held.object))
    return found


def plan_orphans(view: View) -> tuple[Plan, ...]:
    """Instances of nodes that exist no more."""
    gone = [node for node in view.nodes_with_instances() if view.node(node) is None]
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
        self._lost: frozenset[str] = frozenset()
        self._dirty: set[ServiceRef] = set()
        self._wake = asyncio.Event()
        self._term = (-1, -1)
        self._next_sweep = 0.0
        mirror.subscribe(self._notice)
        election.subscribe(self._wake.set)

    def _notice(self, touched: Touched) -> None:
        self._dirty |= touched.services
        if touched.nodes:
            self._dirty |= services_on(self._view, touched.nodes)
        self._wake.set()

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            fence = await self._election.fence()
            await self._mirror.ready.wait()
            self._wake.clear()
            try:
                await self._step(fence, clock())
            except Conflict:
                # Somebody else was faster, or leads now; the view has been refreshed.
                await pause(self._backoff.next())
                continue
            except StoreError as exc:
                if isinstance(exc, Refused):
                    log.error("the store refuses the leader's write", error=str(exc))  # noqa: TRY400 - expected, no trace
                await pause(self._backoff.next())
                continue
            self._backoff.reset()
            await self._sleep(clock)

    async def _sleep(self, clock: Callable[[], float]) -> None:
        now = clock()
        waits = [self._next_sweep - now]
        nodes = [node for node in self._view.nodes_with_instances() if node not in self._lost]
        if (left := self._liveness.next(nodes, now, grace_of(self._view))) is not None:
            waits.append(left)
        try:
            async with asyncio.timeout(max(0.001, min(waits))):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _step(self, fence: Compare, now: float) -> None:
        if not self._mirror.connected:
            raise Unavailable("the store is away")
        term = (self._election.terms, self._mirror.outages)
        if term != self._term:
            self._term, self._next_sweep = term, now
            self._liveness.restart(now)
        self._liveness.observe(self._view.replicas, now)
        lost = known_lost(self._view, self._liveness, now)
        for node in lost - self._lost:
            log.warning("host lost", node=node)
        for node in self._lost - lost:
            log.info("host back", node=node)
        self._dirty |= services_on(self._view, lost ^ self._lost)
        self._lost = lost
        sweep = now >= self._next_sweep
        if sweep:
            self._dirty |= self._view.services.keys() | self._view.endpoints.keys()
        await self._write(plan_orphans(self._view), fence)
        while self._dirty:
            service = self._dirty.pop()
            try:
                await self._write(plan_service(self._view, service, lost), fence)
            except StoreError:
                self._dirty.add(service)
                raise
        if sweep:
            await self._sweep(fence)
            self._next_sweep = now + SWEEP_SECONDS

    async def _sweep(self, fence: Compare) -> None:
        for prefix in (keys.TOKENS, keys.OPERATORS, keys.JOINS):
            await self._write(plan_expired((await self._store.list(prefix)).items, self._wall()), fence)
        await self._write(plan_history((await self._store.list(keys.HISTORY_INDEX)).items, self._wall()), fence)

    async def _write(self, parts: tuple[Plan, ...], fence: Compare) -> None:
        for plan in pack(parts, self._limit):
            await self._writer.commit(plan, author=self._author, fence=fence)
