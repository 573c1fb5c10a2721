"""Asks what names of control planes and store gates lead to, and keeps it: `lifelines` says what of it counts.

A lookup blocks for as long as the host's resolver likes. So each has a thread of its own, one at a time for each name,
and nothing waits for it: neither the loop nor the agent's end.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from agent.lifelines import Known
from agent.state import write_private
from mesh import codec
from mesh.aio import pause
from mesh.model.checks import ip_of

log = structlog.get_logger(__name__)

FILE = "lifelines.json"

DUE_SECONDS = 30.0
"""Between two questions for a name."""

AGAIN_SECONDS = 5.0
"""Where the last one had no answer: at boot names may be asked for before the network is up."""

PATIENCE_SECONDS = 5.0
"""After which it is said that there is no answer. A later one counts all the same."""

LOOK_SECONDS = 1.0

MAX_NAMES = 64
"""Of what agent.yaml and the join name; each may have a thread."""

Lookup = Callable[[str], tuple[str, ...]]
"""Name -> its addresses of both families, one at least. It may block, and raises OSError or UnicodeError."""


def lookup(name: str) -> tuple[str, ...]:
    """As every program of the host is answered, /etc/hosts included."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(sorted({str(where[0]).partition("%")[0] for *_, where in found}))


class Resolver:
    def __init__(
        self,
        folder: Path,
        names: Callable[[], tuple[str, ...]],
        look_up: Lookup,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """Ask for these names, once it runs.

        Args:
            folder: Where answers outlive the agent.
            names: What to ask for; read at each look.
            look_up: Asks.
            clock: Unix seconds.
            on_change: `known` has other addresses or problems.

        """
        self.known = Known()
        self._path, self._names, self._look_up = folder / FILE, names, look_up
        self._clock, self._on_change = clock, on_change
        self._stored: tuple[str, ...] = ()
        self._asked: dict[str, float] = {}  # name -> when, of the loop's clock
        self._waits: set[str] = set()

    async def load(self) -> None:
        """Begin with what was known when the agent ended; with nothing, if that cannot be read."""
        self._know(await asyncio.to_thread(self._read))
        self._stored = self.known.addresses

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._look(self._names()[:MAX_NAMES])
            if self.known.addresses != self._stored:
                self._stored = self.known.addresses
                await asyncio.to_thread(self._write, Known(answers=self.known.answers))
            await pause(LOOK_SECONDS)

    def _read(self) -> Known:
        try:
            found = codec.decode_struct(Known, self._path.read_bytes())
        except (OSError, codec.Undecodable):
            return Known()
        answers = {name: {a: at for a, at in held.items() if ip_of(a)} for name, held in found.answers.items()}
        return Known(answers=answers)

    def _write(self, known: Known) -> None:
        try:
            write_private(self._path, codec.encode_struct(known))
        except OSError as exc:
            log.warning("what names lead to is not on disk", file=str(self._path), error=str(exc))

    def _look(self, names: tuple[str, ...]) -> None:
        now = asyncio.get_running_loop().time()
        self._know(self.known.only(names))
        for name in names:
            since = now - self._asked.get(name, float("-inf"))
            if name in self._waits:
                if since >= PATIENCE_SECONDS:
                    self._know(self.known.failed(name, f"no answer within {PATIENCE_SECONDS:g} s"))
            elif since >= (AGAIN_SECONDS if name in self.known.faults else DUE_SECONDS):
                self._ask(name, now)

    def _ask(self, name: str, now: float) -> None:
        loop = asyncio.get_running_loop()
        self._asked[name] = now
        self._waits.add(name)

        def ask() -> None:
            try:
                answer: tuple[str, ...] | str = self._look_up(name)
            except (OSError, UnicodeError) as exc:
                answer = getattr(exc, "strerror", "") or str(exc) or type(exc).__name__
            with suppress(RuntimeError):  # the agent has ended meanwhile
                loop.call_soon_threadsafe(self._heard, name, answer)

        threading.Thread(target=ask, name=f"resolves {name}", daemon=True).start()

    def _heard(self, name: str, answer: tuple[str, ...] | str) -> None:
        self._waits.discard(name)
        if name not in self._names():
            return
        if isinstance(answer, str):
            self._know(self.known.failed(name, answer))
        else:
            self._know(self.known.heard(name, answer, self._clock()))

    def _know(self, known: Known) -> None:
        before, self.known = self.known, known
        for problem in set(known.problems) - set(before.problems):
            log.warning("a name that the agent lives from", problem=problem)
        if known.addresses != before.addresses:
            log.info("left alone by capture", addresses=known.addresses)
        if (known.addresses, known.problems) != (before.addresses, before.problems):
            self._on_change()
