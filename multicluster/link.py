"""The shells of a session: frames over a WebSocket, and calls to a peer's control plane. No decisions.

What a peer sends is bounded before it is read, and no write waits for a peer that does not read.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import WSMsgType, web

from multicluster import trust, wire

T = TypeVar("T")

SESSION_PATH = "/v1/peering/session"
ESTABLISH_PATH = "/v1/peering/establish"
BUNDLE_PATH = "/v1/trust-bundle"

HEARTBEAT_SECONDS = 5.0
"""Between pings, both ways; a link that is silent for half as long again is cut, and dialled anew."""
DIAL_SECONDS = 10.0
SEND_SECONDS = 10.0
CALL_SECONDS = 15.0
MAX_ANSWER_BYTES = 512 * 1024
ENDED = {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}

Socket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


class LinkError(Exception):
    """The link is broken, or cannot be made; the text says why."""


class RefusedError(LinkError):
    """The peer answers, and says no."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class PeerContext(ssl.SSLContext):
    """To dial one peer: its bundle alone counts."""

    trust_domain: str


class _PeerTls(ssl.SSLObject):
    """The certificate must name a control-plane node of the peer, or the handshake fails: before a word is said."""

    def do_handshake(self) -> None:
        super().do_handshake()
        assert isinstance(self.context, PeerContext)
        try:
            trust.speaker(self.getpeercert(binary_form=True) or b"", self.context.trust_domain)
        except trust.Refused as exc:
            raise ssl.SSLCertVerificationError(str(exc)) from exc


def peer_context(chain: Path, key: Path, roots: Iterable[str], trust_domain: str) -> PeerContext:
    """TLS to a peer's control plane, with this certificate of ours, and these roots of the peer's."""
    context = PeerContext(ssl.PROTOCOL_TLS_CLIENT)
    context.trust_domain = trust_domain
    context.sslobject_class = _PeerTls
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # what the certificate must say is a SPIFFE id, which no host name can stand for
    context.load_verify_locations(cadata="\n".join(roots))
    context.load_cert_chain(chain, key)
    return context


class Link:
    """One end of a session: messages of one kind come in."""

    def __init__(self, ws: Socket, kind: Any, replica: str = "") -> None:
        self._ws, self._decoder = ws, msgspec.json.Decoder(kind)
        self.replica = replica
        """Of the peer, by its certificate."""
        self.received = 0
        self.sent = 0
        """Bytes."""

    async def receive(self) -> Any:
        """The next message.

        Raises:
            LinkError: the link ended, or what came is no message.

        """
        message = await self._ws.receive()
        if message.type in ENDED:
            raise LinkError(_ended(self._ws, message))
        if message.type is not WSMsgType.TEXT:
            raise LinkError("it sent something that is not text")
        raw = message.data.encode()
        self.received += len(raw)
        try:
            return self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as exc:
            raise LinkError(f"it sent a message that cannot be read: {str(exc)[:200]}") from exc

    async def send(self, message: wire.Message) -> None:
        """Raises LinkError if it does not take it in time."""
        raw = wire.encode(message)
        self.sent += len(raw)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._ws.send_str(raw.decode())
        except (TimeoutError, OSError, RuntimeError, aiohttp.ClientError) as exc:
            raise LinkError(f"it cannot be written to: {exc or 'it does not read'}") from exc

    async def close(self, words: str = "") -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._ws.close(message=words.encode()[:120])
        except (TimeoutError, OSError, RuntimeError, aiohttp.ClientError):
            pass


def _ended(ws: Socket, message: aiohttp.WSMessage) -> str:
    if message.type is WSMsgType.CLOSE and message.extra:
        return f"it closed the link: {str(message.extra)[:200]}"
    return f"the link broke: {ws.exception() or 'it was closed'}"


@asynccontextmanager
async def dialled(url: str, context: PeerContext, name: str) -> AsyncIterator[Link]:
    """A link to a peer, whose certificate is checked before a word is said.

    Raises:
        LinkError: nobody answers, or somebody else does.
        RefusedError: it answers, and says no.

    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=DIAL_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                ws = await session.ws_connect(
                    url + SESSION_PATH,
                    ssl=context,
                    server_hostname=name,
                    heartbeat=HEARTBEAT_SECONDS,
                    max_msg_size=wire.MAX_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                )
        except aiohttp.WSServerHandshakeError as exc:
            raise RefusedError(f"{url} answered {exc.status}", exc.status) from exc
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise LinkError(f"{url}: {_reason(exc)}") from exc
        try:
            yield Link(ws, wire.ToImporter, _replica(ws, context.trust_domain))
        finally:
            try:
                async with asyncio.timeout(2.0):
                    await ws.close()
            except (TimeoutError, OSError, RuntimeError, aiohttp.ClientError):
                pass


def _replica(ws: aiohttp.ClientWebSocketResponse, trust_domain: str) -> str:
    return trust.speaker(ws.get_extra_info("ssl_object").getpeercert(binary_form=True), trust_domain)


async def call(
    url: str, method: str, path: str, context: ssl.SSLContext, name: str, body: msgspec.Struct | None, kind: type[T]
) -> T:
    """One request to one node of a peer.

    Raises:
        LinkError: no answer, or one that is not understood.
        RefusedError: it says no.

    """
    raw, status = await _fetch(url, method, path, context, name, body)
    if status >= 400:
        raise RefusedError(f"{url}: {_words(raw)}", status)
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise LinkError(f"{url}: its answer cannot be read") from exc


async def fetch_bundle(url: str, context: PeerContext, name: str) -> bytes:
    """The bundle document of a peer's bundle endpoint, by the profile https_spiffe: its certificate must lead to the
    bundle that is held, and name a control-plane node of the trust domain. No redirect is followed.

    Raises:
        LinkError, RefusedError.

    """
    raw, status = await _fetch(url, "GET", BUNDLE_PATH, context, name, None)
    if status != 200:
        raise RefusedError(f"{url}: {_words(raw)}", status)
    return raw


async def _fetch(
    url: str, method: str, path: str, context: ssl.SSLContext, name: str, body: msgspec.Struct | None
) -> tuple[bytes, int]:
    data = msgspec.json.encode(body) if body is not None else None
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False, auto_decompress=False) as session,
            session.request(
                method,
                url + path,
                data=data,
                headers={"Content-Type": "application/json"} if data else None,
                ssl=context,
                server_hostname=name,
                allow_redirects=False,
            ) as response,
        ):
            raw = bytearray()
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise LinkError(f"{url}: its answer is larger than {MAX_ANSWER_BYTES} bytes")
            return bytes(raw), response.status
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise LinkError(f"{url}: {_reason(exc)}") from exc


def _reason(exc: BaseException) -> str:
    """In a few words: the address is told already."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is refused: {str(exc.certificate_error)[:200]}"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return os.strerror(exc.os_error.errno) if exc.os_error.errno else str(exc.os_error)[:200]
    return str(exc)[:300] or ("no answer in time" if isinstance(exc, TimeoutError) else type(exc).__name__)


def _words(raw: bytes) -> str:
    """The peer's own words: {"error": ..., "hint": ...}."""
    try:
        said = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "it said no, and not why"
    return "; ".join(str(said[part])[:300] for part in ("error", "hint") if said.get(part)) or "it gave no reason"
