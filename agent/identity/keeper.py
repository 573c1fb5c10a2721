"""What this host holds: in memory for compile, on disk for the next start. Gets what is missing, renews what is due.

A CA that is away costs nothing but runway: what is held goes on serving until it expires.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog

from agent import metrics
from agent.identity import rotation
from agent.identity.join import Exchange
from agent.identity.leaf import serial
from agent.identity.orders import GATE, NODE, Order, Outcome, SignOrder
from agent.state import Disk, StoredIdentity
from mesh.aio import Backoff
from mesh.model import Identity
from mesh.model.uplink import SvidStatus

log = structlog.get_logger(__name__)

BASE, CAP = 2.0, 300.0
"""Back-off of failed renewals, seconds: at one third of life there are two thirds left to try in."""

DENIED_AGAIN = 60.0
"""Seconds until what policy denied is asked for again: an operator may have allowed it meanwhile."""

SOONEST = 1.0

LOOK_SECONDS = 60.0
"""At the most between looks at the clock: a timer stands still while the host sleeps, and does not see it being set."""


class Keeper:
    def __init__(
        self,
        disk: Disk,
        exchange: Exchange,
        *,
        urls: Callable[[], tuple[str, ...]],
        roots: Callable[[], tuple[str, ...]],
        wanted: Callable[[], Iterable[str]],
        on_change: Callable[[], None],
        on_due: Callable[[], None],
        clock: Callable[[], float],
        rng: random.Random,
        counters: metrics.Counters,
    ) -> None:
        self._disk, self._exchange, self._urls, self._roots, self._wanted = disk, exchange, urls, roots, wanted
        self._on_change, self._on_due, self._clock, self._rng = on_change, on_due, clock, rng
        self._counters = counters
        self._backoff = Backoff(rng, base=BASE, cap=CAP)
        self._jitter: dict[str, float] = {}
        self._nudged = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._denied_until: dict[str, float] = {}
        self.denied: dict[str, str] = {}
        """Name -> reason, as of the last try."""
        self.failure = ""
        """Why the last exchange failed."""
        self.stored: StoredIdentity | None = None

    def start(self, stored: StoredIdentity) -> None:
        """What is held at the start, or after a join."""
        self.stored = stored

    @property
    def held(self) -> dict[str, Identity]:
        """Workloads and gate, as compile wants them."""
        return self.stored.held if self.stored else {}

    def renew(self) -> None:
        """Look now whether anything is missing or due."""
        self._nudged.set()

    async def run(self) -> None:
        """One exchange after the other, as far as any is due."""
        while True:
            await self._nudged.wait()
            self._nudged.clear()
            delay = await self._once()
            if not self.failure:
                delay = min(delay, LOOK_SECONDS)
            # The machine decides whether that is still wanted then.
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_due)

    async def _once(self) -> float:
        """Seconds until it is to be looked at again."""
        assert self.stored is not None
        now = self._clock()
        names = self._due(now)
        if names:
            outcome = await self._exchange(Order(now=now, sign=self._order(self.stored, names)))
            await self._take(outcome, now)
            if outcome.error:
                return max(SOONEST, outcome.retry_after, self._backoff.next())
            self._backoff.reset()
        return self._wait(self._clock())

    def _due(self, now: float) -> tuple[str, ...]:
        wanted = {NODE, *self._wanted()}
        for name in wanted:
            self._jitter.setdefault(name, self._rng.random())
        for name in self.denied.keys() - wanted:
            del self.denied[name]
        open_now = [name for name in wanted if self._denied_until.get(name, 0.0) <= now]
        return rotation.due(open_now, self._everything(), now, self._jitter)

    def _everything(self) -> dict[str, Identity]:
        assert self.stored is not None
        return {NODE: self.stored.own, **self.stored.held}

    def _order(self, stored: StoredIdentity, names: tuple[str, ...]) -> SignOrder:
        return SignOrder(
            urls=self._urls(),
            roots=self._roots(),
            trust_domain=stored.trust_domain,
            node=stored.node,
            own=stored.own,
            wanted=names,
        )

    async def _take(self, outcome: Outcome, now: float) -> None:
        self.failure = outcome.error
        self._counters.count(metrics.EXCHANGES, outcome="failed" if outcome.error else "done")
        if outcome.error:
            log.warning("certificates were not renewed, will retry", error=outcome.error)
        for name, reason in outcome.denied.items():
            log.warning("identity denied", identity=name, reason=reason)
            self._denied_until[name] = now + DENIED_AGAIN
        self.denied = {n: r for n, r in self.denied.items() if n not in outcome.held} | outcome.denied
        if not outcome.held and not outcome.roots:
            return
        assert self.stored is not None
        held = dict(outcome.held)
        own = held.pop(NODE, self.stored.own)
        before = self.stored
        self.stored = msgspec.structs.replace(
            before, own=own, held=before.held | held, roots=outcome.roots or before.roots
        )
        if self.stored == before:
            return
        log.info("certificates renewed", identities=sorted(outcome.held))
        await asyncio.to_thread(self._disk.identities.save, self.stored)
        self._on_change()

    def _wait(self, now: float) -> float:
        wanted = {NODE, *self._wanted()}
        held = {name: identity for name, identity in self._everything().items() if name in wanted}
        times = [until for name, until in self._denied_until.items() if name in wanted and name in self.denied]
        if (at := rotation.next_due(held, self._jitter)) is not None:
            times.append(at)
        return max(SOONEST, min(times, default=now + CAP) - now)

    def forget(self, wanted: Iterable[str]) -> None:
        """Drop what no definition needs any more; the next write to disk leaves it out."""
        if self.stored is None:
            return
        keep = {GATE, *wanted}
        held = {name: identity for name, identity in self.stored.held.items() if name in keep}
        if held.keys() != self.stored.held.keys():
            self.stored = msgspec.structs.replace(self.stored, held=held)

    # --- what can be told of it ---

    def svids(self) -> tuple[SvidStatus, ...]:
        if self.stored is None:
            return ()
        return tuple(
            SvidStatus(
                spiffe_id=i.spiffe_id, serial=serial(i.chain_pem), not_before=i.not_before, not_after=i.not_after
            )
            for i in self._everything().values()
        )

    def runways(self) -> Mapping[str, float]:
        now = self._clock()
        return {n: rotation.runway(i, now) for n, i in self._everything().items()} if self.stored else {}

    def problems(self) -> tuple[str, ...]:
        if self.stored is None:
            return ()
        now = self._clock()
        found = [rotation.warning(name, identity, now) for name, identity in self._everything().items()]
        found += [f"identity {name} is denied: {reason}" for name, reason in sorted(self.denied.items())]
        if self.failure:
            found.append(f"the last renewal failed: {self.failure}")
        return tuple(problem for problem in found if problem)
