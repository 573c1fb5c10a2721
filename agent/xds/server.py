"""Delta ADS on a unix socket: the shell around `stream`.

Who may connect is the socket's own business: its directory is 0750 and it is 0660, for Envoy's group. gRPC does not
show the peer's uid.
"""

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import structlog

from agent.xds import wire
from agent.xds.stream import Acked, Doubts, Nacked, Output, Stream, Withheld
from agent.xds.wire import Send
from mesh.compile.types import Snapshot

log = structlog.get_logger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"

MAX_STREAMS = 8
"""Two Envoys during a hot restart; each may reconnect before its old stream is seen to be gone."""
MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""A resumed stream names all that it holds: 10,000 resources are about 1 MB."""

_SERVERS = itertools.count()

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
)


@dataclass(frozen=True, slots=True)
class StreamOpened:
    stream: int
    node: str


@dataclass(frozen=True, slots=True)
class StreamClosed:
    stream: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What one stream's client says of a snapshot."""

    stream: int
    outcome: Acked | Nacked | Withheld


Event = StreamOpened | StreamClosed | Answered


@dataclass(frozen=True, slots=True)
class StreamStatus:
    stream: int
    node: str
    held: dict[str, int]
    """Type URL -> resources."""
    waiting: tuple[str, ...]
    """Types whose response is unanswered."""


class _Connection:
    """One Envoy's stream. The outbox holds one response a type: `stream` sends no second one before an answer."""

    def __init__(self, number: int, distrust: Doubts) -> None:
        self.number = number
        self.node = ""
        self.stream = Stream(nonces=f"{number}.", distrust=distrust)
        self._outbox: deque[Send] = deque()
        self._full = asyncio.Event()

    def put(self, send: Send) -> None:
        self._outbox.append(send)
        self._full.set()

    async def take(self) -> Send:
        await self._full.wait()
        send = self._outbox.popleft()
        if not self._outbox:
            self._full.clear()
        return send


class XdsServer:
    """`on_event` is called on the loop, in order, and must not block. It may call `publish`."""

    def __init__(self, path: Path, *, on_event: Callable[[Event], None]) -> None:
        self._path = path
        self._on_event = on_event
        self._connections: dict[int, _Connection] = {}
        self._snapshot: Snapshot | None = None
        self._count = 0
        self._doubts: Doubts = {}
        """Of the streams that broke, until one that came after them is settled."""
        self.listening = asyncio.Event()

    def publish(self, snapshot: Snapshot) -> None:
        """Make this the newest configuration. Never waits; a slow Envoy skips what it was too slow for."""
        self._snapshot = snapshot
        for connection in tuple(self._connections.values()):
            self._deliver(connection, connection.stream.on_snapshot(snapshot))

    def streams(self) -> tuple[StreamStatus, ...]:
        """The open ones, the oldest first."""
        return tuple(
            StreamStatus(c.number, c.node, c.stream.held(), c.stream.waiting) for c in self._connections.values()
        )

    async def run(self) -> None:
        """Serve until cancelled. The socket file is left for the next one to replace."""
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._serve)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        temporary = self._listen(server)
        await server.start()
        temporary.replace(self._path)
        self.listening.set()
        try:
            await server.wait_for_termination()
        finally:
            self.listening.clear()
            await server.stop(grace=None)

    def _listen(self, server: grpc.aio.Server) -> Path:
        """Bind another name, which then replaces the real one at a stroke.

        gRPC removes the name that it bound some time after a stop: by then it may be the next server's.
        """
        temporary = self._path.with_name(f"{self._path.name}.{next(_SERVERS)}.{os.getpid()}")
        directory = self._path.parent
        if not directory.is_dir():
            directory.mkdir(mode=0o750, parents=True)
        umask = os.umask(0o117)
        try:
            server.add_insecure_port(f"unix:{temporary}")
        finally:
            os.umask(umask)
        return temporary

    async def _serve(self, _requests: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._count += 1
        connection = _Connection(self._count, self._doubts)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(connection, context))
                await self._read(connection, context)
                writer.cancel()
        finally:
            if self._connections.pop(connection.number, None):
                self._distrust(connection.stream.doubts())
                self._on_event(StreamClosed(connection.number))

    async def _read(self, connection: _Connection, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        while True:
            raw: object = await context.read()
            if not isinstance(raw, bytes):
                return  # grpc.aio.EOF
            try:
                request = wire.decode(raw)
            except wire.BadRequestError as exc:
                log.warning("xds request cannot be read", stream=connection.number, error=str(exc))
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a DeltaDiscoveryRequest")
            if connection.number not in self._connections:
                self._open(connection, request.node)
            self._deliver(connection, connection.stream.on_request(request))

    def _open(self, connection: _Connection, node: str) -> None:
        connection.node = node
        self._connections[connection.number] = connection
        self._on_event(StreamOpened(connection.number, node))
        if self._snapshot is not None:
            self._deliver(connection, connection.stream.on_snapshot(self._snapshot))

    def _deliver(self, connection: _Connection, outputs: tuple[Output, ...]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                connection.put(output)
            else:
                if isinstance(output, Acked):
                    self._doubts = {}
                self._on_event(Answered(connection.number, output))

    def _distrust(self, doubts: Doubts) -> None:
        known = self._doubts
        self._doubts = {url: known.get(url, frozenset()) | doubts.get(url, frozenset()) for url in {*known, *doubts}}

    @staticmethod
    async def _write(connection: _Connection, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        while True:
            await context.write(wire.encode(await connection.take()))
