"""One control-plane node with many peers: what it costs to import from all, to hold that, and to follow changes.

The peers are their own side of the protocol and a CA each, all in this process; the node, and the etcd behind it, are
real. What a peer offers are services of two gateways each.
"""

import asyncio
import contextlib
import random
import ssl
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from aiohttp import web

from bench.proc import cpu_seconds, memory
from bench.progress import Say
from bench.servers import TRUST_DOMAIN, ControlPlane, controlplane
from bench.stats import Figure, quantile
from ca.authority import Authority
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from controlplane.demo.process import free_port
from multicluster import tokens, trust, wire
from multicluster.link import ESTABLISH_PATH, SESSION_PATH, Link
from multicluster.session import Exporter, Me

PEERS, SERVICES, GATEWAYS = 20, 500, 2
CHANGES = 400
IDLE_SECONDS = 10.0
PATIENCE = 180.0
MB = 1e6


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    peers, services, changes = (3, 50, 20) if quick else (PEERS, SERVICES, CHANGES)
    with tempfile.TemporaryDirectory(prefix="hf-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        say("peers: etcd, control plane")
        async with controlplane(folder, "builtin") as plane, contextlib.AsyncExitStack() as stack:
            made = [await stack.enter_async_context(peer(folder, number, services)) for number in range(peers)]
            return await measured(plane, made, services, changes, say, seconds=2.0 if quick else IDLE_SECONDS)


async def measured(
    plane: ControlPlane, peers: list["Peer"], services: int, changes: int, say: Say, *, seconds: float
) -> list[Figure]:
    pid, what = plane.node.process.pid, f"{len(peers)} peers, {services} services each"
    before, cpu, began = memory(pid), cpu_seconds(pid), time.monotonic()
    say(f"peers: {what}")
    for one in peers:
        await one.establish(plane)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for one in peers:
            group.create_task(one.synced.wait())
    took, used = time.monotonic() - began, cpu_seconds(pid) - cpu
    say(f"peers: {changes} changes, one after the other")
    seconds_each = [await peers[number % len(peers)].change(number) for number in range(changes)]
    after, cpu, began = memory(pid), cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    idle = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    grown = {name: after[name] / MB for name in ("rss", "own")} | {"before": before["rss"] / MB}
    return [
        Figure(f"peers: {what}, first import", "s; s of a core", 1, {"seconds": took, "cpu": used}),
        Figure(f"peers: {what}, memory of the node", "MB", 1, grown),
        Figure(f"peers: {what}, in step and idle", "% of a core", 1, {"cpu": 100 * idle}),
        Figure(
            f"peers: {what}, a change told -> in the importer's store",
            "ms",
            changes,
            {f"p{share}": 1000 * quantile(seconds_each, share / 100) for share in (50, 99)}
            | {"max": 1000 * max(seconds_each)},
            goal="p99 ≤ a round trip + 50 ms",
        ),
    ]


class Peer:
    """One cluster, as far as its peer sees it."""

    def __init__(self, number: int, authority: Authority, port: int, services: int) -> None:
        self.name, self.authority, self.url = f"peer-{number}", authority, f"https://127.0.0.1:{port}"
        self.me = Me(self.name, authority.trust_domain)
        self.synced = asyncio.Event()
        self._acked = asyncio.Event()
        self._exporter: Exporter | None = None
        self._link: Link | None = None
        self._items: dict[str, bytes] = {}
        offered = wire.OfferedService(ports=(wire.OfferedPort(port=80, protocol="http"),), accounts=("api",))
        for service in range(services):
            self._items[f"services/shop/s{service}"] = wire.encode(offered)
            for gateway in range(GATEWAYS):
                self._items[f"endpoints/shop/s{service}/gw{gateway}"] = _way(gateway, 3)

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
                addresses=(self.url,),
                bundle=trust.document(1, self.authority.roots).decode(),
            )
            await api.call("POST", ESTABLISH_PATH, body=msgspec.to_builtins(wanted))

    async def session(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(heartbeat=5.0, max_msg_size=wire.MAX_FRAME_BYTES)
        await ws.prepare(request)
        self._link = link = Link(ws, wire.ToExporter)
        self._exporter = exporter = Exporter(self.me, Me("bench", TRUST_DOMAIN))
        await link.send(exporter.hello(await link.receive(), self._items, "e", 1))
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

    async def _push(self) -> None:
        assert self._exporter is not None
        assert self._link is not None
        while offer := self._exporter.next():
            await self._link.send(offer)

    async def change(self, number: int) -> float:
        """Seconds from the offer of one endpoint's new weight until it is written and said so."""
        assert self._exporter
        self._acked.clear()
        key = f"endpoints/shop/s{number % (len(self._items) // (GATEWAYS + 1))}/gw0"
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
async def peer(folder: Path, number: int, services: int) -> AsyncIterator[Peer]:
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server_identity().write(home))
    made = Peer(number, authority, port := free_port(), services)
    app = web.Application()
    app.router.add_get(SESSION_PATH, made.session)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield made
    finally:
        await runner.cleanup()
