"""Keeps the View current: one follower over everything that a control-plane node looks at."""

import asyncio
import random
from collections.abc import Callable

import structlog

from controlplane.view import Touched, View
from mesh import keys
from mesh.store.follow import Broken, Changed, Follower, Listed, Progressed, Restored
from mesh.store.protocol import Store

log = structlog.get_logger(__name__)

PREFIXES = (
    keys.OBJECTS,
    keys.ENDPOINTS,
    keys.BUNDLES,
    keys.PRIVATE_OBJECTS,
    keys.REPLICAS,
    keys.JOINS,
    keys.TOKENS,
    keys.OPERATORS,
)


class Mirror:
    def __init__(self, store: Store, rng: random.Random) -> None:
        self.view = View()
        self.ready = asyncio.Event()
        """Every range has been listed once."""
        self.connected = False
        self.outages = 0
        """How often the store was lost and found again."""
        self._follower = Follower(store, PREFIXES, rng=rng)
        self._listed: set[str] = set()
        self._listeners: list[Callable[[Touched], None]] = []

    def subscribe(self, listener: Callable[[Touched], None]) -> None:
        """Called after each batch that changed something, and with an empty Touched when the store is back."""
        self._listeners.append(listener)

    async def run(self) -> None:
        async for event in self._follower.run():
            match event:
                case Listed(prefix, revision, events, restored):
                    self._listed.add(prefix)
                    self.connected = True
                    if restored:
                        self.view.revision = revision  # another history; it may have gone back
                    touched = self.view.apply(events, revision)
                    if len(self._listed) == len(PREFIXES):
                        self.ready.set()
                    self._tell(touched)
                case Changed(_, revision, events):
                    self._tell(self.view.apply(events, revision))
                case Progressed(_, revision):
                    self.view.apply((), revision)
                case Broken(reason):
                    if self.connected:
                        log.warning("store watch broken", reason=reason)
                    self.connected = False
                case Restored():
                    self.connected = True
                    self.outages += 1
                    log.info("store watch restored")
                    self._tell(Touched())
        raise RuntimeError("a follower ends only by cancellation")

    def _tell(self, touched: Touched) -> None:
        for listener in self._listeners:
            listener(touched)
