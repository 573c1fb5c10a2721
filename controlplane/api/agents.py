"""What agents use: roots, join, renew, sign, register, and the uplink."""

from aiohttp import web

from ca.policy import Claims, Denied
from ca.wire import JoinRequest, RenewRequest, RootsAnswer, SignRequest
from controlplane.api.answers import ApiError, lenient
from controlplane.api.context import CALLER, CONTEXT, NOTES
from controlplane.auth import NodeCaller
from controlplane.registry import NodePlan, pack, plan_node
from mesh import codec
from mesh.model import Revision
from mesh.model.uplink import MAX_FRAME_BYTES, RegisterAnswer, RegisterRequest
from mesh.store.errors import Conflict

ATTEMPTS = 8


def _json(value: object) -> web.Response:
    return web.Response(body=codec.encode_struct(value), content_type="application/json")  # type: ignore[arg-type]


def _refuse(denied: Denied) -> ApiError:
    if denied.retry_after:
        return ApiError(429, denied.reason, "try again later", retry_after=denied.retry_after)
    return ApiError(403, denied.reason)


async def roots(request: web.Request) -> web.Response:
    """For anybody: a joining host checks it against its token's pin."""
    context = request.app[CONTEXT]
    bundle = context.mirror.view.bundle(context.trust_domain)
    return _json(
        RootsAnswer(
            trust_domain=context.trust_domain,
            sequence=bundle.spec.sequence if bundle else 0,
            roots=bundle.spec.roots if bundle else context.authority.roots,
        )
    )


async def join(request: web.Request) -> web.Response:
    context, wanted = request.app[CONTEXT], await lenient(request, JoinRequest)
    request[NOTES]["node"] = wanted.node[:80]
    outcome = await context.issuer.join(wanted, request.remote or "", context.wall())
    if isinstance(outcome, Denied):
        raise _refuse(outcome)
    return _json(outcome)


async def renew(request: web.Request) -> web.Response:
    context, wanted = request.app[CONTEXT], await lenient(request, RenewRequest)
    outcome = await context.issuer.renew(wanted, context.wall(), request.remote or "")
    if isinstance(outcome, Denied):
        raise _refuse(outcome)
    return _json(outcome)


async def sign(request: web.Request) -> web.Response:
    context, wanted, caller = request.app[CONTEXT], await lenient(request, SignRequest), request[CALLER]
    assert isinstance(caller, NodeCaller)
    claims = Claims(caller.name, "node_certificate", caller.issued)
    outcome = await context.issuer.sign(claims, wanted, context.wall())
    if isinstance(outcome, Denied):
        raise _refuse(outcome)
    return _json(outcome)


async def register(request: web.Request) -> web.Response:
    """The whole list of a host's instances; what changed is written, nothing else."""
    context, name = request.app[CONTEXT], request[CALLER].name
    if wait := context.registrations.take(name, context.wall()):  # before anything of the body is read
        raise _refuse(Denied(f"node {name} registers too often", retry_after=wait))
    wanted = await lenient(request, RegisterRequest)
    if not context.mirror.ready.is_set():
        raise ApiError(503, "this node has not read the store yet", "try again soon", retry_after=1)
    view, revision = context.mirror.view, Revision(0)
    for attempt in range(1, ATTEMPTS + 1):
        plan = plan_node(view, name, wanted.instances)
        try:
            for part in pack(plan.parts, context.settings.limits.transaction_ops):
                revision = await context.writer.commit(part, author=f"node:{name}")
            break
        except Conflict:
            if attempt == ATTEMPTS:
                raise
    context.metrics.registered.labels("accepted").inc(len(wanted.instances) - len(plan.refused))
    context.metrics.registered.labels("refused").inc(len(plan.refused))
    _note(request, plan, revision)
    return _json(RegisterAnswer(revision=revision or view.revision, refused=dict(plan.refused), notes=dict(plan.notes)))


def _note(request: web.Request, plan: NodePlan, revision: Revision) -> None:
    request[NOTES].update(revision=revision, changed=len(plan.parts))
    if plan.refused:
        request[NOTES]["refused"] = dict(list(plan.refused.items())[:20])


async def uplink(request: web.Request) -> web.StreamResponse:
    context, caller = request.app[CONTEXT], request[CALLER]
    assert isinstance(caller, NodeCaller)
    if not request.headers.get("Upgrade", "").lower() == "websocket":
        raise ApiError(400, "this is a WebSocket", "send an Upgrade request")
    # No autoping: a pong is a sign of life and is seen by us. No compression: it costs memory for each agent.
    ws = web.WebSocketResponse(timeout=1.0, autoping=False, compress=False, max_msg_size=MAX_FRAME_BYTES)
    await ws.prepare(request)
    await context.uplinks.serve(caller.name, caller.issued, ws)
    return ws
