"""Around every handler: who calls, may they, in what time; errors become answers; one audit line each.

The order matters: nothing of a request but its head is looked at before its caller is known and allowed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from ca.policy import void_fault
from ca.signer.protocol import SignerError
from controlplane import auth
from controlplane.api.answers import ApiError, NotLetInError
from controlplane.api.context import CALLER, CONTEXT, NOTES, Context
from controlplane.api.tls import PeerContext
from controlplane.auth import Anonymous, Caller, Rejected
from mesh import keys
from mesh.store.errors import Conflict, Refused, StoreError, Unavailable

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DIST = frozenset({"/install.py", "/v1/dist/{path}"})
UNTIMED = (
    frozenset(
        {
            "/v1/uplink",
            "/v1/watch/{plural}",
            "/v1/backup",
            "/v1/plan",
            "/v1/ask",
            "/v1/nodes/{node}/dump",
            "/v1/apply/checked",
            "/v1/peering/accept",
            "/v1/peering/session",
        }
    )
    | DIST
)
"""Streams, downloads, and questions to all agents; they bound their own steps."""
UNAUDITED = (
    frozenset({"/healthz", "/readyz", "/metrics", "/v1/roots", "/v1/trust-bundle", "/v1/dist/manifest.json"}) | DIST
)
_NO_ROUTE = "(none)"


def route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else _NO_ROUTE


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer of this server leaves through here."""
    context, route = request.app[CONTEXT], route_of(request)
    started = time.monotonic()
    context.idle.spoke(request)
    caller: Caller = Anonymous()
    request[NOTES] = {}
    response: web.StreamResponse | None = None
    status, let_in = 0, True
    try:
        request[CALLER] = caller = await _caller(request, route, context)
        await _admit(request, route, caller, context)
        if route in UNTIMED:
            response = await handler(request)
        else:
            async with asyncio.timeout(context.settings.limits.request_seconds):
                response = await handler(request)
        status = response.status
    except Exception as exc:  # noqa: BLE001 - the edge: the client gets an answer, the log the trace
        error = _error_of(exc, route)
        status, response, let_in = error.status, error.response(), not isinstance(error, NotLetInError)
    except asyncio.CancelledError:
        status = 499  # the client went away
        raise
    finally:
        _count(request, context, route, status, started)
        if route not in UNAUDITED:
            stranger = status >= 400 and (not let_in or isinstance(caller, Anonymous))
            _record(request, context, caller, status, started, stranger=stranger)
    return response


async def _admit(request: web.Request, route: str, caller: Caller, context: Context) -> None:
    if route == _NO_ROUTE:
        return
    if not auth.allowed(request.method, route, caller):
        if isinstance(caller, Anonymous):
            hint = "operators send 'Authorization: Bearer <token>', agents their node's certificate"
            raise NotLetInError(401, "who are you?", hint)
        raise ApiError(403, f"{caller.name} may not {request.method} {route}", "another role is needed for this")
    if isinstance(caller, auth.NodeCaller) and not auth.allowed(request.method, route, Anonymous()):
        await _check_node(request, context, caller)


async def _check_node(request: web.Request, context: Context, caller: auth.NodeCaller) -> None:
    """Its certificate lives on after a node is evicted, deleted or joined anew; its rights do not."""
    held = context.mirror.view.node(caller.name)
    if held is None:
        # It may have joined a moment ago at another replica.
        if wait := context.may_look_up(keys.join_of(caller.name), request.remote or "", context.wall()):
            raise NotLetInError(429, f"there is no node {caller.name[:80]!r} here", "join anew", retry_after=wait)
        await context.writer.look_up_node(caller.name)
        held = context.mirror.view.node(caller.name)
    if held is None:
        raise NotLetInError(403, f"there is no node {caller.name[:80]!r}", "it was deleted, and has to join anew")
    if held.object.spec.evicted:
        raise NotLetInError(403, f"node {caller.name} is evicted", "delete its Node object and join anew, if it may")
    if fault := void_fault(caller.name, caller.issued, context.mirror.view.joined(caller.name)):
        raise NotLetInError(403, fault, "use the certificate of that join, or join anew with a new token")


