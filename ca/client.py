"""What an agent calls: join, sign, renew, roots, over HTTPS to any control-plane node.

The server must show the name `controlplane.holdfast` under the mesh's roots, whatever address was dialled. A joining
host has no roots yet: `fetch_roots` asks without verification, keeps nothing but the root that the token pins, and
everything else then goes over connections verified against that one.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self, TypeVar

import aiohttp
import msgspec

from ca.keys import dates, new_csr, new_key, pin, prove
from ca.wire import (
    MAX_BODY_BYTES,
    JoinAnswer,
    JoinRequest,
    RenewRequest,
    RootsAnswer,
    SignAnswer,
    Signed,
    SignRequest,
)
from mesh.oswords import words

__all__ = [
    "Bootstrap",
    "CaClient",
    "CaClientError",
    "CaRefused",
    "CaUnavailable",
    "ClientIdentity",
    "dates",
    "fetch_roots",
    "new_csr",
    "new_key",
    "pin",
    "pin_of_token",
    "prove",
    "server_context",
]

SERVER_NAME = "controlplane.holdfast"
TIMEOUT = 10.0
"""Seconds for one call to one control-plane node, connecting included."""
MAX_ROOTS = 16

Answer = TypeVar("Answer")


class CaClientError(Exception):
    """Base of both; the message names the control-plane node asked."""


class CaRefused(CaClientError):  # noqa: N818 - the field's word
    """It said no. The same request will not succeed, or not before `retry_after` seconds."""

    def __init__(self, message: str, *, status: int, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class CaUnavailable(CaClientError):  # noqa: N818
    """No control-plane node gave an answer."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What a host without roots learns first."""

    roots: tuple[str, ...]
    """Those that the token pins; PEM."""
    date: float | None
    """The node's clock as it answered, in Unix seconds. Nobody vouches for it: it explains, and decides nothing."""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """The node's certificate, as files, since Python's TLS loads keys from files only."""

    chain_file: Path
    key_file: Path


def pin_of_token(token: str) -> str:
    """The pin of a join token.

    Raises:
        ValueError: it is no token.

    """
    match token.strip().split("."):
        case ["hf1", _, _, text] if len(text) == 32:
            return text
        case _:
            raise ValueError("this is not a join token (hf1.<id>.<secret>.<pin>)")


