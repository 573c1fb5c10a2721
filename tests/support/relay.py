"""A wire between two ends that a test can cut, slow down, or let pass in one direction only."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.support.waiting import aeventually

CHUNK = 64 * 1024


class Relay:
    """Listens on 127.0.0.1:`port` and passes bytes on to whatever `target` names at that moment."""

    def __init__(self, port: int, target: Callable[[], tuple[str, int]]) -> None:
        self.port, self._target = port, target
        self.delay = 0.0
        """One way, seconds."""
        self.to = self.back = 0
        """Bytes passed to the target, and from it."""
        self.accepting = True
        self.lose_to = self.lose_back = False
        """Bytes of this direction go nowhere; the connection stays open."""
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.accepting:
            writer.close()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target())
        except OSError:
            writer.close()
            return
        self._ends |= {writer, there_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there_writer, self._count_to))
                group.create_task(self._pass(there_reader, writer, self._count_back))
        finally:
            for end in (writer, there_writer):
                self._ends.discard(end)
                end.close()

    def _count_to(self, size: int) -> bool:
        self.to += size
        return self.lose_to

    def _count_back(self, size: int) -> bool:
        self.back += size
        return self.lose_back

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: Callable[[int], bool]
    ) -> None:
        """Bytes keep their order and their distance; a queue holds what is on its way."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def deliver() -> None:
            with suppress(ConnectionError):
                while True:
                    due, data = await queue.get()
                    await asyncio.sleep(max(0.0, due - loop.time()))
                    if not data:
                        writer.close()
                        return
                    writer.write(data)
                    await writer.drain()

        async def take() -> None:
            data = b"x"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except ConnectionError:
                    data = b""
                if not data or not lost(len(data)):
                    queue.put_nowait((loop.time() + self.delay, data))

        parts: tuple[Callable[[], Awaitable[None]], ...] = (deliver, take)
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part())  # type: ignore[arg-type]

    def cut(self) -> None:
        """All connections end now, and none is taken until `mend`."""
        self.accepting = False
        for end in list(self._ends):
            if end.transport:
                end.transport.abort()

    def mend(self) -> None:
        self.accepting, self.lose_to, self.lose_back = True, False, False

    async def close(self) -> None:
        self.cut()
        if self._server:
            await close(self._server)
        await aeventually(lambda: not self._ends, what="the relay's connections have ended")


async def close(server: asyncio.Server) -> None:
    """Close it while others go on to dial.

    Python 3.11 loses a connection that it has taken but not yet handed over as a server is closed: nobody closes it,
    and a garbage collector complains in somebody else's test (`Server._attach` asserts that the server is open).
    """
    loop = asyncio.get_running_loop()
    for socket in server.sockets:
        loop.remove_reader(socket.fileno())
    for _ in range(2):  # one turn until a task has it, one until it has a transport
        await asyncio.sleep(0)
    server.close()
    await server.wait_closed()
