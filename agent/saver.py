"""Writes the last good state, away from the hot path: at most one write at a time, and rarely if they are large."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from agent import metrics
from agent.state import Slots, StoredWorld
from mesh.aio import pause

log = structlog.get_logger(__name__)

SOONEST = 1.0
SHARE = 20
"""A write is followed by a pause of this many times its length: five per cent of a disk at most."""


class Saver:
    def __init__(
        self, slots: Slots[StoredWorld], gather: Callable[[], Awaitable[StoredWorld]], counters: metrics.Counters
    ) -> None:
        self._slots, self._gather, self._counters = slots, gather, counters
        self._wanted = asyncio.Event()
        self.problem = ""

    def request(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            took = await self._save()
            await pause(max(SOONEST, SHARE * took))

    async def flush(self) -> None:
        """Before leaving: what is still to be written."""
        if self._wanted.is_set():
            await self._save()

    async def _save(self) -> float:
        self._wanted.clear()
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await asyncio.to_thread(self._slots.save, await self._gather())
        except OSError as exc:
            self.problem = f"the last good state cannot be written: {exc.strerror}"
            log.error("state cannot be written", error=str(exc))  # noqa: TRY400 - the reason is the message
            self._counters.count(metrics.SAVES, outcome="failed")
        else:
            self.problem = ""
            self._counters.count(metrics.SAVES, outcome="done")
        return loop.time() - started
