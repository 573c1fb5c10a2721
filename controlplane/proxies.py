"""What all proxies say, merged over the replicas: each knows those that are connected to it, and asks the others."""

import asyncio
import io
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from controlplane.progress import Standing
from controlplane.uplink import Uplinks
from controlplane.view import Presence, View

log = structlog.get_logger(__name__)

SERVER_NAME = "controlplane.holdfast"
ASK_SECONDS = 5.0
CONFIG_SECONDS = 20.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024

Document = dict[str, Any]


class PeerError(Exception):
    """Another replica did not give what was asked of it."""


@dataclass(frozen=True, slots=True)
class Merged:
    items: list[Document]
    unreachable: list[str]
    """Replicas that did not answer: their proxies are shown with what the store knows only."""


class Proxies:
    def __init__(self, uplinks: Uplinks, view: View, tls: Callable[[], ssl.SSLContext]) -> None:
        self._uplinks, self._view, self._tls = uplinks, view, tls

    def local(self) -> list[Document]:
        """Those connected here."""
        now = asyncio.get_running_loop().time()
        return [
            {
                "node": connection.node,
                "replica": self._uplinks.replica,
                "connected": True,
                "silentSeconds": round(now - connection.heard, 3),
                "report": msgspec.to_builtins(connection.report) if connection.report else None,
            }
            for connection in self._uplinks.connections()
        ]

    async def merged(self) -> Merged:
        """Every Node of the mesh: what its proxy says, or that no replica hears it."""
        peers = {name: peer for name, peer in self._view.replicas.items() if name != self._uplinks.replica}
        answers = await self._ask_all(peers)
        found: dict[str, Document] = {}
        for items in [self.local(), *(answer for answer in answers.values() if answer is not None)]:
            for item in items:
                known = found.get(item["node"])
                # A node that moved is told of twice for a moment: the replica that heard it last is right.
                if known is None or item.get("silentSeconds", 0) < known.get("silentSeconds", 0):
                    found[item["node"]] = item
        lost = self._view.marked_lost()
        for ref in self._view.objects:
            if ref.kind == "Node" and ref.name not in found:
                found[ref.name] = {"node": ref.name, "replica": "", "connected": False, "report": None}
        for name, item in found.items():
            item["lost"] = name in lost
        unreachable = sorted(name for name, answer in answers.items() if answer is None)
        return Merged([found[name] for name in sorted(found)], unreachable)

    async def _ask_all(self, peers: Mapping[str, Presence]) -> dict[str, list[Document] | None]:
        answers: dict[str, list[Document] | None] = {}

        async def ask(name: str, peer: Presence) -> None:
            try:
                answer = await self._get(peer, "/v1/proxies", {}, ASK_SECONDS)
                answers[name] = [item for item in answer["items"] if isinstance(item, dict) and "node" in item]
            except (PeerError, KeyError, TypeError) as exc:
                log.warning("replica did not answer", replica=name, error=str(exc))
                answers[name] = None

        async with asyncio.TaskGroup() as group:
            for name, peer in peers.items():
                group.create_task(ask(name, peer))
        return answers

    async def config(self, node: str) -> str | None:
        """The configuration of a proxy, asked of its agent, wherever that is connected; None: nowhere.

        Raises:
            NotConnectedError, AgentError, PeerError.

        """
        if self._uplinks.connection(node):
            return await self._uplinks.ask(node, "config")
        # Presence records may be a second old, so those replicas that do not claim the node are asked as well, last.
        peers = sorted(self._view.replicas.values(), key=lambda peer: node not in peer.connected)
        for peer in peers:
            if peer.replica == self._uplinks.replica:
                continue
            answer = await self._get(peer, f"/v1/proxies/{quote(node, safe='')}/config", {}, CONFIG_SECONDS)
            if answer is not None:
                return msgspec.json.encode(answer).decode()
        return None

    async def standings(self, peer: Presence, revision: int, seconds: float) -> list[Standing]:
        """The proxies of another replica: when all of them have this revision, or after these whole seconds.

        Raises:
            PeerError.

        """
        query = {"revision": str(revision), "wait": str(round(seconds))}
        answer = await self._get(peer, "/v1/standings", query, seconds + ASK_SECONDS)
        try:
            return msgspec.convert(answer["items"], list[Standing])
        except (KeyError, TypeError, msgspec.ValidationError) as exc:
            raise PeerError(f"{peer.replica}: its answer cannot be read: {exc}") from exc

    async def _get(self, peer: Presence, path: str, query: Mapping[str, str], seconds: float) -> Any:
        return await self._call(peer, "GET", path, seconds, params=query)

    async def post(self, peer: Presence, path: str, body: bytes, seconds: float) -> Any:
        """Ask another replica; None: it does not know.

        Raises:
            PeerError.

        """
        headers = {"Content-Type": "application/json"}
        return await self._call(peer, "POST", path, seconds, data=io.BytesIO(body), headers=headers)

    async def _call(self, peer: Presence, method: str, path: str, seconds: float, **more: Any) -> Any:
        try:
            # A session for each question: they are rare, and each sees the newest certificate.
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls())) as session,
                session.request(
                    method,
                    peer.advertise + path,
                    **more,
                    server_hostname=SERVER_NAME,
                    timeout=aiohttp.ClientTimeout(total=seconds),
                    allow_redirects=False,
                ) as response,
            ):
                raw = await _whole(response)
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise PeerError(f"{peer.replica} answered {response.status}")
                return msgspec.json.decode(raw)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as exc:
            raise PeerError(f"{peer.replica}: {exc or 'no answer in time'}") from exc


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """The body up to MAX_ANSWER_BYTES: a single read gives only what has arrived."""
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise PeerError("the answer is too large")
    return bytes(raw)
