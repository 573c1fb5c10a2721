"""Another cluster, as far as a control-plane node under measurement sees it: its CA, and its own side of the protocol.

All of them live in the bench's process. What they offer are services of two gateways each.
"""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from bench.servers import TRUST_DOMAIN, ControlPlane
from ca.authority import Authority
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from controlplane.api.tls import PEER_NAME
from controlplane.demo.process import free_port
from multicluster import tokens, trust, wire
from multicluster.link import ESTABLISH_PATH, SESSION_PATH, Link, LinkError, dialled, peer_context
from multicluster.session import Exporter, Importer, Me

GATEWAYS = 2
NODE = Me("bench", TRUST_DOMAIN)
PATIENCE = 180.0


class Peer:
    """One cluster, as far as its peer sees it."""

    def __init__(self, number: int, authority: Authority, files: tuple[Path, Path], port: int, services: int) -> None:
        """`files`: chain and key of its control plane."""
        self.name, self.authority, self.files, self.port = f"peer-{number}", authority, files, port
        self.me = Me(self.name, authority.trust_domain)
        self.synced = asyncio.Event()
        self.pulled = False
        """We hold what the node exports."""
        self.told, self.position = 0.0, 0
        """When the node's last offer came, and of which revision of its store."""
        self._acked = asyncio.Event()
        self._exporter: Exporter | None = None
        self._link: Link | None = None
        self._sessions: set[asyncio.Task[Any]] = set()
        self.items: dict[str, bytes] = {}
        offered = wire.OfferedService(ports=(wire.OfferedPort(port=80, protocol="http"),), accounts=("api",))
        for service in range(services):
            self.items[f"services/shop/s{service}"] = wire.encode(offered)
            for gateway in range(GATEWAYS):
                self.items[f"endpoints/shop/s{service}/gw{gateway}"] = _way(gateway, 3)

    async def establish(self, plane: ControlPlane) -> None:
        """With a token of the node's."""
        async with plane.api() as api:
            made = await api.call("POST", "/v1/peering/tokens", body={})
            token = tokens.parse(made["token"])
            wanted = tokens.Application(
                id=token.id,
                secret=token.secret,
                cluster=self.name,
                trust_domain=self.me.trust_domain,
                addresses=(f"https://127.0.0.1:{self.port}",),
                bundle=trust.document(1, self.authority.roots).decode(),
            )
            await api.call("POST", ESTABLISH_PATH, body=msgspec.to_builtins(wanted))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.files)
        app = web.Application()
        app.router.add_get(SESSION_PATH, self._served)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context).start()
        try:
            yield
        finally:
            # Else each would be waited for until its heartbeat fails.
            for session in self._sessions:
                session.cancel()
            await runner.cleanup()

    async def _served(self, request: web.Request) -> web.WebSocketResponse:
        task = asyncio.current_task()
        assert task
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)
        try:
            return await self.session(request)
        except LinkError as exc:  # the node dials again
            raise web.HTTPServiceUnavailable(text=str(exc)) from exc

    async def session(self, request: web.Request) -> web.WebSocketResponse:
        """The node imports from us."""
        ws = web.WebSocketResponse(heartbeat=5.0, max_msg_size=wire.MAX_FRAME_BYTES)
        await ws.prepare(request)
        self._link = link = Link(ws, wire.ToExporter)
        self._exporter = exporter = Exporter(self.me, NODE)
        await link.send(exporter.hello(await link.receive(), self.items, "e", 1))
        while True:
            await self._push()
            match message := await link.receive():
                case wire.Digests():
                    exporter.digests(message)
                case wire.Ack():
                    exporter.ack(message)
                    if message.refused:
                        raise RuntimeError(f"items were refused: {message.rejected}")
                    if exporter.synced and exporter.acked == exporter.nonce:
                        self.synced.set()
                        self._acked.set()

    @contextlib.asynccontextmanager
    async def dialling(self, plane: ControlPlane) -> AsyncIterator[Link]:
        context = peer_context(*self.files, [plane.ca_file.read_text()], TRUST_DOMAIN)
        async with dialled(plane.url, context, self.name + PEER_NAME) as line:
            yield line

    async def pull(self, plane: ControlPlane) -> None:
        """We import from the node, for good; `told` moves on with each of its offers."""
        async with self.dialling(plane) as line:
            importer = Importer(self.me, NODE, {})
            await line.send(importer.hello(bundle="", epoch="", position=0, addresses=()))
            while True:
                match message := await line.receive():
                    case wire.Welcome():
                        for digests in importer.welcome(message):
                            await line.send(digests)
                    case wire.Offer():
                        importer.offer(message)
                        await line.send(importer.done(message, {}))
                        self.pulled |= importer.synced
                        self.told, self.position = time.monotonic(), message.position

    async def _push(self) -> None:
        assert self._exporter is not None
        assert self._link is not None
        while offer := self._exporter.next():
            await self._link.send(offer)

    async def change(self, number: int) -> float:
        """Seconds from the offer of one endpoint's new weight until it is written and said so."""
        assert self._exporter
        self._acked.clear()
        key = f"endpoints/shop/s{number % (len(self.items) // (GATEWAYS + 1))}/gw0"
        began = time.monotonic()
        self._exporter.changed({key: _way(0, 4 + number)}, 1)
        await self._push()
        async with asyncio.timeout(PATIENCE):
            await self._acked.wait()
        return time.monotonic() - began


def _way(gateway: int, weight: int) -> bytes:
    return wire.encode(
        wire.OfferedEndpoint(
            node=f"gw{gateway}",
            address=f"10.0.0.{gateway + 1}",
            port=15444,
            account="api",
            ports=(80,),
            health="healthy",
            weight=weight,
        )
    )


@contextlib.asynccontextmanager
async def peer(folder: Path, number: int, services: int, kind: type[Peer] = Peer) -> AsyncIterator[Peer]:
    """One that listens."""
    home = folder / f"peer-{number}"
    home.mkdir()
    domain = f"peer-{number}.bench"
    authority = Authority(
        MemorySigner(domain, clock=time.time),
        trust_domain=domain,
        replica="cp1",
        directory=home,
        cipher=Cipher([bytes(32)]),
        clock=time.time,
        rng=random.Random(number),
    )
    await authority.start()
    made = kind(number, authority, authority.server_identity().write(home), free_port(), services)
    async with made.listening():
        yield made
