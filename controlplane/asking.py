"""One question to the agents of all connected proxies, those of other replicas included."""

import asyncio
from collections.abc import Callable, Collection, Iterable
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


class Asking:
    def __init__(self, uplinks: Uplinks, proxies: Proxies, view: View, *, clock: Callable[[], float]) -> None:
        self._uplinks, self._proxies, self._view, self._clock = uplinks, proxies, view, clock
        self.one = asyncio.Lock()
        """Held while operators' questions to everybody are under way here: each costs every host a compile."""

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
