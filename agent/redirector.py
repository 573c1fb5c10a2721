"""Keeps the host's helper told: carries out what `redirect` orders, and feeds back what the helper says."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from agent import redirect
from agent.hostd import client
from agent.hostd.client import HostError
from agent.hostd.wanted import Wanted
from mesh.aio import Latest, first, pause

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""Between looks whether the helper is another one."""

DUE_SECONDS = 30.0
"""Between two times that it is told the same. It changes nothing where nothing is amiss."""

HOLD_SECONDS = 3.0
"""The longest that a configuration waits for the helper. Some milliseconds are usual."""


class Redirector:
    def __init__(self, socket: Path, publish: Callable[[bytes], None], on_change: Callable[[], None]) -> None:
        """Tell the helper at this socket.

        Args:
            socket: Where it listens.
            publish: Gives Envoy the configuration of this digest.
            on_change: The problems are others.

        """
        self.state = redirect.State()
        self._socket, self._publish, self._on_change = socket, publish, on_change
        self._orders: Latest[Wanted] = Latest()

    def post(self, event: redirect.Event) -> None:
        before = self.state
        self.state, orders = redirect.handle(before, event)
        for order in orders:
            match order:
                case redirect.Tell(wanted):
                    self._orders.put(wanted)
                case redirect.Publish(digest):
                    self._publish(digest)
        if self.state.held and self.state.held != before.held:
            asyncio.get_running_loop().call_later(HOLD_SECONDS, self.post, redirect.Late(self.state.held))
        if self.state.problems != before.problems:
            for problem in self.state.problems:
                log.error("the host's helper", problem=problem)
            self._on_change()

    async def run(self) -> None:
        """Until cancelled."""
        await first(self._tells(), self._looks())

    async def _tells(self) -> None:
        while True:
            wanted = await self._orders.take()
            try:
                answer = await client.apply(self._socket, wanted)
            except HostError as exc:
                self.post(redirect.Failed(str(exc)))
            else:
                log.info("told the host's helper", names=len(wanted.names), callers=len(wanted.callers))
                self.post(redirect.Answered(answer.problems, answer.capture))

    async def _looks(self) -> None:
        known, since = self._stamp(), 0.0
        while True:
            await pause(LOOK_SECONDS)
            since += LOOK_SECONDS
            stamp = self._stamp()
            if stamp != known and stamp is not None:
                self.post(redirect.HelperStarted())
            elif since >= DUE_SECONDS:
                self.post(redirect.Due())
            if stamp != known or since >= DUE_SECONDS:
                known, since = stamp, 0.0

    def _stamp(self) -> tuple[int, int] | None:
        """Another one, another helper."""
        try:
            found = self._socket.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns
