"""Executes what the machine decides, and feeds back what came of it. No policy: every `when` is in `machine`."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog

from agent import events as ev
from agent import machine, metrics
from agent.pipeline import CompileError, Inputs, Offer, Pipeline, Substitutes
from agent.search import Validate, find
from agent.xds.server import Answered, StreamClosed, StreamOpened
from agent.xds.server import Event as XdsEvent
from agent.xds.stream import Acked, Nacked, Withheld
from mesh import pb
from mesh.aio import Latest, pause
from mesh.compile.types import Snapshot

log = structlog.get_logger(__name__)

STALLED_SECONDS = 5.0
"""An offer unanswered for so long does not hold up later ones."""

WARMING_SECONDS = (0.002, 0.2)
"""Between looks at what is warming: first, and at most."""


class Parts(Protocol):
    """What instructions are executed with. Nothing here waits."""

    def join(self) -> None: ...
    def follow(self) -> None: ...
    def renew(self) -> None: ...
    def use_generation(self, number: int) -> ev.WorldChanged:
        """Make the pipeline's world that one from disk."""

    def publish(self, snapshot: Snapshot) -> None: ...
    async def warming(self) -> int | None:
        """How much is not in force yet; None if Envoy does not say."""

    def ensure_envoy(self) -> None: ...
    def look_at_envoy(self) -> None: ...
    def stop_envoy(self) -> None: ...
    def register(self) -> None: ...
    def deregister(self) -> None: ...
    def save(self) -> None: ...
    def report(self) -> None: ...
    def exit(self) -> None: ...
    def say_alive(self) -> None: ...


@dataclass(slots=True)
class _Client:
    """One Envoy's stream."""

    acked: bytes = b""