async def _caller(request: web.Request, route: str, context: Context) -> Caller:
    """Who it is that calls; nobody, if there is no proof, or a bad one where none is needed."""
    if request.headers.get("Authorization") is None:
        caller = _machine(request, context)
    elif auth.allowed(request.method, route, Anonymous()):
        return Anonymous()  # a token changes nothing here, and is not looked up
    else:
        caller = await _operator(request, context)
    if not isinstance(caller, Rejected):
        return caller
    # Whoever offers a bad proof where none is needed is not turned away.
    if auth.allowed(request.method, route, Anonymous()):
        return Anonymous()
    raise NotLetInError(401, caller.reason, "use a valid token, or a certificate of this mesh")


async def _operator(request: web.Request, context: Context) -> Caller | Rejected:
    key, now = auth.bearer(request.headers["Authorization"]), context.wall()
    if isinstance(key, Rejected):
        return key
    if wait := context.may_look_up(key, request.remote or "", now):
        raise NotLetInError(429, "too many unknown tokens", "see whether yours is one of this mesh", retry_after=wait)
    return await auth.operator(context.store, key, now)


def _machine(request: web.Request, context: Context) -> Caller | Rejected:
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport else None
    certificate = tls.getpeercert(binary_form=True) if tls else None
    if tls and certificate and isinstance(tls.context, PeerContext):
        return auth.peer(certificate, tls.context.trust.peer, tls.context.trust.trust_domain)
    if certificate:
        return auth.machine(certificate, context.trust_domain)
    return Anonymous()


_TABLE: tuple[tuple[type[Exception], int, str, str, float], ...] = (
    (web.HTTPRequestEntityTooLarge, 413, "the body is too large", "split the call", 0),
    (web.HTTPNotFound, 404, "there is no such path", "docs/api.md lists them all", 0),
    (web.HTTPMethodNotAllowed, 405, "this path does not take this method", "", 0),
    (Conflict, 409, "others are changing the same objects", "read them again and repeat the call", 0),
    (Unavailable, 503, "the store does not answer", "running traffic goes on; try again soon", 1),
    (Refused, 422, "the store refuses this: {}", "a smaller call may pass; see limits in the settings", 0),
    (StoreError, 500, "the store failed: {}", "", 0),
    (SignerError, 503, "the signer failed: {}", "certificates are still issued from what is held; try again", 5),
    (TimeoutError, 504, "the request took too long", "nothing is known of its outcome: look before you repeat", 0),
    (RequestPayloadError, 400, "the body does not come as its head says", "", 0),
    (ConnectionError, 400, "the connection broke", "", 0),
)
"""Exception -> status, error, hint, seconds to wait. The first that fits counts."""


def _error_of(exc: Exception, route: str) -> ApiError:
    if isinstance(exc, ApiError):
        return exc
    for kind, status, error, hint, wait in _TABLE:
        if isinstance(exc, kind):
            return ApiError(status, error.format(exc), hint, retry_after=wait)
    if isinstance(exc, web.HTTPException):
        return ApiError(exc.status, exc.reason)
    log.error("request failed", route=route, exc_info=exc)
    return ApiError(500, "this node has a fault", "its log tells more")


def _count(request: web.Request, context: Context, route: str, status: int, started: float) -> None:
    seconds = time.monotonic() - started
    method = _method(request)
    context.metrics.requests.labels(method, route, str(status)).inc()
    if route not in UNTIMED:
        context.metrics.seconds.labels(method, route).observe(seconds)


def _method(request: web.Request) -> str:
    return request.method if request.method in {"GET", "HEAD", "PUT", "POST", "DELETE"} else "other"


def _record(
    request: web.Request, context: Context, caller: Caller, status: int, started: float, *, stranger: bool
) -> None:
    """The request's line. A stranger is one who proved nothing and got nothing."""
    peer, notes = request.remote or "", request[NOTES]
    line: dict[str, object] = {
        "caller": f"{type(caller).__name__.removesuffix('Caller').lower()}:{caller.name}",
        "peer": peer,
        "method": _method(request),
        "path": request.path[:500],
        "status": status,
        "milliseconds": round((time.monotonic() - started) * 1000),
        **notes,
    }
    try:
        if stranger:
            context.audit.refused(peer, "api.request", **line)
        else:
            context.audit.record("api.request", **line)
    except OSError as exc:
        log.error("audit line lost", error=str(exc), path=request.path[:500])  # noqa: TRY400 - the reason is enough
