"""Keeps the View current: one follower over all that is.

It follows one range, since a store promises nothing between ranges: a registration writes an instance and its
endpoints in one transaction, and a leader that saw one without the other would write what needs no writing.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable

import structlog

from controlplane.touched import Touched
from controlplane.view import View
from mesh import keys
from mesh.store.follow import Broken, Changed, Follower, FollowEvent, Listed, Progressed, Restored
from mesh.store.protocol import Store

log = structlog.get_logger(__name__)


class Mirror:
    def __init__(self, store: Store, rng: random.Random) -> None:
        self.view = View()
        self.ready = asyncio.Event()
        """All has been listed once."""
        self.connected = False
        self.outage = ""
        """Why it is not connected, as far as that was told."""
        self.outages = 0
        """How often the store was lost and found again."""
        # Of a store that lost all, nothing is to be believed: peers would be told that all exports are gone.
        self._follower = Follower(store, (keys.ROOT,), rng=rng, insist=True)
        self._listeners: list[Callable[[Touched], None]] = []
        self._newer = asyncio.Event()

    async def reached(self, revision: int, seconds: float) -> bool:
        """Wait until the view is as new as this revision; for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.view.revision < revision:
                    await self._newer.wait()
        return self.view.revision >= revision

    def subscribe(self, listener: Callable[[Touched], None]) -> None:
        """Called after each batch that changed something, and with an empty Touched when the store is back."""
        self._listeners.append(listener)

    async def run(self) -> None:
        async for event in self._follower.run():
            self._take(event)
            newer, self._newer = self._newer, asyncio.Event()
            newer.set()
        raise RuntimeError("a follower ends only by cancellation")

    def _take(self, event: FollowEvent) -> None:
        match event:
            case Listed(_, revision, events, restored):
                self.connected = True
                if restored:
                    self.view.revision = revision  # another history; it may have gone back
                touched = self.view.apply(events, revision)
                self.ready.set()
                self._tell(touched)
            case Changed(_, revision, events):
                self._tell(self.view.apply(events, revision))
            case Progressed(_, revision):
                self.view.apply((), revision)
            case Broken(reason):
                if self.connected:
                    log.warning("store watch broken", reason=reason)
                self.connected, self.outage = False, reason
            case Restored():
                self.connected = True
                self.outages += 1
                log.info("store watch restored")
                self._tell(Touched())

    def _tell(self, touched: Touched) -> None:
        for listener in self._listeners:
            listener(touched)
