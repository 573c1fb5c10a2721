"""One question to the agents of all connected proxies, those of other replicas included."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import structlog

from controlplane.history import Change
from controlplane.proxies import PeerError, Proxies
from controlplane.uplink import AgentError, NotConnectedError, Uplinks
from controlplane.view import Presence, View
from mesh import codec
from mesh.model import KINDS, Frozen, Node
from mesh.model.uplink import Proposal, Proposed

log = structlog.get_logger(__name__)

AT_ONCE = 64
"""Agents of one replica that work on a question at the same time."""
OFFLINE = "offline"
LAST_WORD_SECONDS = 10.0
"""For the way of another replica's answer."""


class Question(Frozen, frozen=True, kw_only=True):
    """POST /v1/ask, between replicas."""

    what: str
    body: str = ""
    each_seconds: float
    """For one agent."""
    all_seconds: float
    """Agents that were not asked by then are left out, with this reason."""
    node: str = ""
    """Only this one."""


class Told(Frozen, frozen=True, kw_only=True):
    node: str
    body: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    told: dict[str, Told]
    """By node, of those that were asked."""
    missing: dict[str, str]
    """Node that could not be asked -> why."""


class BusyError(Exception):
    """Somebody else asks everybody; try again."""


class Turns:
    """Of operators' questions to everybody, one at a time on this replica: each costs every host a compile.

    A change that waits to be judged goes before whoever only looks, so that nobody can keep it out by looking.
    """

    def __init__(self) -> None:
        self._lock, self._changes = asyncio.Lock(), 0

    @property
    def changing(self) -> bool:
        """Is a change judged, or does one wait for it?"""
        return self._changes > 0

    @asynccontextmanager
    async def look(self) -> AsyncIterator[None]:
        """Whoever only looks does not wait.

        Raises:
            BusyError: another question is under way.

        """
        if self._lock.locked() or self.changing:
            raise BusyError
        async with self._lock:
            yield

    @asynccontextmanager
    async def change(self) -> AsyncIterator[None]:
        """After what is under way."""
        self._changes += 1
        try:
            async with self._lock:
                yield
        finally:
            self._changes -= 1


class Asking:
    def __init__(self, uplinks: Uplinks, proxies: Proxies, view: View, *, clock: Callable[[], float]) -> None:
        self._uplinks, self._proxies, self._view, self._clock = uplinks, proxies, view, clock
        self.turns = Turns()

    async def here(self, question: Question) -> list[Told]:
        """The answers of those that are connected to this replica."""
        end, room, told = self._clock() + question.all_seconds, asyncio.Semaphore(AT_ONCE), list[Told]()

        async def ask(node: str) -> None:
            async with room:
                seconds = min(question.each_seconds, end - self._clock())
                if seconds <= 0:
                    told.append(Told(node=node, error="there was no time left to ask it"))
                    return
                try:
                    body = await self._uplinks.ask(node, question.what, question.body, seconds=seconds)
                    told.append(Told(node=node, body=body))
                except NotConnectedError:
                    pass  # it left meanwhile; another replica may hold it
                except AgentError as exc:
                    told.append(Told(node=node, error=str(exc).removeprefix(f"{node}: ")))

        async with asyncio.TaskGroup() as group:
            for connection in self._uplinks.connections():
                if question.node in {"", connection.node}:
                    group.create_task(ask(connection.node))
        return told

    async def everywhere(self, question: Question) -> Heard:
        peers = [peer for name, peer in sorted(self._view.replicas.items()) if name != self._uplinks.replica]
        told: dict[str, Told] = {}
        silent: dict[str, str] = {}

        async def ask(peer: Presence) -> None:
            try:
                found = await self._peer(peer, question)
            except PeerError as exc:
                log.warning("replica did not answer", replica=peer.replica, error=str(exc))
                silent.update(dict.fromkeys(peer.connected, f"its control-plane node was not reached: {exc}"))
            else:
                _merge(told, found)

        async with asyncio.TaskGroup() as group:
            for peer in peers:
                group.create_task(ask(peer))
            mine = group.create_task(self.here(question))
        _merge(told, mine.result())
        missing = {
            node: silent.get(node, OFFLINE)
            for node in self._nodes()
            if node not in told and question.node in {"", node}
        }
        return Heard(told, missing)

    async def _peer(self, peer: Presence, question: Question) -> list[Told]:
        answer = await self._proxies.post(
            peer, "/v1/ask", codec.encode_struct(question), question.all_seconds + LAST_WORD_SECONDS
        )
        try:
            return msgspec.convert(answer["items"], list[Told])
        except (KeyError, TypeError, msgspec.ValidationError) as exc:
            raise PeerError(f"{peer.replica}: its answer cannot be read: {exc}") from exc

    def _nodes(self) -> list[str]:
        """Those that should have a proxy."""
        return sorted(
            held.object.metadata.name
            for held in self._view.objects.values()
            if isinstance(held.object, Node) and not held.object.spec.evicted
        )


def _merge(told: dict[str, Told], found: Iterable[Told]) -> None:
    """An agent that moves may be found twice; an answer is better than an error."""
    for one in found:
        if one.node not in told or not one.error:
            told[one.node] = one


def proposal(changes: Collection[Change], limit: int) -> str:
    """These changes, as agents are asked about them; empty: no proxy is made from any of them."""
    objects = tuple(
        Proposed(
            kind=change.ref.kind,
            namespace=change.ref.namespace,
            name=change.ref.name,
            object=codec.decode_struct(dict[str, object], change.after) if change.after is not None else None,
        )
        for change in changes
        if KINDS[change.ref.kind].area == "objects"
    )
    return codec.encode_struct(Proposal(objects=objects, limit=limit)).decode() if objects else ""
