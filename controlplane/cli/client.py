"""HTTPS to the control plane: any node of several, the first that answers.

Server certificates are verified against the CA file for the name `controlplane.holdfast`, whatever address is dialled:
only the mesh's issuing policy gives that name.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import msgspec

from controlplane.cli.context import HOW, Connection
from controlplane.cli.errors import CliError, Exit
from mesh.lean import lean
from mesh.oswords import words

with lean():
    import aiohttp

SERVER_NAME = "controlplane.holdfast"
MAX_LINE_BYTES = 16 * 1024 * 1024
"""One line of a watch or a backup: one object, and etcd takes none above 1.5 MB unless told to."""

_REPEATABLE = {"GET", "PUT", "DELETE"}
_CODES = {400: Exit.USAGE, 401: Exit.REFUSED, 403: Exit.REFUSED, 404: Exit.NOT_FOUND, 409: Exit.CONFLICT,
          413: Exit.REFUSED, 422: Exit.REFUSED, 429: Exit.UNREACHABLE, 503: Exit.UNREACHABLE}  # fmt: skip

Params = Mapping[str, str]


class GoneError(CliError):
    """The revision asked for is no longer kept: list again."""


class Api:
    """One operator's calls. `async with Api(connection) as api`."""

    def __init__(self, connection: Connection, *, timeout: float = 15.0) -> None:
        self._connection = connection
        self._timeout = timeout
        self._order = list(connection.addresses)
        self._ssl = tls_context(connection.ca)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Accept": "application/json"}
        if self._connection.token:
            headers["Authorization"] = f"Bearer {self._connection.token}"
        self._session = aiohttp.ClientSession(headers=headers, read_bufsize=MAX_LINE_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session
        await self._session.close()

    async def get(self, path: str, params: Params | None = None) -> Any:
        return await self.call("GET", path, params=params)

    async def call(
        self, method: str, path: str, *, body: object = None, params: Params | None = None, repeatable: bool = False
    ) -> Any:
        """One call; its JSON. A call that may be repeated goes to the next node when an answer is lost on the way."""
        timeout = aiohttp.ClientTimeout(total=self._timeout, connect=5)
        async with self._request(
            method, path, body=body, params=params, timeout=timeout, repeatable=repeatable
        ) as answer:
            raw = await answer.read()
        return _decode(raw)

    async def lines(self, path: str, params: Params | None = None) -> AsyncIterator[Any]:
        """A stream of JSON documents. Ends when the server ends it; raises CliError when it breaks."""
        async for line in self.raw_lines(path, params):
            if line.strip():
                yield _decode(line)

    async def posted(self, path: str, body: object, *, silence: float | None = None) -> AsyncIterator[Any]:
        """The stream of JSON documents with which a call is answered. It is made once."""
        timeout = aiohttp.ClientTimeout(total=None, connect=5, sock_read=silence)
        async with self._request("POST", path, body=body, timeout=timeout, repeatable=False) as answer:
            async for line in _lines_of(answer):
                yield _decode(line)

    async def raw_lines(
        self, path: str, params: Params | None = None, *, silence: float | None = None
    ) -> AsyncIterator[bytes]:
        """As lines, undecoded. After `silence` seconds without a byte it is broken."""
        timeout = aiohttp.ClientTimeout(total=None, connect=5, sock_read=silence)
        async with self._request("GET", path, params=params, timeout=timeout, repeatable=True) as answer:
            async for line in _lines_of(answer):
                yield line

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - handed to aiohttp, which bounds each phase
        repeatable: bool,
        body: object = None,
        params: Params | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session
        failures: list[str] = []
        for address in list(self._order):
            try:
                answer = await self._session.request(
                    method,
                    address + path,
                    params=params,
                    data=None if body is None else msgspec.json.encode(body),
                    headers={"Content-Type": "application/json"} if body is not None else None,
                    timeout=timeout,
                    ssl=self._ssl,
                    server_hostname=SERVER_NAME,
                    allow_redirects=False,
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                failures.append(f"{address}: {reason(exc)}")
                lost = not isinstance(exc, aiohttp.ClientConnectorError)
                if lost and not (repeatable or method in _REPEATABLE):
                    raise CliError(
                        f"{method} {path}: no answer came, it may or may not have been done",
                        code=Exit.UNREACHABLE,
                        details=failures,
                        hint="look at the present state before you repeat it",
                    ) from exc
                self._order.append(self._order.pop(0))  # the next call starts with the next node
                continue
            async with answer:
                if answer.status >= 400:
                    raise refusal(answer.status, await answer.read(), f"{method} {path}")
                yield answer
            return
        raise unreachable(self._connection, failures)


async def _lines_of(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for line in answer.content:
            yield line
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise CliError(f"the stream broke: {reason(exc)}", code=Exit.UNREACHABLE) from exc


def tls_context(ca: str) -> ssl.SSLContext:
    if not ca:
        raise CliError("no CA to verify the control plane with", code=Exit.USAGE, hint=HOW)
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise CliError(
            f"CA file {ca} cannot be used: {exc}", code=Exit.USAGE, hint="it holds PEM certificates"
        ) from exc


def reason(exc: BaseException) -> str:
    """An error of the network in a few words."""
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return f"certificate refused: {exc.certificate_error}"
        case aiohttp.ClientConnectorError():
            return words(exc.os_error)
        case TimeoutError():
            return "no answer in time"
    return str(exc) or type(exc).__name__


def unreachable(connection: Connection, failures: list[str]) -> CliError:
    if any("certificate" in f.lower() for f in failures):
        hint = f"is {connection.ca} the CA of this control plane? `holdfast doctor` tells more"
    else:
        hint = "is it running, and is the address right? Running traffic does not need it; `holdfast doctor` tells more"
    return CliError(
        f"no control plane could be reached (addresses from {connection.source})",
        code=Exit.UNREACHABLE,
        details=failures,
        hint=hint,
    )


def refusal(status: int, raw: bytes, call: str) -> CliError:
    """A status of 400 and above as the error to show."""
    try:
        answer = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    what = str(answer.get("error") or f"{call} was answered with status {status}")
    details = [violation_line(v) for v in answer.get("violations") or []]
    hint = str(answer.get("hint") or _HINTS.get(status, ""))
    kind = GoneError if status == 410 else CliError
    return kind(what, code=_CODES.get(status, Exit.FAILED), details=details, hint=hint)


_HINTS = {
    401: "the token is missing, unknown or past its end of life; an administrator makes a new one",
    403: "this token's role does not permit it",
    409: "somebody else changed it meanwhile; read it again, make your change on that, and apply",
    503: "the control plane has no quorum of its store behind it; `holdfast doctor` tells more",
}


def violation_line(violation: Mapping[str, Any]) -> str:
    where = " ".join(str(violation[k]) for k in ("object", "path") if violation.get(k))
    return f"{where}: {violation.get('reason', '')}" if where else str(violation.get("reason", violation))


def _decode(raw: bytes) -> Any:
    if not raw.strip():
        return None
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as exc:
        raise CliError(f"the control plane sent something that is not JSON: {raw[:80]!r}") from exc
