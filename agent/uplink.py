"""The one door to the control plane: registration, and the held connection that is the heartbeat.

Any control-plane node will do. They are tried in turn, beginning at a random one, and one that answered is kept.
"""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog

from agent.http import HttpError, Target, WebSocket, call, websocket
from mesh.aio import Backoff, first, pause
from mesh.model.uplink import (
    MAX_ANSWER_BYTES,
    Answer,
    Ask,
    Down,
    Hello,
    RegisterAnswer,
    RegisterRequest,
    Report,
    Up,
)

log = structlog.get_logger(__name__)

SERVER_NAME = "controlplane.holdfast"
"""The DNS name that only policy can put in a certificate: no workload can pose as a control plane."""

REPORT_EVERY = 1.0
"""Seconds between reports, when there is always something new to report."""
REPORTS_AT_ONCE = 8
"""So many go without delay after a quiet time. A change is reported twice: when it is seen, and when it is in force."""

BASE, CAP = 0.2, 10.0

Answers = Mapping[str, Callable[[str], Awaitable[str]]]
"""What may be asked -> how to get it: from the question's body to the answer's, both JSON text."""

ANSWERS_AT_ONCE, MAX_QUESTIONS = 4, 8
"""Questions that are worked on together, and those that may wait besides."""


class Unreachable(Exception):  # noqa: N818 - the field's word
    """No control-plane node answered, with what the last one said."""


class RefusedByControlPlane(Exception):  # noqa: N818
    """It answered, and will not do it as asked."""


class ControlPlane:
    """Calls to whichever node answers."""

    def __init__(
        self,
        urls: Callable[[], Sequence[str]],
        tls: Callable[[], ssl.SSLContext | None],
        *,
        rng: random.Random,
    ) -> None:
        self._urls, self._tls, self._rng = urls, tls, rng
        self._preferred = ""

    def targets(self) -> list[Target]:
        """The one that answered last, then the others in random order."""
        urls = list(self._urls())
        self._rng.shuffle(urls)
        urls.sort(key=lambda url: url != self._preferred)
        tls = self._tls()
        return [Target(url, tls, SERVER_NAME) for url in urls]

    def prefer(self, target: Target) -> None:
        self._preferred = target.url

    def avoid(self, target: Target) -> None:
        """It failed: the next call begins elsewhere."""
        if self._preferred == target.url:
            self._preferred = ""

    async def register(self, request: RegisterRequest) -> RegisterAnswer:
        """Tell all instances of this host."""
        body = msgspec.json.encode(request)
        last = "no control-plane node is configured or known"
        for target in self.targets():
            try:
                answer = await call(target, "POST", "/v1/register", body=body)
            except HttpError as exc:
                self.avoid(target)
                last = str(exc)
                continue
            if answer.status == 200:
                self.prefer(target)
                try:
                    return msgspec.json.decode(answer.body, type=RegisterAnswer)
                except msgspec.MsgspecError as exc:
                    raise Unreachable(f"{target.url}: the answer cannot be read: {exc}") from exc
            last = f"{target.url} answered {answer.status}: {answer.body[:300].decode('utf-8', 'replace')}"
            if 400 <= answer.status < 500 and answer.status not in {408, 409, 425, 429}:
                raise RefusedByControlPlane(last)
        raise Unreachable(last)


class Pace:
    """How long to wait after each report: the first ones go at once, then one in REPORT_EVERY. Moments in seconds."""

    def __init__(self) -> None:
        self._left, self._last = float(REPORTS_AT_ONCE), 0.0

    def after(self, now: float) -> float:
        """One went now; seconds until the next may go."""
        self._left = min(float(REPORTS_AT_ONCE), self._left + (now - self._last) / REPORT_EVERY) - 1
        self._last = now
        return max(0.0, (1 - self._left) * REPORT_EVERY)


class Uplink:
    """Holds one connection: says hello, reports what changed, answers what is asked."""

    def __init__(
        self,
        controlplane: ControlPlane,
        hello: Hello,
        *,
        report: Callable[[], Report],
        answers: Answers,
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        rng: random.Random,
    ) -> None:
        self._controlplane, self._hello, self._report, self._answers = controlplane, hello, report, answers
        self._on_up, self._on_down = on_up, on_down
        self._backoff = Backoff(rng, base=BASE, cap=CAP)
        self._pace = Pace()
        self._changed = asyncio.Event()
        self._again = asyncio.Event()

    def changed(self) -> None:
        """There is something new to report."""
        self._changed.set()

    def reconnect(self) -> None:
        """New certificates need a new connection before the old ones expire."""
        self._again.set()

    async def run(self) -> None:
        """Connect, forever."""
        while True:
            reason = "no control-plane node is configured or known"
            for target in self._controlplane.targets():
                try:
                    await self._hold(target)
                    reason = f"{target.url} closed the connection"
                    break
                except HttpError as exc:
                    reason = str(exc)
                    self._controlplane.avoid(target)
            self._on_down(reason)
            await pause(self._backoff.next())

    async def _hold(self, target: Target) -> None:
        async with websocket(target, "/v1/uplink") as socket:
            await _send(socket, Up(hello=self._hello))
            self._controlplane.prefer(target)
            self._backoff.reset()
            self._again.clear()
            log.info("connected to the control plane", url=target.url)
            self._changed.set()
            self._on_up()
            asks: asyncio.Queue[Ask] = asyncio.Queue(MAX_QUESTIONS)
            await first(self._listen(socket, asks), self._reply(socket, asks), self._tell(socket), self._until_again())

    async def _until_again(self) -> None:
        await self._again.wait()

    async def _tell(self, socket: WebSocket) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._changed.wait()
            self._changed.clear()
            await _send(socket, Up(report=self._report()))
            await pause(self._pace.after(clock()))

    async def _listen(self, socket: WebSocket, asks: "asyncio.Queue[Ask]") -> None:
        while (text := await socket.receive()) is not None:
            try:
                down = msgspec.json.decode(text, type=Down)
            except msgspec.MsgspecError as exc:
                log.warning("the control plane said what cannot be read", error=str(exc))
                continue
            if down.ask is not None:
                try:
                    asks.put_nowait(down.ask)
                except asyncio.QueueFull:
                    await _send(socket, Up(answer=Answer(id=down.ask.id, error="too many questions wait already")))

    async def _reply(self, socket: WebSocket, asks: "asyncio.Queue[Ask]") -> None:
        """Beside `_listen`, since that also answers pings, and some answers take long."""

        async def work() -> None:
            while True:
                answer = await self._answer(await asks.get())
                # If the connection is gone, who listens notices it, too.
                with suppress(OSError, RuntimeError):
                    await _send(socket, Up(answer=answer))

        async with asyncio.TaskGroup() as group:
            for _ in range(ANSWERS_AT_ONCE):
                group.create_task(work())

    async def _answer(self, ask: Ask) -> Answer:
        how = self._answers.get(ask.what)
        if how is None:
            return Answer(id=ask.id, error=f"this agent does not know {ask.what[:100]!r}")
        try:
            body = await how(ask.body)
            if len(body) > MAX_ANSWER_BYTES:
                return Answer(id=ask.id, error=f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
            return Answer(id=ask.id, body=body)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the asker is told, and the connection lives
            return Answer(id=ask.id, error=str(exc) or type(exc).__name__)


async def _send(socket: WebSocket, up: Up) -> None:
    await socket.send(msgspec.json.encode(up).decode())
