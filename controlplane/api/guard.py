"""Around every handler: who calls, may they, in what time; errors become answers; one audit line each.

The order matters: nothing of a request but its head is looked at before its caller is known and allowed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from ca.policy import void_fault
from ca.signer.protocol import SignerError
from controlplane import auth
from controlplane.api.answers import ApiError
from controlplane.api.context import CALLER, CONTEXT, NOTES, Context
from controlplane.auth import Anonymous, Caller, Rejected
from mesh.store.errors import Conflict, Refused, StoreError, Unavailable

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNTIMED = frozenset({"/v1/uplink", "/v1/watch/{plural}", "/v1/backup"})
"""Streams; they bound their own steps."""
UNAUDITED = frozenset({"/healthz", "/readyz", "/metrics", "/v1/roots"})
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
    status = 0
    try:
        caller = await _admit(request, route, context)
        request[CALLER] = caller
        if route in UNTIMED:
            response = await handler(request)
        else:
            async with asyncio.timeout(context.settings.limits.request_seconds):
                response = await handler(request)
        status = response.status
    except Exception as exc:  # noqa: BLE001 - the edge: the client gets an answer, the log the trace
        error = _error_of(exc, route)
        status, response = error.status, error.response()
    except asyncio.CancelledError:
        status = 499  # the client went away
        raise
    finally:
        _finish(request, context, route, caller, status, started)
    return response


async def _admit(request: web.Request, route: str, context: Context) -> Caller:
    caller = await _caller(request, context)
    if isinstance(caller, Rejected):
        # Whoever offers a bad proof where none is needed (an expired token at /healthz) is not turned away.
        if auth.allowed(request.method, route, Anonymous()):
            return Anonymous()
        raise ApiError(401, caller.reason, "use a valid token, or a certificate of this mesh")
    if route == _NO_ROUTE:
        return caller
    if not auth.allowed(request.method, route, caller):
        if isinstance(caller, Anonymous):
            hint = "operators send 'Authorization: Bearer <token>', agents their node's certificate"
            raise ApiError(401, "who are you?", hint)
        raise ApiError(403, f"{caller.name} may not {request.method} {route}", "another role is needed for this")
    if isinstance(caller, auth.NodeCaller) and not auth.allowed(request.method, route, Anonymous()):
        await _check_node(context, caller)
    return caller


async def _check_node(context: Context, caller: auth.NodeCaller) -> None:
    """Its certificate lives on after a node is evicted, deleted or joined anew; its rights do not."""
    held = context.mirror.view.node(caller.name)
    if held is None:
        await context.writer.look_up_node(caller.name)  # it may have joined a moment ago at another replica
        held = context.mirror.view.node(caller.name)
    if held is None:
        raise ApiError(403, f"there is no node {caller.name[:80]!r}", "it was deleted, and has to join anew")
    if held.object.spec.evicted:
        raise ApiError(403, f"node {caller.name} is evicted", "delete its Node object and join anew, if it may")
    if fault := void_fault(caller.name, caller.issued, context.mirror.view.joined(caller.name)):
        raise ApiError(403, fault, "use the certificate of that join, or join anew with a new token")


async def _caller(request: web.Request, context: Context) -> Caller | Rejected:
    header = request.headers.get("Authorization")
    if header is not None:
        return await auth.operator(context.store, header, context.wall())
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport else None
    certificate = tls.getpeercert(binary_form=True) if tls else None
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


def _finish(request: web.Request, context: Context, route: str, caller: Caller, status: int, started: float) -> None:
    seconds = time.monotonic() - started
    method = request.method if request.method in {"GET", "HEAD", "PUT", "POST", "DELETE"} else "other"
    context.metrics.requests.labels(method, route, str(status)).inc()
    if route not in UNTIMED:
        context.metrics.seconds.labels(method, route).observe(seconds)
    if route in UNAUDITED:
        return
    try:
        context.audit.record(
            "api.request",
            caller=f"{type(caller).__name__.removesuffix('Caller').lower()}:{caller.name}",
            peer=request.remote or "",
            method=method,
            path=request.path[:500],
            status=status,
            milliseconds=round(seconds * 1000),
            **request[NOTES],
        )
    except OSError as exc:
        log.error("audit line lost", error=str(exc), path=request.path[:500])  # noqa: TRY400 - the reason is enough
