"""Serves what this cluster exports to its peers. Any replica does; nothing of a session outlives its connection."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from ca.limits import Buckets, Rate
from controlplane.mirror import Mirror
from controlplane.touched import Touched
from controlplane.view import View, roots_of
from mesh.aio import first, pause
from mesh.model import GATEWAY, Endpoint, ExportPolicy, Peering, Service, ServiceRef, TrustBundle
from multicluster import exports, trust
from multicluster.exports import Items, Selection
from multicluster.link import Link, LinkError
from multicluster.session import Exporter, Me, ProtocolError
from multicluster.wire import Ack, Bye, Digests, Hello, ToExporter

log = structlog.get_logger(__name__)

HELLO_SECONDS = 10.0
CATCH_UP_SECONDS = 10.0
"""How long a replica that lags behind what the peer has seen waits before it serves what it has."""
MAX_SESSIONS = 4
"""Of one peer, at one replica: its leader has one, and a new leader comes before the old one is missed. Newer ones
win, also over such as have said nothing yet."""
HELLOS = Rate(0.5, 20)
"""Of one peer, at one replica. An importer that finds nobody waits longer than this by itself."""
DIGESTS = Rate(25_000, 300_000)
"""Items that one peer tells that it holds, over all its sessions; a burst is more than one session may tell of."""

Learn = Callable[[str, tuple[str, ...]], Awaitable[str]]
"""(peer, addresses) -> why they are not taken, or nothing."""


class LocalView:
    """exports.Local over a View."""

    def __init__(self, view: View) -> None:
        self._view = view

    def services(self) -> Iterable[Service]:
        return [held.object for held in self._view.services.values()]

    def service(self, ref: ServiceRef) -> Service | None:
        held = self._view.services.get(ref)
        return held.object if held else None

    def endpoints(self, ref: ServiceRef) -> Iterable[Endpoint]:
        return [held.object for _, held in sorted(self._view.endpoints.get(ref, {}).items())]

    def policies(self) -> Iterable[ExportPolicy]:
        return self._view.policies.values()


@dataclass(slots=True, eq=False)
class Session:
    """One peer's connection."""

    peer: str
    link: Link
    exporter: Exporter
    since: float
    """Monotonic."""
    offered: dict[ServiceRef, Items] = field(default_factory=dict)
    dirty: set[ServiceRef] = field(default_factory=set)
    everything: bool = False
    """All of it is to be looked at anew."""
    behind: bool = False
    """It waits until this replica has seen what the peer has."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    bundle: str = ""
    addresses: tuple[str, ...] = ()
    """What the peer was told last, the first by its digest."""
    roots: frozenset[str] = frozenset()
    """Of the peer's bundle, when it dialled."""
    rejected: dict[str, str] = field(default_factory=dict)
    """What it refused of ours in its last answers, and why."""


