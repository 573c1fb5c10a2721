"""While the host has no identity: join with a token file, or wait for `holdfast-agent join` to put one on disk."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import structlog

from agent.identity.join import Exchange, JoinError, join, read_token
from agent.identity.orders import UNJOINED, way
from agent.settings import Settings
from agent.state import Disk, StoredIdentity
from mesh.aio import Backoff, pause

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0


class Joiner:
    def __init__(
        self,
        settings: Settings,
        disk: Disk,
        exchange: Exchange,
        *,
        on_joined: Callable[[StoredIdentity], None],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._settings, self._disk, self._exchange = settings, disk, exchange
        self._on_joined, self._clock = on_joined, clock
        self._backoff = Backoff(rng, base=0.5, cap=30.0)
        self._wanted = asyncio.Event()
        self._refused = ""
        """A token that will never do."""
        self.problem = ""

    def start(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        """Until there is an identity; then wait to be cancelled."""
        await self._wanted.wait()
        while (stored := await self._once()) is None:
            pass
        self.problem = ""
        log.info("joined", node=stored.node, trust_domain=stored.trust_domain)
        self._on_joined(stored)
        await asyncio.Event().wait()

    async def _once(self) -> StoredIdentity | None:
        found = await asyncio.to_thread(self._disk.identities.load)
        if found and found[0].node == self._settings.node:
            return found[0]
        where = self._settings.token_file
        if not where:
            self._tell(self._unjoined(found[0].node if found else ""))
            await pause(LOOK_SECONDS)
            return None
        token = ""
        try:
            token = read_token(Path(where))
            if token != self._refused:
                return await join(self._settings, self._disk, token, self._exchange, self._clock())
        except JoinError as exc:
            self._tell(f"{UNJOINED}: {exc}")
            if exc.final:
                self._refused = token
        await pause(LOOK_SECONDS if token == self._refused else self._backoff.next())
        return None

    def _unjoined(self, former: str) -> str:
        node = self._settings.node
        if not former:
            return f"{UNJOINED}: {way(node)}"
        return (
            f"this host joined as {former}, and agent.yaml says that it is {node}: set `node` back to {former}, or "
            f"join as {node} ({way(node)}) and then `holdfast delete node {former}`. A host's name in the mesh is "
            "`node` alone: its hostname may change"
        )

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("not joined yet", reason=problem)
        self.problem = problem