def server_context(roots: Sequence[str], identity: ClientIdentity | None = None) -> ssl.SSLContext:
    """TLS to a control-plane node: 1.3, the mesh's roots and no others, our certificate if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata="\n".join(roots))
    if identity is not None:
        context.load_cert_chain(identity.chain_file, identity.key_file)
    return context


async def fetch_roots(urls: Sequence[str], token_pin: str, *, limit: float = TIMEOUT) -> Bootstrap:
    """The root that the token pins, from any of the nodes.

    Only that one is returned: whoever sits between could add a root of his own to the answer, but not one that fits.

    Raises:
        CaUnavailable: nobody answers.
        CaRefused: those who answer do not have that root.

    """
    # The answer is checked against the pin; that is what stands in for the verification that is not possible yet.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    foreign: list[str] = []
    failures: list[str] = []
    async with _Caller(urls, context, limit) as caller:
        for url in caller.order():
            try:
                answer = await caller.call_one(url, "GET", "/v1/roots", None, RootsAnswer)
            except CaClientError as exc:
                failures.append(str(exc))
                continue
            if pinned := tuple(pem for pem in answer.roots[:MAX_ROOTS] if _has_pin(pem, token_pin)):
                return Bootstrap(pinned, caller.date)
            foreign.append(url)
    if foreign:
        raise CaRefused(
            f"{', '.join(foreign)}: not the mesh that this token is for (its root has another pin)", status=0
        )
    raise CaUnavailable("; ".join(failures))


def _has_pin(pem: str, wanted: str) -> bool:
    try:
        return pin(pem) == wanted
    except ValueError:
        return False


class CaClient:
    """Calls go to the node that answered last, and to the others if it does not. Close it after use."""

    def __init__(
        self,
        urls: Sequence[str],
        roots: Sequence[str],
        *,
        identity: ClientIdentity | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """`urls`: https://host:port of each node. Must be made where an event loop runs."""
        self._caller = _Caller(urls, server_context(roots, identity), timeout)

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """By token. May be repeated with the same key if the answer was lost."""
        return await self._caller.call("POST", "/v1/join", request, JoinAnswer)

    async def sign(self, request: SignRequest) -> SignAnswer:
        """With our certificate: a batch of identities, one outcome each."""
        return await self._caller.call("POST", "/v1/sign", request, SignAnswer)

    async def renew(self, request: RenewRequest) -> Signed:
        """By proof of the old key, for a certificate that TLS no longer takes."""
        return await self._caller.call("POST", "/v1/renew", request, Signed)

    async def roots(self) -> RootsAnswer:
        """The trust bundle as the control plane has it now."""
        return await self._caller.call("GET", "/v1/roots", None, RootsAnswer)

    def trust(self, roots: Sequence[str], identity: ClientIdentity | None = None) -> None:
        """Use these roots and this certificate for connections made from now on."""
        self._caller.context = server_context(roots, identity)

    async def close(self) -> None:
        """May be repeated."""
        await self._caller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Caller:
    """HTTP with failover over several nodes."""

    def __init__(self, urls: Sequence[str], context: ssl.SSLContext, timeout: float) -> None:
        if not urls or any(not url.startswith("https://") for url in urls):
            raise ValueError("control-plane addresses are https:// URLs, at least one")
        self._urls, self.context, self._timeout = [url.rstrip("/") for url in urls], context, timeout
        self.date: float | None = None
        """Of the last answer."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout), trust_env=False, auto_decompress=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def order(self) -> tuple[str, ...]:
        return tuple(self._urls)

    async def close(self) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: msgspec.Struct | None, kind: type[Answer]) -> Answer:
        """Ask one after the other until one answers. A refusal is an answer."""
        failures = []
        for url in self.order():
            try:
                answer = await self.call_one(url, method, path, body, kind)
            except CaUnavailable as exc:
                failures.append(str(exc))
                continue
            # The one that answered is asked first next time.
            self._urls.sort(key=lambda known: known != url)
            return answer
        raise CaUnavailable("; ".join(failures))

    async def call_one(
        self, url: str, method: str, path: str, body: msgspec.Struct | None, kind: type[Answer]
    ) -> Answer:
        data = msgspec.json.encode(body) if body is not None else None
        try:
            async with self._session.request(
                method,
                url + path,
                data=data,
                headers={"Content-Type": "application/json"},
                ssl=self.context,
                server_hostname=SERVER_NAME,
                allow_redirects=False,
            ) as response:
                raw = await response.content.read(MAX_BODY_BYTES + 1)
                while len(raw) <= MAX_BODY_BYTES and (
                    more := await response.content.read(MAX_BODY_BYTES + 1 - len(raw))
                ):
                    raw += more
                self.date = _date(response.headers.get("Date", ""))
                return _answer(url, response.status, dict(response.headers), raw, kind)
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as exc:
            raise CaUnavailable(f"{url}: {_words(exc)[:300]}") from exc


def _words(exc: BaseException) -> str:
    """Why there was no answer, in the system's words: aiohttp's show Python's objects."""
    fault = getattr(exc, "certificate_error", None) or getattr(exc, "os_error", None) or exc
    return words(fault) if isinstance(fault, OSError) else str(fault) or type(fault).__name__


def _answer(url: str, status: int, headers: dict[str, str], raw: bytes, kind: type[Answer]) -> Answer:
    if len(raw) > MAX_BODY_BYTES:
        raise CaUnavailable(f"{url}: the answer is larger than {MAX_BODY_BYTES} bytes")
    if status == 200:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.DecodeError as exc:
            raise CaUnavailable(f"{url}: the answer is not understood: {exc}") from exc
    reason = _reason(raw)
    # 5xx: this node cannot; another one may.
    if status >= 500 or status in {301, 302, 303, 307, 308, 408}:
        raise CaUnavailable(f"{url}: answered {status}: {reason}")
    try:
        wait = max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:
        wait = 0.0
    raise CaRefused(f"{url}: {reason}", status=status, retry_after=wait)


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _reason(raw: bytes) -> str:
    """The control plane's own words: {"error": ..., "hint": ...}."""
    try:
        words = msgspec.json.decode(raw, type=dict[str, object])
    except msgspec.DecodeError:
        return "no reason given"
    said = [str(words[part]) for part in ("error", "hint") if words.get(part)]
    return "; ".join(said)[:500] or "no reason given"
