"""Watches the host's Envoy: sees to it that it runs, and tells when it is live, gone, or crashing again and again."""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

import structlog

from agent import events as ev
from agent.envoy.admin import ServerInfo
from agent.envoy.process import EnvoyError, EnvoyState
from mesh.aio import Backoff, pause

log = structlog.get_logger(__name__)

STARTING_SECONDS = 0.02
"""Between looks while it starts: a host that restarts serves again as soon as Envoy does."""
LIVE_SECONDS = 1.0
"""Between looks while it lives; a stream that closes is looked into at once."""
CRASHES = 3
"""Restarts by the launcher, since it was last live for long, that make a crash loop."""
LONG_SECONDS = 30.0


class EnvoyPort(Protocol):
    """agent.envoy.process.Envoy, as far as it is needed here."""

    async def ensure(self) -> str: ...
    async def stop(self, *, drain: bool = True, timeout: float | None = None) -> None: ...  # noqa: ASYNC109
    def state(self) -> EnvoyState: ...
    async def info(self) -> ServerInfo | None: ...


class Supervisor:
    def __init__(self, envoy: EnvoyPort, post: Callable[[ev.Event], None], *, rng: random.Random) -> None:
        self._envoy, self._post = envoy, post
        self._backoff = Backoff(rng, base=0.2, cap=10.0)
        self._wanted = asyncio.Event()
        self._look = asyncio.Event()
        self._live: EnvoyState | None = None
        """Its state when it was found live."""
        self._stopping = self._draining = False
        self.problem = ""
        self.version = ""

    @property
    def live(self) -> bool:
        return self._live is not None

    def ensure(self) -> None:
        """It is wanted from now on."""
        self._wanted.set()
        self._look.set()

    def look(self) -> None:
        """Something happened to it."""
        self._look.set()

    async def stop(self) -> None:
        """Drain it and end it, launcher included; its end is told also if it does not come."""
        self._stopping = True
        try:
            await self._envoy.stop(drain=True)
        except EnvoyError as exc:
            log.error("envoy did not stop", error=str(exc))  # noqa: TRY400 - the reason is the message
        self._live = None
        self._post(ev.EnvoyGone())

    async def run(self) -> None:
        await self._wanted.wait()
        while not self._stopping:
            if await self._ensured():
                await self._follow()
            await pause(self._backoff.next())
        await asyncio.Event().wait()  # loops end by being cancelled

    async def _ensured(self) -> bool:
        try:
            how = await self._envoy.ensure()
        except (EnvoyError, OSError) as exc:
            self.problem = f"Envoy cannot be started: {exc}"
            log.error("envoy cannot be started", error=str(exc))  # noqa: TRY400 - the reason is the message
            return False
        self.problem = ""
        if how != "running":
            log.info("envoy ensured", how=how)
        return True

    async def _follow(self) -> None:
        """Until it needs to be ensured again."""
        crashes, since = self._envoy.state().restarts, asyncio.get_running_loop().time()
        while True:
            state = self._envoy.state()
            if state.phase in {"draining", "live"} and (state.phase == "draining") != self._draining:
                self._draining = not self._draining
                self._post(ev.EnvoyDrains(self._draining))
            if self._lost(state):
                self._live = None
                log.warning("envoy is gone", phase=state.phase)
                self._post(ev.EnvoyGone())
            if state.phase in {"down", "orphaned"}:
                return
            if self._live is None and state.pid:
                await self._greet(state)
            if asyncio.get_running_loop().time() - since > LONG_SECONDS:
                crashes, since = state.restarts, asyncio.get_running_loop().time()
            if state.restarts - crashes >= CRASHES:
                crashes = state.restarts
                self._post(ev.EnvoyUnfit())
            await self._wait(LIVE_SECONDS if self._live else STARTING_SECONDS)

    async def _greet(self, state: EnvoyState) -> None:
        info = await self._envoy.info()
        if info is not None and info.state == "LIVE":
            self._live, self.version = state, info.version
            self._backoff.reset()
            log.info("envoy is live", pid=state.pid, epoch=state.epoch, version=info.version)
            self._post(ev.EnvoyReady())

    def _lost(self, now: EnvoyState) -> bool:
        """Is the process that was live gone, other than by a hot restart?"""
        before = self._live
        if before is None:
            return False
        if now.pid == before.pid and now.phase not in {"down", "waiting"}:
            return False
        if now.pid and now.epoch > before.epoch:
            self._live = now  # handed over
            return False
        return True

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            return
        self._look.clear()