class Exporting:
    def __init__(self, mirror: Mirror, me: Me, addresses: Callable[[], tuple[str, ...]], learn: Learn) -> None:
        self._mirror, self._view, self._me, self._addresses, self._learn = mirror, mirror.view, me, addresses, learn
        self._local = LocalView(mirror.view)
        self.sessions: list[Session] = []
        self._links: dict[str, list[Link]] = {}
        """Peer -> its connections, the oldest first."""
        self._selections: dict[str, Selection] = {}
        self._hellos, self._digests = Buckets(HELLOS), Buckets(DIGESTS)
        self._counts: dict[str, int] = {}
        """Peer -> Services that it may know; empty: to be counted again."""
        self._bundle: tuple[TrustBundle, str] | None = None
        """Our own, and its digest."""
        mirror.subscribe(self._notice)

    def _notice(self, touched: Touched) -> None:
        if touched.services or touched.peerings:
            self._counts.clear()
            for gone in [name for name in self._selections if self._view.peering(name) is None]:
                del self._selections[gone]
        everything = touched.peerings or GATEWAY in touched.endpoints
        for selection in self._selections.values():
            selection.touch(touched.services, touched.endpoints, everything=everything)
        told = everything or touched.bundles or touched.replicas
        for session in self.sessions:
            # Endpoints of what the peer may not know are the most of what happens, and cost it nothing.
            dirty = touched.services | (touched.endpoints & session.offered.keys())
            session.everything |= everything
            session.dirty |= dirty
            if dirty or told or session.behind:
                session.wake.set()

    def exported(self, peering: Peering) -> int:
        """How many Services this peer may know."""
        name = peering.metadata.name
        if name not in self._counts:
            self._counts[name] = sum(1 for _ in exports.allowed(self._local, peering))
        return self._counts[name]

    def selected(self, peering: Peering) -> Mapping[ServiceRef, Items]:
        """What this peer is offered now."""
        selection = self._selections.setdefault(peering.metadata.name, Selection())
        selection.refresh(self._local, peering)
        return selection.services

    def admit(self, peer: str) -> float:
        """May it dial now? Asked before anything is done for it: 0, or the seconds to wait."""
        return self._hellos.take(peer, asyncio.get_running_loop().time())

    async def serve(self, peer: str, ws: web.WebSocketResponse) -> None:
        """One connection, to its end."""
        link = Link(ws, ToExporter)
        links = self._links.setdefault(peer, [])
        links.append(link)
        try:
            while len(links) > MAX_SESSIONS:
                await links.pop(0).close("replaced by newer ones")
            if (parting := self._parting(peer)) is not None:
                await link.send(parting)
                return
            await self._serve(peer, link)
        except (LinkError, ProtocolError) as exc:
            log.info("peer's session ended", peer=peer, reason=str(exc))
            if isinstance(exc, ProtocolError):
                await _say(link, Bye(reason="protocol", words=str(exc)))
        finally:
            if link in links:
                links.remove(link)
            await link.close()

    async def _serve(self, peer: str, link: Link) -> None:
        peering = self._view.peering(peer)
        assert peering is not None  # or there had been a parting word
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                hello = await link.receive()
        except TimeoutError as exc:
            raise ProtocolError("it dials and says nothing") from exc
        if not isinstance(hello, Hello):
            raise ProtocolError("its first word is not hello")
        exporter = Exporter(self._me, Me(peer, peering.spec.trust_domain))
        session = Session(peer, link, exporter, asyncio.get_running_loop().time())
        session.roots = roots_of(self._view, peering)
        self.sessions.append(session)
        try:
            await self._catch_up(session, hello)
            await self._greet(session, hello, peering)
            await first(self._listen(session), self._push(session))
        finally:
            self.sessions.remove(session)

    async def _catch_up(self, session: Session, hello: Hello) -> None:
        """A replica that reads the store late must not take back what another one has told."""
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while hello.epoch == self._view.epoch and hello.position > self._view.revision:
                    session.behind = True
                    session.wake.clear()
                    await session.wake.wait()
        except TimeoutError:
            log.warning("serving a peer from behind", peer=session.peer, seen=hello.position, here=self._view.revision)
        session.behind = False

    async def _greet(self, session: Session, hello: Hello, peering: Peering) -> None:
        if fault := await self._learn(session.peer, hello.addresses):
            log.warning("peer's addresses are not taken", peer=session.peer, reason=fault)
        session.offered = dict(self.selected(peering))
        session.everything, session.dirty = False, set()
        want = {key: value for items in session.offered.values() for key, value in items.items()}
        view = self._view
        welcome = session.exporter.hello(hello, want, view.epoch, view.revision)
        session.bundle = hello.bundle
        await session.link.send(welcome)
        session.wake.set()
        log.info("peer's session begins", peer=session.peer, services=len(session.offered), resumed=bool(hello.count))

    async def _listen(self, session: Session) -> None:
        while True:
            message = await session.link.receive()
            match message:
                case Ack():
                    session.exporter.ack(message)
                    self._refused(session, message)
                case Digests():
                    await self._pace(session.peer, len(message.items))
                    session.exporter.digests(message)
                case Bye():
                    raise LinkError(f"it said: {message.reason[:40]} {message.words[:200]}")
                case _:
                    raise ProtocolError("a second hello")
            session.wake.set()

    async def _pace(self, peer: str, items: int) -> None:
        while wait := self._digests.take(peer, asyncio.get_running_loop().time(), min(DIGESTS.burst, items)):
            await pause(wait)

    def _refused(self, session: Session, ack: Ack) -> None:
        if ack.refused:
            session.rejected = dict(itertools.islice((session.rejected | ack.rejected).items(), 100))
            log.warning("peer refuses items of ours", peer=session.peer, number=ack.refused, some=dict(ack.rejected))

    async def _push(self, session: Session) -> None:
        while True:
            await session.wake.wait()
            session.wake.clear()
            if (parting := self._parting(session.peer)) is not None:
                await session.link.send(parting)
                return
            self._check_roots(session)
            self._refresh(session)
            while (offer := session.exporter.next()) is not None:
                await session.link.send(offer)

    def _check_roots(self, session: Session) -> None:
        """A root that is taken away ends what may stand on it: whoever has another certificate dials again."""
        peering = self._view.peering(session.peer)
        if peering is not None and not session.roots <= roots_of(self._view, peering):
            raise LinkError("a root of the peer's is not trusted any more")

    def _parting(self, peer: str) -> Bye | None:
        """The last word, if there is no session to be had."""
        peering = self._view.peering(peer)
        if peering is None:
            return Bye(reason="deleted", words=f"{self._me.cluster} has no peering with {peer} any more")
        if peering.spec.paused:
            return Bye(reason="paused", words=f"{self._me.cluster} has paused its peering with {peer}")
        return None

    def _refresh(self, session: Session) -> None:
        """Bring the session up to what the view says now: cost by what changed."""
        peering = self._view.peering(session.peer)
        if peering is None:
            return
        fresh = self.selected(peering)
        services = fresh.keys() | session.offered.keys() if session.everything else session.dirty
        changed: dict[str, bytes | None] = {}
        for ref in services:
            after = fresh.get(ref, {})
            before = session.offered.pop(ref, {})
            if after:
                session.offered[ref] = after
            changed.update(dict.fromkeys(before.keys() - after.keys()))
            changed.update(after)
        session.everything, session.dirty = False, set()
        session.exporter.changed(changed, self._view.revision)
        self._news(session)

    def _news(self, session: Session) -> None:
        """The bundle and the addresses, if the peer was told others."""
        bundle = self._view.bundle(self._me.trust_domain)
        if bundle is not None:
            spec, digest = bundle.spec, self._digest(bundle)
            if digest != session.bundle:
                session.bundle = digest
                session.exporter.bundle = trust.document(spec.sequence, spec.roots).decode()
        if (addresses := self._addresses()) != session.addresses:
            session.addresses = session.exporter.addresses = addresses

    def _digest(self, bundle: TrustBundle) -> str:
        if self._bundle is None or self._bundle[0] is not bundle:
            self._bundle = bundle, trust.digest(bundle.spec.sequence, bundle.spec.roots)
        return self._bundle[1]

    async def close(self) -> None:
        """Before a stop: peers turn to another replica at once."""
        for session in list(self.sessions):
            await _say(session.link, Bye(reason="stopping"))
            await session.link.close("the control-plane node stops")


async def _say(link: Link, bye: Bye) -> None:
    try:
        await link.send(bye)
    except LinkError as exc:
        log.debug("no farewell", error=str(exc))