class Runtime:
    def __init__(self, pipeline: Pipeline, parts: Parts, validate: Validate, counters: metrics.Counters) -> None:
        self.state = machine.State()
        self._pipeline, self._parts, self._validate, self._counters = pipeline, parts, validate, counters
        self._events: deque[ev.Event] = deque()
        self._busy = False
        self._compiles: Latest[Inputs] = Latest()
        self._warm: Latest[bytes] = Latest()
        self._searches: Latest[bytes] = Latest()
        self._clients: dict[int, _Client] = {}
        self._stalls: asyncio.TimerHandle | None = None
        self._types: set[str] = set()
        """Sent since the last time that all clients had acknowledged the same."""
        self.applied_newest = 0
        """Newest revision of any range that is in force; `state.applied` is that of the objects."""
        self._grown = asyncio.Event()
        """Set, and replaced, when that changes."""

    # --- events in, instructions out ---

    def post(self, event: ev.Event) -> None:
        """Something happened. Handled before this returns, unless another event is being handled."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._handle(self._events.popleft())
        finally:
            self._busy = False

    def _handle(self, event: ev.Event) -> None:
        before = self.state
        self.state, instructions = machine.handle(before, event)
        if self.state.phase != before.phase:
            log.info("phase changed", phase=self.state.phase, before=before.phase, because=type(event).__name__)
        if self.state.applied_digest and (offer := self._pipeline.offer(self.state.applied_digest)):
            self._in_force(offer.newest)
        for instruction in instructions:
            self._execute(instruction)

    def _in_force(self, newest: int) -> None:
        if newest != self.applied_newest:
            self.applied_newest = newest
            grown, self._grown = self._grown, asyncio.Event()
            grown.set()

    async def growth(self) -> None:
        """Return when another revision than now is in force."""
        await self._grown.wait()

    def _execute(self, instruction: ev.Instruction) -> None:  # noqa: C901, PLR0912 - a table
        parts = self._parts
        match instruction:
            case ev.Compile():
                self._compile()
            case ev.Publish(digest):
                self._publish(digest)
            case ev.AwaitWarm(digest):
                self._warm.put(digest)
            case ev.FindGuilty(digest):
                self._searches.put(digest)
            case ev.Report():
                parts.report()
            case ev.Save():
                parts.save()
            case ev.UseGeneration(number):
                self.post(parts.use_generation(number))
            case ev.Join():
                parts.join()
            case ev.Follow():
                parts.follow()
            case ev.Renew():
                parts.renew()
            case ev.EnsureEnvoy():
                parts.ensure_envoy()
            case ev.StopEnvoy():
                parts.stop_envoy()
            case ev.Register():
                parts.register()
            case ev.Deregister():
                parts.deregister()
            case ev.Exit():
                parts.exit()
            case ev.SayAlive():
                parts.say_alive()
            case _:
                assert_never(instruction)

    # --- compile and publish ---

    def _compile(self) -> None:
        inputs = self._pipeline.inputs()
        if self._pipeline.light(inputs):
            self._compiled(self._try(inputs))
        else:
            self._compiles.put(inputs)

    async def compiles(self) -> None:
        """Compiles that are too much for the loop."""
        while True:
            inputs = await self._compiles.take()
            self._compiled(await asyncio.to_thread(self._try, inputs))

    def _try(self, inputs: Inputs) -> Offer | str:
        try:
            return self._pipeline.compile(inputs)
        except CompileError as exc:
            return str(exc)
        except Exception as exc:  # a fault of ours must not end what serves
            log.exception("compile failed")
            return f"compile failed: {type(exc).__name__}: {exc}"

    def _compiled(self, outcome: Offer | str) -> None:
        if isinstance(outcome, str):
            log.error("the newest world cannot be compiled; what is in force stays", error=outcome)
            self._counters.count(metrics.COMPILES, outcome="failed")
            self.post(ev.CompileFailed(outcome))
            return
        self._counters.count(metrics.COMPILES, outcome="done")
        self._pipeline.remember(outcome)
        self.post(ev.Compiled(outcome.snapshot.revision, outcome.snapshot.digest))

    def _publish(self, digest: bytes) -> None:
        offer = self._pipeline.offer(digest)
        assert offer is not None
        if self._stalls is not None:
            self._stalls.cancel()  # of an earlier offer, which may have been the same: an endpoint that flaps
        if self._clients:
            self._stalls = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._stalled, digest)
        self._parts.publish(offer.snapshot)

    def _stalled(self, digest: bytes) -> None:
        if self.state.in_flight and self.state.offered == digest:
            log.warning("envoy has not answered; later changes do not wait for it", seconds=STALLED_SECONDS)
            self.post(ev.Stalled(digest))

    # --- what Envoy says ---

    def on_xds(self, event: XdsEvent) -> None:
        """For XdsServer."""
        match event:
            case StreamOpened(number, _):
                self._clients[number] = _Client()
                self.post(ev.ProxyConnected())
            case StreamClosed(number):
                self._clients.pop(number, None)
                self._parts.look_at_envoy()
                if self._clients:
                    self._agreed()
                else:
                    self.post(ev.ProxyDisconnected())
            case Answered(number, outcome):
                self._answered(number, outcome)
            case _:
                assert_never(event)

    def _answered(self, number: int, outcome: Acked | Nacked | Withheld) -> None:
        match outcome:
            case Acked(digest, _, types):
                self._types.update(types)
                if client := self._clients.get(number):
                    client.acked = digest
                    self._agreed()
            case Nacked(digest, _, type_url, names, error):
                self._counters.count(metrics.ANSWERS, outcome="refused")
                log.warning("envoy refused", type=_short(type_url), names=list(names[:10]), error=error)
                self.post(ev.Refused(digest, _refusal(type_url, error)))
            case Withheld(digest, _, type_url, error):
                self.post(ev.Withheld(digest, _refusal(type_url, error)))
            case _:
                assert_never(outcome)

    def _agreed(self) -> None:
        """During a hot restart there are two; in force is what both hold."""
        digests = {client.acked for client in self._clients.values()}
        if len(digests) == 1 and (digest := digests.pop()):
            endpoints_only = self._types <= {pb.ENDPOINT}
            if digest == self.state.offered:
                self._types = set()
            self._counters.count(metrics.ANSWERS, outcome="accepted")
            self._pipeline.accept(digest)
            self.post(ev.Acked(digest, endpoints_only=endpoints_only))

    def envoy_is_back(self) -> None:
        """A new process may have acknowledged before its predecessor was found to be gone."""
        if not self.state.applied_digest:
            self._agreed()

    async def warms(self) -> None:
        """Ask until what was acknowledged is in force, or something newer is to be asked for."""
        while True:
            digest = await self._warm.take()
            delay = WARMING_SECONDS[0]
            while self._warm.peek() is None:
                if await self._parts.warming() == 0:
                    self.post(ev.Warmed(digest))
                    break
                await pause(delay)
                delay = min(2 * delay, WARMING_SECONDS[1])

    async def searches(self) -> None:
        """Find what was refused, away from everything else."""
        while True:
            digest = await self._searches.take()
            offer = self._pipeline.offer(digest)
            found: Substitutes = {}
            if offer is not None:
                try:
                    taken = self._pipeline.accepted
                    known = {taken.snapshot.digest: None} if taken else {}
                    found = await find(offer, taken, self._validate, known)
                except Exception:  # the search is a help; without it the last good goes on
                    log.exception("the search for refused objects failed")
            for substitute in found.values():
                r = substitute.instead
                log.error("object rejected", object=str(r.ref), reason=substitute.reason, in_force=r.in_force)
            self._pipeline.substitute(found)
            self.post(ev.SearchEnded(found=bool(found)))


def _short(type_url: str) -> str:
    return pb.SHORT.get(type_url, type_url)


def _refusal(type_url: str, error: str) -> str:
    return f"Envoy refused {_short(type_url)}: {error}"
