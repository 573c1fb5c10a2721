"""Composition root of a control-plane node: settings -> adapters -> one TaskGroup.

The order is: what the mesh is (store or disk), an own certificate (signer or disk), then the listener. From there on
nothing ends the process but a stop: a store or a signer that is away makes /readyz say so.
"""

import asyncio
import contextlib
import importlib.metadata
import random
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from aiohttp import web

from ca.api import About, Issuer
from ca.limits import Rate, Strangers
from ca.policy import Lifetimes, lifetimes
from ca.seal import Cipher
from controlplane import facts
from controlplane.admission import Limits
from controlplane.api.app import make_app
from controlplane.api.context import Context
from controlplane.api.serverlog import ServerLog
from controlplane.applier import Applier
from controlplane.asking import Asking
from controlplane.audit import AuditLog
from controlplane.election import Election
from controlplane.exporting import Exporting
from controlplane.issuing import Issuing, make_signer
from controlplane.metrics import Metrics
from controlplane.mirror import Mirror
from controlplane.peering import PeeringDesk
from controlplane.peers import Learner, Peers
from controlplane.proxies import Proxies
from controlplane.reconcile import Reconciler
from controlplane.revisions import Revisions
from controlplane.settings import Settings, split_address
from controlplane.setup import open_store
from controlplane.shelf import Shelf
from controlplane.touched import Touched
from controlplane.uplink import Uplinks
from controlplane.writer import Writer
from mesh.aio import Backoff
from mesh.model import MeshConfig
from mesh.store.protocol import Store
from multicluster.session import Me

log = structlog.get_logger(__name__)

STOP_SECONDS = 5.0
"""For answers that are under way when a stop comes."""
HEAD_BYTES = 16 * 1024
LOOKUPS_EACH, LOOKUPS_TOGETHER = Rate(1, 30), Rate(50, 500)
"""Of tokens and nodes that this replica knows nothing of; they may have been made a moment ago at another one."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    daemon = Daemon(settings)
    life, stopping = asyncio.create_task(daemon.serve()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({life, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not life.done():
            await daemon.stop()
            life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
    finally:
        stopping.cancel()
    log.info("stopped", replica=settings.replica)


class Daemon:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.node: Node | None = None

    async def serve(self) -> None:
        """The process's life: ends by cancellation, or by a fault that must not be hidden."""
        settings, rng, data_dir = self._settings, random.Random(), Path(self._settings.data_dir)
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # noqa: ASYNC240 - once, before anything is served
        async with AsyncExitStack() as stack:
            cipher = Cipher.from_file(Path(settings.seal_key_file))
            audit = AuditLog(settings.audit_path, time.time, sync=settings.audit_sync)
            stack.callback(audit.close)
            store = open_store(settings)
            stack.push_async_callback(store.close)
            config = await facts.learn(store, data_dir, Backoff(rng, base=0.2, cap=5.0))
            signer = make_signer(settings, store, cipher, config.spec.trust_domain, time.time)
            stack.push_async_callback(signer.close)
            issuing = Issuing(settings, store, signer, cipher, config, time.time, rng)
            await issuing.start()
            self.node = Node(settings, store, issuing, config, audit, rng)
            await self.node.run()

    async def stop(self) -> None:
        """End streams, tell agents, finish what is under way."""
        if self.node:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * STOP_SECONDS):
                    await self.node.stop()


