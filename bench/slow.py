"""Peers that are slow in every way that there is: each holds what it can of its neighbour, and gives nothing back."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from bench.peer import NODE, Peer
from bench.servers import ControlPlane
from multicluster import wire
from multicluster.link import Link
from multicluster.session import Exporter, Importer

TRICKLE_SECONDS = 1.0
QUIET_SECONDS = 60.0


class Unreachable(Peer):
    """Its packets go nowhere: a dial gets no answer at all, as behind a firewall that drops."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            place = ("127.0.0.1", self.port)
            door = stack.enter_context(socket.socket())
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(place)
            door.listen(0)
            # Nobody accepts these; once as many wait as may, the kernel does not answer others.
            for _ in range(4):
                waits = stack.enter_context(socket.socket())
                waits.setblocking(False)
                waits.connect_ex(place)
            yield


class HalfOpen(Peer):
    """Takes connections, and does not say a word: no handshake of TLS."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", self.port)
        try:
            yield
        finally:
            for writer in held:
                writer.close()
            server.close()


class Mute(Peer):
    """A session, and no welcome in it."""

    async def session(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(max_msg_size=wire.MAX_FRAME_BYTES)
        await ws.prepare(request)
        link = Link(ws, wire.ToExporter)
        while True:
            await link.receive()


class Trickling(Peer):
    """An item a second, of all that it has."""

    async def session(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(max_msg_size=wire.MAX_FRAME_BYTES)
        await ws.prepare(request)
        link, exporter = Link(ws, wire.ToExporter), Exporter(self.me, NODE)
        await link.send(exporter.hello(await link.receive(), {}, "e", 1))

        async def trickle() -> None:
            for key, value in self.items.items():
                exporter.changed({key: value}, 1)
                if offer := exporter.next():
                    await link.send(offer)
                await asyncio.sleep(TRICKLE_SECONDS)

        async with asyncio.TaskGroup() as group:
            group.create_task(trickle())
            while True:
                match message := await link.receive():
                    case wire.Digests():
                        exporter.digests(message)
                    case wire.Ack():
                        exporter.ack(message)


class NotAcknowledging(Mute):
    """Reads what it is told, and never says that it has."""

    reads = True

    async def pull(self, plane: ControlPlane) -> None:
        async with self.dialling(plane) as line:
            importer = Importer(self.me, NODE, {})
            await line.send(importer.hello(bundle="", epoch="", position=0, addresses=()))
            welcome = await line.receive()
            for digests in importer.welcome(welcome):
                await line.send(digests)
            while self.reads:
                await line.receive()
            await asyncio.sleep(QUIET_SECONDS)


class NotReading(NotAcknowledging):
    """Its socket fills up."""

    reads = False


KINDS: tuple[type[Peer], ...] = (Unreachable, HalfOpen, Trickling, NotAcknowledging, NotReading)
"""Dealt out in turn."""
