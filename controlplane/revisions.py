"""Waits until a revision is in force at the proxies: what all replicas hear of them, put together here.

Each replica knows the proxies that are connected to it. The one that is asked follows its own, and asks each of the
others again and again; they answer when all of theirs have the revision, or after a moment.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import structlog

from controlplane.progress import Absences, Fleet, Progress, Question, Standing, judge, newest, standing
from controlplane.proxies import PeerError, Proxies
from controlplane.reconcile import grace_of
from controlplane.touched import Touched
from controlplane.uplink import Uplinks
from controlplane.view import Presence, View
from mesh import codec, keys
from mesh.aio import first, pause
from mesh.model import Node
from mesh.store.protocol import Store

log = structlog.get_logger(__name__)

MAX_WAIT_SECONDS = 20.0
"""Of one question; whoever waits longer asks again."""
PEER_SECONDS = 1.0
"""How long another replica may hold a question back."""
AGAIN_SECONDS = 0.3
"""Between questions to a replica whose proxies all have the revision, or that does not answer."""
SETTLE_SECONDS = 0.02
"""Reports of many proxies come together; they are looked at together."""
GLANCE_SECONDS = 1.0
"""For the condition of an object that is read: no longer does that wait for another replica."""


class Revisions:
    def __init__(
        self, store: Store, uplinks: Uplinks, proxies: Proxies, view: View, *, clock: Callable[[], float]
    ) -> None:
        self._store, self._uplinks, self._proxies, self._view = store, uplinks, proxies, view
        self._clock = clock
        self._absences = Absences(clock())
        self._seen: tuple[float, dict[str, list[Standing] | None]] = (float("-inf"), {})

    def notice(self, touched: Touched) -> None:
        """For the mirror: replicas tell whom they hold."""
        if touched.replicas:
            self._look()
        if touched.nodes:
            self._absences.forget(self._nodes())

    def _look(self) -> None:
        mine = {connection.node for connection in self._uplinks.connections()}
        self._absences.observe(mine.union(*(peer.connected for peer in self._peers().values())), self._clock())

    def _peers(self) -> dict[str, Presence]:
        return {name: peer for name, peer in self._view.replicas.items() if name != self._uplinks.replica}

    def _nodes(self) -> frozenset[str]:
        return frozenset(
            held.object.metadata.name
            for held in self._view.objects.values()
            if isinstance(held.object, Node) and not held.object.spec.evicted
        )

    def here(self) -> list[Standing]:
        """The proxies that are connected to this replica."""
        now = self._clock()
        return [
            standing(connection.node, round(now - connection.heard, 3), connection.report)
            for connection in self._uplinks.connections()
        ]

    async def epoch(self) -> str:
        item = await self._store.get(keys.EPOCH)
        return codec.epoch(item.value) if item else ""

    async def local(self, revision: int, seconds: float) -> list[Standing]:
        """For another replica: when all that are connected here have the revision, or after these seconds."""
        question = Question(revision, await self.epoch())
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, PEER_SECONDS)):
                while True:
                    told = self._uplinks.told
                    if _whole(self.here(), question):
                        break
                    await self._uplinks.news(told)
                    await pause(SETTLE_SECONDS)
        return self.here()

    async def wait(self, question: Question, seconds: float) -> Progress:
        """Until it is in force at all that count, or one refuses an object of the question, or time is up."""
        peers = self._peers()
        answers: dict[str, list[Standing] | None] = {}
        heard = asyncio.Event()
        end = self._clock() + min(seconds, MAX_WAIT_SECONDS)
        async with self._following(peers, question, answers, heard):
            while True:
                told, now = self._uplinks.told, self._clock()
                heard.clear()
                # Others need a moment for their first answer, however short the wait.
                if len(answers) == len(peers) or now > end + GLANCE_SECONDS:
                    progress = self._judge(question, {name: answers.get(name) for name in peers})
                    if progress.state != "waiting" or now >= end:
                        return progress
                with suppress(TimeoutError):
                    # What happens without a report, such as the end of a grace, is seen a moment later.
                    async with asyncio.timeout(min(PEER_SECONDS, max(SETTLE_SECONDS, end - now))):
                        await first(self._uplinks.news(told), _set(heard))
                await pause(SETTLE_SECONDS)

    @asynccontextmanager
    async def _following(
        self,
        peers: Mapping[str, Presence],
        question: Question,
        answers: dict[str, list[Standing] | None],
        heard: asyncio.Event,
    ) -> AsyncIterator[None]:
        """Meanwhile ask these replicas, and keep what each said last."""

        async def follow(name: str, peer: Presence) -> None:
            while True:
                # The first answer comes at once: it says how things are.
                answers[name] = found = await self._ask(peer, question.revision, PEER_SECONDS if name in answers else 0)
                heard.set()
                if found is None or _whole(found, question):
                    await pause(AGAIN_SECONDS)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(name, peer)) for name, peer in peers.items()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _ask(self, peer: Presence, revision: int, seconds: float) -> list[Standing] | None:
        try:
            return await self._proxies.standings(peer, revision, seconds)
        except PeerError as exc:
            log.warning("replica did not answer", replica=peer.replica, error=str(exc))
            return None

    async def glance(self, question: Question) -> Progress:
        """As things are now; what other replicas hear may be a second old."""
        now = self._clock()
        taken, answers = self._seen
        if now - taken > GLANCE_SECONDS:
            answers = await self._glances()
            self._seen = (self._clock(), answers)
        return self._judge(question, answers)

    async def _glances(self) -> dict[str, list[Standing] | None]:
        answers: dict[str, list[Standing] | None] = dict.fromkeys(self._peers())

        async def ask(peer: Presence) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(GLANCE_SECONDS):
                    answers[peer.replica] = await self._ask(peer, 0, 0)

        async with asyncio.TaskGroup() as group:
            for peer in self._peers().values():
                group.create_task(ask(peer))
        return answers

    def _judge(self, question: Question, answers: Mapping[str, list[Standing] | None]) -> Progress:
        self._look()
        now, nodes = self._clock(), self._nodes()
        standings = newest([self.here(), *(found for found in answers.values() if found)])
        elsewhere = {
            node: name for name, peer in self._peers().items() if answers.get(name) is None for node in peer.connected
        }
        absent = {node: now - self._absences.since(node, now) for node in nodes if node not in standings}
        return judge(question, Fleet(nodes, standings, elsewhere, absent, grace_of(self._view)))


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def _whole(found: list[Standing], question: Question) -> bool:
    """Has each of these proxies the revision in force?"""
    fleet = Fleet(frozenset(one.node for one in found), {one.node: one for one in found})
    return judge(question, fleet).state == "in force"
