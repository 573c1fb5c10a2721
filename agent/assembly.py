"""The agent put together: every part, and the wires between them. Decisions are the machine's, I/O the parts'.

What is outside (clock, Envoy, the store, the CA) comes in as `Outside`, so that a whole agent can run on fakes.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from agent import capture, kept, metrics, notify, redirect
from agent import events as ev
from agent.applied import Applied
from agent.envoy.admin import AdminError
from agent.health import Monitor
from agent.host import Host
from agent.hostd.wanted import Wanted
from agent.identity.joiner import Joiner
from agent.identity.keeper import Keeper
from agent.outside import Outside
from agent.peers import Peers
from agent.pipeline import Offer, Pipeline, in_force
from agent.redirector import Redirector
from agent.register import Registrar
from agent.resolver import Resolver
from agent.runtime import Runtime
from agent.saver import Saver
from agent.settings import Settings
from agent.state import Disk, StoredIdentity, StoredWorld
from agent.supervisor import Supervisor
from agent.uplink import Answers, ControlPlane, RefusedByControlPlane, Unreachable, Uplink
from agent.watch import Told, Watch
from agent.xds.server import XdsServer
from mesh import compile as mesh_compile
from mesh.aio import pause
from mesh.compile.types import Snapshot
from mesh.model import Instance, Revision, ServiceRef, World
from mesh.model.uplink import Hello, Report
from mesh.store.protocol import Store

log = structlog.get_logger(__name__)

DEREGISTER_SECONDS = 5.0
"""A control plane that is away must not hold up a drain."""

CLOSE_SECONDS = 2.0
"""A store that was replaced is closed when its successor has long taken over."""


class Assembly:
    """Also the `Parts` of Runtime: instructions end here."""

    def __init__(self, settings: Settings, outside: Outside) -> None:
        self.settings, self.outside = settings, outside
        self.started = outside.clock()
        self.counters = metrics.Counters()
        self.applied = Applied()
        self.disk = Disk(settings.data)
        self.host = Host(settings, outside.clock)
        self.pipeline = Pipeline()
        self.runtime = Runtime(self.pipeline, self, outside.envoy.validate, self.counters)
        post, rng = self.runtime.post, outside.rng
        self.xds = XdsServer(settings.xds_socket, on_event=self.runtime.on_xds)
        self.supervisor = Supervisor(outside.envoy, self._envoy_said, rng=rng)
        self.joiner = Joiner(
            settings, self.disk, outside.exchange, on_joined=self._joined, clock=outside.clock, rng=rng
        )
        self.peers = Peers(settings, lambda: self.keeper.stored, lambda: self.pipeline.world)
        self.keeper = Keeper(
            self.disk,
            outside.exchange,
            urls=self.peers.controlplanes,
            roots=self.peers.roots,
            wanted=self.host.wanted,
            on_change=self._identities_changed,
            on_due=lambda: post(ev.RenewDue()),
            clock=outside.clock,
            rng=rng,
            counters=self.counters,
        )
        self.watch = Watch(
            Told(
                world=self._world_changed,
                observed=lambda revision: post(ev.Observed(revision)),
                broken=self._store_broken,
                restored=self._store_restored,
            ),
            interest=self._interest,
            rng=rng,
            counters=self.counters,
        )
        self.saver = Saver(self.disk.worlds, self._stored_world, self.counters)
        self.controlplane = ControlPlane(self.peers.controlplanes, self.peers.tls, rng=rng)
        self.registrar = Registrar(self.controlplane, self._instances, on_registered=self._registered, rng=rng)
        self.redirector = Redirector(Path(settings.capture.socket), self._offer, self.report)
        self.resolver = Resolver(settings.data, self._names, outside.look_up, outside.clock, self._resolved)
        self.monitor: Monitor | None = None
        self.store: Store | None = None
        self.store_problem = "not followed yet"
        self.uplink: Uplink | None = None
        self.uplink_problem = "not connected yet"
        self.registered = False
        self._generations: tuple[StoredWorld, ...] = ()
        self._group: asyncio.TaskGroup | None = None
        self._exit = asyncio.Event()
        self._joined_event = asyncio.Event()
        self._redirected_for = b""
        self._interested: tuple[tuple[object, ...], frozenset[ServiceRef]] | None = None

    def connect(self, report: Callable[[], Report], answers: Answers) -> None:
        """Hold a connection to the control plane, with these words for it."""
        self.uplink = Uplink(
            self.controlplane,
            Hello(node=self.settings.node, version=self.outside.version),
            report=report,
            answers=answers,
            on_up=self._controlplane_up,
            on_down=self._controlplane_down,
            rng=self.outside.rng,
        )

    async def run(self, extra: Iterable[Callable[[], Coroutine[Any, Any, None]]] = ()) -> None:
        """Until told to leave. `extra`: servers that live as long as the agent."""
        stored = await self._read_disk()
        loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.xds.run, self.supervisor.run, self.joiner.run, self.keeper.run, self.watch.run, self.saver.run,
            self.registrar.run, self.runtime.compiles, self.runtime.warms, self.runtime.searches, self._look_at_disk,
            self.redirector.run, self._resolve, *extra,
        ]  # fmt: skip
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.monitor = Monitor(group, lambda: self.runtime.post(ev.HealthChanged()))
            self.monitor.update(self.host.definitions.good)
            running = [group.create_task(loop(), name=getattr(loop, "__qualname__", "")) for loop in loops]
            if self.uplink is not None:
                running.append(group.create_task(self._hold_uplink(self.uplink)))
            await self.xds.listening.wait()
            self._begin(stored)
            await self._exit.wait()
            await self.saver.flush()
            self.monitor.update(())
            for task in running:
                task.cancel()
        if self.store is not None:
            await self.store.close()

    async def _hold_uplink(self, uplink: Uplink) -> None:
        """Only with an identity: before the join there is nobody to speak as."""
        await self._joined_event.wait()
        await uplink.run()

    async def _resolve(self) -> None:
        """What the join named is known only with an identity, and would be forgotten before."""
        await self._joined_event.wait()
        await self.resolver.run()

    async def _read_disk(self) -> StoredIdentity | None:
        identities = await asyncio.to_thread(self.disk.identities.load)
        self._generations = await asyncio.to_thread(self.disk.worlds.load)
        await asyncio.to_thread(self.host.load)
        await asyncio.to_thread(self.host.load_drained)
        await self.resolver.load()
        found = identities[0] if identities else None
        if found is not None and found.node != self.settings.node:
            log.critical("the identity on disk is another node's; joining anew", node=found.node)
            return None
        return found

    def _begin(self, stored: StoredIdentity | None) -> None:
        if stored is not None:
            self._hold(stored)
        self.runtime.post(
            ev.Started(
                identity=stored is not None,
                generations=len(self._generations),
                gate=self.settings.gate is not None,
                envoy=bool(self.outside.envoy.state().pids),
            )
        )

    def _hold(self, stored: StoredIdentity) -> None:
        self.keeper.start(stored)
        self.peers.renewed()  # from now on
        self._joined_event.set()
        self._relocal()

    def _relocal(self) -> None:
        """What the host holds or defines is another."""
        assert self.keeper.stored is not None
        local = self.host.local(self.keeper.stored)
        if local != self.pipeline.local:
            self.pipeline.local = local
        self.watch.interested()

    # --- what the parts tell ---

    def _joined(self, stored: StoredIdentity) -> None:
        self._hold(stored)
        self.runtime.post(ev.Joined())

    def _identities_changed(self) -> None:
        self._relocal()
        self._connect_anew()
        self.runtime.post(ev.IdentitiesChanged())

    def _connect_anew(self) -> None:
        """If our certificate or whom we trust is new: connections are replaced while the old ones are still good."""
        if not self.peers.renewed():
            return
        if self.store is not None:
            self.follow()
        if self.uplink is not None:
            self.uplink.reconnect()

    def _world_changed(self, world: World) -> None:
        self.pipeline.world, self.pipeline.newest = world, self.watch.newest
        self._connect_anew()
        self.runtime.post(ev.WorldChanged(world.revision))

    def _interest(self, world: World) -> Iterable[ServiceRef]:
        """It is asked for with every change, and depends on objects and definitions alone."""
        local, standing = self.pipeline.local, self.pipeline.substitutes
        asked = (local, world.objects, standing)
        if self._interested is None or any(a is not b for a, b in zip(asked, self._interested[0], strict=True)):
            found: frozenset[ServiceRef] = frozenset()
            if local is not None:
                found = mesh_compile.interest(local, world)
                if standing:  # what stands in for a refused route may lead elsewhere
                    found |= mesh_compile.interest(local, in_force(world, standing))
            self._interested = (asked, found)
        return self._interested[1]

    def _store_broken(self, reason: str) -> None:
        self.store_problem = reason
        self.runtime.post(ev.StoreBroken(reason))

    def _store_restored(self) -> None:
        self.store_problem = ""
        self.runtime.post(ev.StoreRestored())

    def _envoy_said(self, event: ev.Event) -> None:
        if isinstance(event, ev.EnvoyDrains):
            self.host.envoy_drains = event.begun
        self.runtime.post(event)
        if isinstance(event, ev.EnvoyReady):
            self.runtime.envoy_is_back()

    def _resolved(self) -> None:
        self.redirector.post(redirect.Resolved(self.resolver.known.addresses))
        self.report()

    def _registered(self) -> None:
        self.registered = True
        self.runtime.post(ev.Registered())

    def _controlplane_up(self) -> None:
        self.uplink_problem = ""
        self.runtime.post(ev.ControlPlaneUp())

    def _controlplane_down(self, reason: str) -> None:
        if reason != self.uplink_problem:
            log.warning("no control plane; everything goes on without", reason=reason)
        self.uplink_problem = reason
        self.runtime.post(ev.ControlPlaneDown(reason))

    def definitions_changed(self) -> None:
        """services.d says something else."""
        if self.monitor is not None:
            self.monitor.update(self.host.definitions.good)
        if self.keeper.stored is not None:
            self.keeper.forget(self.host.wanted())
            self._relocal()
        self.runtime.post(ev.DefinitionsChanged())

    async def _look_at_disk(self) -> None:
        await self.host.watch(self.definitions_changed)

    # --- what they need to know ---

    def _instances(self) -> tuple[Instance, ...]:
        assert self.monitor is not None
        return self.host.instances(self.monitor, self.keeper.held)

    async def _stored_world(self) -> StoredWorld:
        return kept.with_substitutes(await self.watch.stored(), self.pipeline.substitutes)

    # --- instructions end here (Parts of Runtime) ---

    def join(self) -> None:
        self.joiner.start()

    def follow(self) -> None:
        stored, gates = self.keeper.stored, self.peers.gates()
        if stored is None or not gates:
            self.store_problem = "no store gate is known: name one under `gates` in agent.yaml"
            self.runtime.post(ev.StoreBroken(self.store_problem))
            return
        former, self.store = self.store, self.outside.open_store(gates, self.peers.roots(), stored.own)
        self.watch.follow(self.store)
        if former is not None:
            self._spawn(self._close_later(former))

    @staticmethod
    async def _close_later(store: Store) -> None:
        await pause(CLOSE_SECONDS)
        await store.close()

    def renew(self) -> None:
        self.keeper.renew()

    def use_generation(self, number: int) -> ev.WorldChanged:
        stored = self._generations[number] if 0 <= number < len(self._generations) else None
        log.info(
            "world from disk",
            generation=number,
            keys=sum(len(r.values) for r in stored.ranges.values()) if stored else 0,
        )
        world = self.watch.use(stored)
        self.pipeline.world, self.pipeline.newest = world, self.watch.newest
        self.pipeline.substitutes = kept.substitutes(stored) if stored else {}
        return ev.WorldChanged(Revision(world.revision), live=False)

    def publish(self, snapshot: Snapshot) -> None:
        """As soon as nobody is redirected to what it does not have any more."""
        offer = self.pipeline.offer(snapshot.digest)
        assert offer is not None
        self.redirector.post(redirect.Offered(snapshot.digest, self._redirected(offer)))

    def _offer(self, digest: bytes) -> None:
        if offer := self.pipeline.offer(digest):
            self.xds.publish(offer.snapshot)

    def _redirected(self, offer: Offer) -> Wanted:
        return capture.wanted(offer.local, offer.snapshot, self.settings.capture, self._lives_from())

    def _lives_from(self) -> tuple[str, ...]:
        return capture.mesh_hosts(self.peers.gates(), self.peers.controlplanes())

    def _names(self) -> tuple[str, ...]:
        """What to resolve: capture alone asks for it."""
        return capture.named(self._lives_from()) if self.settings.capture.outbound else ()

    async def warming(self) -> int | None:
        if not self.supervisor.live:
            return None
        try:
            return await self.outside.envoy.warming()
        except AdminError:
            return None

    def ensure_envoy(self) -> None:
        self.supervisor.ensure()

    def look_at_envoy(self) -> None:
        self.supervisor.look()

    def stop_envoy(self) -> None:
        self._spawn(self.supervisor.stop())

    def register(self) -> None:
        self.registrar.request()

    def deregister(self) -> None:
        self._spawn(self._withdraw())

    async def _withdraw(self) -> None:
        with suppress(TimeoutError, Unreachable, RefusedByControlPlane):
            async with asyncio.timeout(DEREGISTER_SECONDS):
                await self.registrar.withdraw()
        self.runtime.post(ev.Deregistered())

    def save(self) -> None:
        self.saver.request()

    def report(self) -> None:
        applied = self.runtime.state.applied_digest
        if applied != self._redirected_for and (offer := self.pipeline.offer(applied)):
            self._redirected_for = applied
            self.applied.note(self.outside.clock(), offer.newest, offer.snapshot)
            self.redirector.post(redirect.InForce(self._redirected(offer)))
        if self.uplink is not None:
            self.uplink.changed()

    def exit(self) -> None:
        self._exit.set()

    def say_alive(self) -> None:
        notify.tell("WATCHDOG=1", f"STATUS={self.runtime.state.phase}, applied {self.runtime.state.applied}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None
        self._group.create_task(work)
