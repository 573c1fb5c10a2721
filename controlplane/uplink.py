"""Held connections of agents: their heartbeat, their reports, and questions to them.

That a node's uplink is open is its sign of life. What this replica sees is put into its Presence record, under a lease,
when it changes and at most once a second; the leader draws its conclusions from all replicas' records.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from ca.limits import Buckets, Rate
from controlplane.view import Presence, View
from mesh import codec, keys
from mesh.aio import keep, pause
from mesh.model.uplink import MAX_ASK_BYTES, Answer, Ask, Down, Report, Up
from mesh.store.errors import StoreError
from mesh.store.protocol import Put, Store

log = structlog.get_logger(__name__)

PING_SECONDS = 2.0
CUT_SECONDS = 6.0
"""Three pings without a word from the agent."""
SEND_SECONDS = 5.0
WRITE_SECONDS = 1.0
LEASE_SECONDS = 10
LEFT_SECONDS = 60.0
"""How long a node that left is told of."""
EVICTED, VOID = "this node is evicted", "a host has joined under this name since"
MAX_CONNECTIONS = 20_000
MAX_QUESTIONS = 8
"""Unanswered questions to one agent."""
FRAMES = Rate(10, 200)
"""Of one node, over all its connections, besides answers: a report a second at most, and a pong every two."""
MAX_UNASKED_BYTES = 1024 * 1024
"""Of a frame that answers nothing: only answers are large."""
LATE_SECONDS = 60.0
"""An answer may come after nobody waits for it any more."""


class NotConnectedError(Exception):
    """No uplink of this node is open here."""


class AgentError(Exception):
    """The agent answered with an error, or not in time."""


@dataclass(slots=True)
class Connection:
    node: str
    issued: float
    """When the certificate that it showed was issued, unix seconds."""
    ws: web.WebSocketResponse
    heard: float
    """Monotonic moment of the last frame."""
    report: Report | None = None
    version: str = ""
    questions: dict[int, asyncio.Future[Answer]] = field(default_factory=dict)
    asked: float = float("-inf")
    """Monotonic moment of the last question."""
    owed: int = 0
    """Frames that it was asked for and that have not come: whoever asks often must not have it cut."""


class Uplinks:
    def __init__(self, store: Store, view: View, *, replica: str, advertise: str, version: str) -> None:
        self._store, self._view = store, view
        self._base = Presence(replica=replica, advertise=advertise, version=version)
        self._connections: dict[str, Connection] = {}
        self._left: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._ids = itertools.count(1)
        self._frames = Buckets(FRAMES, MAX_CONNECTIONS)
        self.told = 0
        """How often a report came, or a connection came or went."""
        self._news = asyncio.Event()
        """Set, and replaced, each time."""

    @property
    def replica(self) -> str:
        return self._base.replica

    def tell(self, intermediate_end: float, signer_fault: str) -> None:
        """Of this replica as a CA, to the others."""
        told = msgspec.structs.replace(self._base, intermediate_end=intermediate_end, signer_fault=signer_fault)
        if told != self._base:
            self._base = told
            self._changed.set()

    def connections(self) -> list[Connection]:
        return [self._connections[name] for name in sorted(self._connections)]

    def connection(self, node: str) -> Connection | None:
        return self._connections.get(node)

    async def news(self, told: int) -> None:
        """Return once more was told than that."""
        while self.told == told:
            await self._news.wait()

    def _tell(self) -> None:
        self.told += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def serve(self, node: str, issued: float, ws: web.WebSocketResponse) -> None:
        """One agent's connection until it ends. A newer one of the same node replaces it."""
        clock = asyncio.get_running_loop().time
        mine = Connection(node, issued, ws, clock())
        if fault := self._unwelcome(mine):
            # Since it was let in: `drop_unwelcome` could not see this connection yet.
            await _close(ws, WSCloseCode.POLICY_VIOLATION, fault.encode())
            return
        older = self._connections.get(node)
        if older is None and len(self._connections) >= MAX_CONNECTIONS:
            await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"this node holds too many connections")
            return
        self._connections[node] = mine
        self._left.pop(node, None)
        self._changed.set()
        self._tell()
        log.info("uplink opened", node=node)
        try:
            if older:
                await _close(older.ws, WSCloseCode.GOING_AWAY, b"replaced by a newer connection")
            code, reason = await self._read(mine, clock)
        finally:
            for question in mine.questions.values():
                question.cancel()
            if self._connections.get(node) is mine:
                del self._connections[node]
                self._left[node] = mine.heard
                self._changed.set()
                self._tell()
        log.info("uplink closed", node=node, reason=reason)
        # Only now: the farewell of a silent peer takes its time, and nobody must wait for it.
        await _close(ws, code, reason.encode()[:120])

    async def _read(self, mine: Connection, clock: Callable[[], float]) -> tuple[int, str]:
        """Take frames, ping in pauses; how and why it ended."""
        next_ping = clock() + PING_SECONDS
        while True:
            try:
                message = await mine.ws.receive(timeout=max(0.01, next_ping - clock()))
            except TimeoutError:
                if clock() - mine.heard > CUT_SECONDS:
                    return WSCloseCode.POLICY_VIOLATION, "no answer to pings"
                next_ping = clock() + PING_SECONDS
                if not await _send(mine.ws.ping()):
                    return WSCloseCode.GOING_AWAY, "cannot be written to"
                continue
            mine.heard = clock()
            if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}:
                return WSCloseCode.OK, "closed by the agent"
            if fault := self._excess(mine, message) or await self._take(mine, message):
                return WSCloseCode.POLICY_VIOLATION, fault

    def _excess(self, mine: Connection, message: WSMessage) -> str:
        """More than an agent has to say: reading it would take this replica's time from all others."""
        if mine.owed and message.type is WSMsgType.TEXT:
            mine.owed -= 1
        elif self._frames.take(mine.node, mine.heard):
            return "too many frames"
        large = message.type is WSMsgType.TEXT and len(message.data) > MAX_UNASKED_BYTES
        return "a frame that is too large" if large and mine.heard > mine.asked + LATE_SECONDS else ""

    async def _take(self, mine: Connection, message: WSMessage) -> str:
        """Act on one frame; why the connection must end, if it must."""
        if message.type is WSMsgType.PING:
            await _send(mine.ws.pong(message.data))
            return ""
        if message.type is WSMsgType.PONG:
            return ""
        if message.type is not WSMsgType.TEXT:
            return "only text frames are understood"
        try:
            up = codec.decode_struct(Up, message.data.encode())
        except codec.Undecodable as exc:
            return f"unreadable frame: {exc}"
        if up.hello:
            if up.hello.node != mine.node:
                return f"hello from {up.hello.node!r} with the certificate of {mine.node!r}"
            mine.version = up.hello.version
        if up.report:
            # Whatever name the report carries, it is the certificate's node that speaks.
            mine.report = up.report
            self._tell()
        if up.answer and (question := mine.questions.get(up.answer.id)) and not question.done():
            question.set_result(up.answer)
        return ""

    async def ask(self, node: str, what: str, body: str = "", *, seconds: float = 10.0) -> str:
        """Put a question to a connected agent; the JSON text of its answer.

        Raises:
            NotConnectedError, AgentError.

        """
        connection = self._connections.get(node)
        if connection is None:
            raise NotConnectedError(node)
        if len(connection.questions) >= MAX_QUESTIONS:
            raise AgentError(f"{node} has {MAX_QUESTIONS} unanswered questions already")
        number = next(self._ids)
        frame = codec.encode_struct(Down(ask=Ask(id=number, what=what, body=body)))
        if len(frame) > MAX_ASK_BYTES:
            raise AgentError(f"the question has {len(frame)} bytes; an agent takes {MAX_ASK_BYTES}")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        connection.questions[number] = future
        connection.asked = asyncio.get_running_loop().time()
        connection.owed += 1
        try:
            async with asyncio.timeout(seconds):
                await connection.ws.send_str(frame.decode())
                await asyncio.wait([future])
        except (TimeoutError, OSError, RuntimeError) as exc:
            raise AgentError(f"{node} did not answer: {exc or 'time is up'}") from exc
        finally:
            connection.questions.pop(number, None)
        if future.cancelled():
            raise AgentError(f"{node} went away before it answered")
        answer = future.result()
        if answer.error:
            raise AgentError(f"{node}: {answer.error}")
        return answer.body

    async def drop_unwelcome(self, nodes: set[str]) -> None:
        """Cut those of these nodes that are evicted, deleted, or joined anew by another host."""
        for connection in [self._connections[name] for name in nodes & self._connections.keys()]:
            if fault := self._unwelcome(connection):
                await _close(connection.ws, WSCloseCode.POLICY_VIOLATION, fault.encode())

    def _unwelcome(self, connection: Connection) -> str:
        """Why this connection may not be; empty if it may."""
        held = self._view.node(connection.node)
        if held is None or held.object.spec.evicted:
            return EVICTED
        return VOID if connection.issued < self._view.joined(connection.node) else ""

    async def close(self) -> None:
        """Before a stop: agents turn to another replica at once."""
        for connection in self.connections():
            await _close(connection.ws, WSCloseCode.GOING_AWAY, b"the control-plane node stops")

    def presence(self, now: float) -> Presence:
        """What this replica tells the others at this monotonic moment."""
        self._left = {node: heard for node, heard in self._left.items() if now - heard < LEFT_SECONDS}
        return msgspec.structs.replace(
            self._base,
            connected=tuple(sorted(self._connections)),
            left={node: round(now - heard, 3) for node, heard in sorted(self._left.items())},
        )

    async def run(self, rng: random.Random) -> None:
        """Keep this replica's Presence record."""
        await keep("presence", self._announce, retry_on=StoreError, rng=rng, base=0.2, cap=2.0)

    async def _announce(self) -> None:
        lease = await self._store.lease(LEASE_SECONDS)
        try:
            self._changed.set()
            while True:
                try:
                    async with asyncio.timeout(LEASE_SECONDS / 3):
                        await self._changed.wait()
                except TimeoutError:
                    if not await lease.keep_alive():
                        raise LeaseLostError("the presence lease is gone") from None
                    continue
                self._changed.clear()
                value = codec.encode_struct(self.presence(asyncio.get_running_loop().time()))
                await self._store.txn((), (Put(keys.REPLICAS + self._base.replica, value, lease.id),))
                if not await lease.keep_alive():
                    raise LeaseLostError("the presence lease is gone")
                await pause(WRITE_SECONDS)
        finally:
            await _end(lease.revoke())


class LeaseLostError(StoreError):
    """The record vanished with its lease."""


async def _send(sending: "asyncio.Future[None] | object") -> bool:
    """Finish a write to a peer that may have stopped reading; False if it cannot be done."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await sending  # type: ignore[misc]
    except (TimeoutError, OSError, RuntimeError):
        return False
    return True


async def _close(ws: web.WebSocketResponse, code: int, message: bytes) -> None:
    await _send(ws.close(code=code, message=message))


async def _end(revoking: "asyncio.Future[None] | object") -> None:
    try:
        async with asyncio.timeout(1.0):
            await revoking  # type: ignore[misc]
    except (StoreError, TimeoutError) as exc:
        log.debug("lease not revoked", error=str(exc))