class Node:
    """All parts of a node that can serve."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        issuing: Issuing,
        config: MeshConfig,
        audit: AuditLog,
        rng: random.Random,
    ) -> None:
        self._settings, self._issuing, self._audit, self._rng = settings, issuing, audit, rng
        self._config, version = config, importlib.metadata.version("holdfast")
        self._mirror = mirror = Mirror(store, rng)
        issuing.follow(mirror)
        mirror.subscribe(self._notice)
        self._uplinks = Uplinks(
            store, mirror.view, replica=settings.replica, advertise=settings.advertise, version=version
        )
        proxies = Proxies(self._uplinks, mirror.view, issuing.client)
        revisions = Revisions(store, self._uplinks, proxies, mirror.view, clock=time.monotonic)
        mirror.subscribe(revisions.notice)
        issuing.report_to(self._uplinks.tell)
        self._election = Election(store, settings.replica, settings.election_ttl_seconds, rng)
        limits = settings.limits
        self._reconciler = Reconciler(
            store,
            mirror,
            self._election,
            author=f"controlplane:{settings.replica}",
            limit=limits.transaction_ops,
            wall=time.time,
            rng=rng,
        )
        me = Me(config.spec.cluster, config.spec.trust_domain)
        applier = Applier(store, Limits(limits.transaction_ops, limits.transaction_bytes), time.time)
        metrics, lags = Metrics(), dict[str, float]()

        def observe(peer: str, seconds: float) -> None:
            lags[peer] = seconds
            metrics.peer_offer.labels(peer).observe(seconds)

        self._exporting = Exporting(mirror, me, self._addresses, Learner(store, mirror.view).learn)
        self._peers = Peers(
            store,
            mirror,
            self._election,
            me=me,
            author=f"controlplane:{settings.replica}",
            limit=limits.transaction_ops,
            addresses=self._addresses,
            tls=issuing.peer_client,
            observe=observe,
            wall=time.time,
            rng=rng,
        )
        self._strangers = Strangers(LOOKUPS_EACH, LOOKUPS_TOGETHER)
        self._touched: set[str] = set()
        self._nodes_changed = asyncio.Event()
        spec = config.spec
        self.context = Context(
            settings=settings,
            version=version,
            trust_domain=spec.trust_domain,
            cluster=spec.cluster,
            store=store,
            mirror=mirror,
            applier=applier,
            desk=PeeringDesk(store, mirror.view, applier, me, self._addresses, time.time),
            peers=self._peers,
            exporting=self._exporting,
            lags=lags,
            writer=Writer(store, mirror.view),
            uplinks=self._uplinks,
            proxies=proxies,
            revisions=revisions,
            asking=Asking(self._uplinks, proxies, mirror.view, clock=time.monotonic),
            election=self._election,
            issuer=Issuer(
                store,
                issuing.authority,
                audit,
                about=About(spec.trust_domain, spec.cluster, settings.gates, settings.controlplanes),
                holder=mirror.view.holder,
                may_look_up=self._may_look_up,
                life=self._life,
            ),
            authority=issuing,
            audit=audit,
            metrics=metrics,
            wall=time.time,
            shelf=Shelf(Path(settings.dist_dir)),
            may_look_up=self._may_look_up,
        )
        self._runner = web.AppRunner(
            make_app(self.context),
            access_log=None,
            logger=ServerLog(audit),
            handle_signals=False,
            shutdown_timeout=STOP_SECONDS,
            max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
        )

    def _may_look_up(self, key: str, address: str, now: float) -> float:
        """Whoever guesses asks the store rarely; whoever has a token that the mirror knows of is not held up."""
        return 0.0 if self._mirror.view.knows_token(key, now) else self._strangers.take(address, now)

    def _addresses(self) -> tuple[str, ...]:
        """Where peers reach this cluster's control plane."""
        told = self._settings.peer_addresses or self._settings.controlplanes
        replicas = self._mirror.view.replicas.values()
        return told or tuple(sorted({one.advertise for one in replicas} | {self._settings.advertise}))

    def _life(self) -> Lifetimes:
        return lifetimes((self._mirror.view.config or self._config).spec)

    def _notice(self, touched: Touched) -> None:
        if touched.nodes:
            self._touched |= touched.nodes
            self._nodes_changed.set()
        if touched.config and (config := self._mirror.view.config):
            facts.keep(Path(self._settings.data_dir), config)

    async def run(self) -> None:
        """All loops, and the listener. Ends only by cancellation."""
        await self._runner.setup()
        assert self._issuing.tls is not None
        host, port = split_address(self._settings.listen)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._audit.run())
                group.create_task(self._mirror.run())
                group.create_task(self._issuing.run())
                group.create_task(self._uplinks.run(self._rng))
                group.create_task(self._election.run())
                group.create_task(self._reconciler.run())
                group.create_task(self._peers.run())
                group.create_task(self._cut_unwelcome())
                assert self._runner.server is not None
                group.create_task(self.context.idle.run(self._runner.server))
                await web.TCPSite(self._runner, host, port, ssl_context=self._issuing.tls.door, backlog=1024).start()
                log.info("serving", replica=self._settings.replica, listen=self._settings.listen)
        finally:
            await self._runner.cleanup()

    async def _cut_unwelcome(self) -> None:
        """An evicted node's open connection ends at once."""
        while True:
            await self._nodes_changed.wait()
            self._nodes_changed.clear()
            touched, self._touched = self._touched, set()
            await self._uplinks.drop_unwelcome(touched)

    async def stop(self) -> None:
        self.context.stopping.set()
        await self._uplinks.close()
        await self._exporting.close()
        await self._runner.cleanup()
