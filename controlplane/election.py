"""Leadership: a lease on one key. Whoever writes as leader compares that key in the same transaction.

So two leaders may believe in themselves for a moment, and only one of them can write.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from mesh import codec, keys
from mesh.aio import first, keep, pause
from mesh.model import Frozen, Revision
from mesh.store.errors import Conflict, StoreError
from mesh.store.protocol import Compare, Lease, Put, Range, Store

log = structlog.get_logger(__name__)

LEADER = keys.ELECTIONS + "leader"


class Leader(Frozen, frozen=True, kw_only=True):
    """Kept at the election key."""

    replica: str


class Election:
    """Campaigns for ever. Others await `fence()` and put it into every transaction that only a leader may make."""

    def __init__(self, store: Store, replica: str, ttl: int, rng: random.Random) -> None:
        self._store, self._replica, self._ttl, self._rng = store, replica, ttl, rng
        self._fence: Compare | None = None
        self._elected = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.terms = 0
        """How often this replica was elected."""

    @property
    def leading(self) -> bool:
        return self._fence is not None

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Called when leadership is won or lost."""
        self._listeners.append(listener)

    async def fence(self) -> Compare:
        """Wait until this replica leads; what its transactions must compare."""
        while self._fence is None:
            await self._elected.wait()
        return self._fence

    async def run(self) -> None:
        await keep("election", self._campaign, retry_on=StoreError, rng=self._rng, base=0.2, cap=float(self._ttl))

    async def _campaign(self) -> None:
        """One lease: until it is lost, which raises."""
        lease = await self._store.lease(self._ttl)
        try:
            value = codec.encode_struct(Leader(replica=self._replica))
            while True:
                try:
                    revision = await self._store.txn([Compare(LEADER, Revision(0))], [Put(LEADER, value, lease.id)])
                    break
                except Conflict:
                    await self._vacancy(lease)
            self._set(Compare(LEADER, revision))
            await self._hold(lease)
        finally:
            self._set(None)
            await self._give_up(lease)

    async def _vacancy(self, lease: Lease) -> None:
        """Wait until nobody holds the key, keeping our own lease alive."""
        while (item := await self._store.get(LEADER)) is not None:
            # One watch for as long as it lasts: opening one costs both sides a TLS handshake.
            await first(self._gone(Revision(item.revision + 1)), self._hold(lease))

    async def _gone(self, start: Revision) -> None:
        watch = self._store.watch([Range(LEADER, start)])
        try:
            async for batch in watch:
                if any(event.value is None for event in batch.events):
                    return
        finally:
            await watch.aclose()

    async def _hold(self, lease: Lease) -> None:
        """Keep it, until it is lost, which raises."""
        while True:
            await pause(self._ttl / 3)
            await self._renew(lease)

    async def _renew(self, lease: Lease) -> None:
        # A renewal that takes longer than what is left of the lease is as good as lost.
        try:
            async with asyncio.timeout(self._ttl / 2):
                alive = await lease.keep_alive()
        except TimeoutError as exc:
            raise LostError("no answer while renewing the lease") from exc
        if not alive:
            raise LostError("the lease is gone")

    async def _give_up(self, lease: Lease) -> None:
        """A clean stop lets another one lead at once; without the store the lease ends by itself."""
        try:
            async with asyncio.timeout(1.0):
                await lease.revoke()
        except (StoreError, TimeoutError) as exc:
            log.debug("lease not revoked", error=str(exc))

    def _set(self, fence: Compare | None) -> None:
        if fence == self._fence:
            return
        self._fence = fence
        if fence:
            self.terms += 1
            self._elected.set()
        else:
            self._elected.clear()
        log.info("leading" if fence else "not leading", replica=self._replica)
        for listener in self._listeners:
            listener()


class LostError(StoreError):
    """Leadership ended."""
