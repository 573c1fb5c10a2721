"""Peers: tokens and their acceptance, the session, the state of each, and SPIFFE's bundle endpoint."""

import asyncio
from typing import Any

from aiohttp import web

from controlplane.api.answers import ApiError, answer, lenient, strict
from controlplane.api.context import CALLER, CONTEXT, NOTES, Context
from controlplane.api.objects import author_of
from controlplane.auth import PeerCaller
from controlplane.peering import PeeringError
from mesh import codec, keys
from mesh.model import Endpoint, Frozen, ImportedService, Peering
from multicluster import trust, wire
from multicluster.link import HEARTBEAT_SECONDS
from multicluster.tokens import Application

ACCEPT_SECONDS = 120.0


class TokenRequest(Frozen, frozen=True, kw_only=True):
    ttl_seconds: float = 3600.0
    peer: str = ""


class AcceptRequest(Frozen, frozen=True, kw_only=True):
    token: str
    anew: bool = False


def _refusal(exc: PeeringError) -> ApiError:
    return ApiError(exc.status, str(exc), "docs/federation.md tells how a peering is made", violations=exc.violations)


async def bundle(request: web.Request) -> web.Response:
    """SPIFFE's bundle endpoint, for anybody: JWK set, profiles https_spiffe and (behind a proxy) https_web."""
    context = request.app[CONTEXT]
    own = context.mirror.view.bundle(context.trust_domain)
    if own is None:
        raise ApiError(503, "this node has not read the store yet", "try again soon", retry_after=1)
    body = trust.document(own.spec.sequence, own.spec.roots)
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


async def create_token(request: web.Request) -> web.Response:
    """A peering token. Its text is in this answer and nowhere else."""
    context, wanted = request.app[CONTEXT], await strict(request, TokenRequest)
    roots = context.authority.roots
    if not roots:
        raise ApiError(503, "this node knows no root yet", "its signer does not answer; see /readyz", retry_after=5)
    try:
        author = author_of(request)
        made = await context.desk.mint(ttl=wanted.ttl_seconds, root=roots[0], author=author, peer=wanted.peer)
    except PeeringError as exc:
        raise _refusal(exc) from exc
    request[NOTES].update(id=made.id, peer=wanted.peer, expires=made.expires)
    return answer({"token": made.token, "id": made.id, "expires": made.expires}, status=201)


async def accept(request: web.Request) -> web.Response:
    """Use another cluster's token. May be repeated."""
    context, wanted = request.app[CONTEXT], await strict(request, AcceptRequest)
    try:
        # Longer than other calls: some of the token's addresses may lead nowhere.
        async with asyncio.timeout(ACCEPT_SECONDS):
            peering = await context.desk.accept(wanted.token, author_of(request), anew=wanted.anew)
    except PeeringError as exc:
        raise _refusal(exc) from exc
    request[NOTES].update(peer=peering.metadata.name, trust_domain=peering.spec.trust_domain)
    return answer({"peering": codec.to_document(peering)}, status=201)


async def establish(request: web.Request) -> web.Response:
    """Another cluster's control plane shows a token of ours."""
    context = request.app[CONTEXT]
    wanted = await lenient(request, Application)
    request[NOTES].update(cluster=wanted.cluster[:80], trust_domain=wanted.trust_domain[:80], token=wanted.id[:16])
    try:
        # In any case a look-up of what a stranger names is bounded: whoever guesses waits.
        if wait := context.may_look_up(keys.PEERING_TOKENS + wanted.id[:64], request.remote or "", context.wall()):
            raise ApiError(429, "too many unknown tokens", "see whether yours is one of this mesh", retry_after=wait)
        return answer(await context.desk.establish(wanted))
    except PeeringError as exc:
        raise _refusal(exc) from exc


async def session(request: web.Request) -> web.StreamResponse:
    """A peer's leader pulls what it may know."""
    context, caller = request.app[CONTEXT], request[CALLER]
    assert isinstance(caller, PeerCaller)
    peering = context.mirror.view.peering(caller.name)
    if peering is not None and peering.spec.trust_domain != caller.trust_domain:
        raise ApiError(403, f"{caller.name} is peered with another trust domain")
    if not context.mirror.ready.is_set() or not context.mirror.connected:
        raise ApiError(503, "the store does not answer this node", "another node may serve", retry_after=1)
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise ApiError(400, "this is a WebSocket", "send an Upgrade request")
    if wait := context.exporting.admit(caller.name):
        raise ApiError(429, f"{caller.name} dials too often", "one session is enough; wait", retry_after=wait)
    ws = web.WebSocketResponse(
        timeout=2.0, heartbeat=HEARTBEAT_SECONDS, compress=False, max_msg_size=wire.MAX_FRAME_BYTES
    )
    await ws.prepare(request)
    await context.exporting.serve(caller.name, ws)
    return ws


async def list_peerings(request: web.Request) -> web.Response:
    return answer({"items": states(request.app[CONTEXT])})


async def get(request: web.Request) -> web.Response:
    context, name = request.app[CONTEXT], request.match_info["name"]
    peering = context.mirror.view.peering(name)
    if peering is None:
        record = context.mirror.view.peers.get(name)
        hint = "it was deleted here" if record and record.state == "deleted" else "`holdfast peering list` names them"
        raise ApiError(404, f"there is no peering {name[:80]!r}", hint)
    return answer(state(context, peering) | details(context, peering))


def states(context: Context) -> list[dict[str, Any]]:
    peerings = sorted(context.mirror.view.peerings(), key=lambda peering: peering.metadata.name)
    return [state(context, peering) for peering in peerings]


def state(context: Context, peering: Peering) -> dict[str, Any]:
    """One peer in a few figures."""
    name, now = peering.metadata.name, context.wall()
    record = context.peers.record(name)
    held = [held.object for held in context.mirror.view.imported.get(name, {}).values()]
    return {
        "name": name,
        "trustDomain": peering.spec.trust_domain,
        "state": "paused" if peering.spec.paused else record.state if record else "connecting",
        "reason": record.reason if record else "",
        "sinceSeconds": round(now - record.since, 3) if record else 0,
        "lostSeconds": round(now - record.lost, 3) if record and record.lost else 0,
        "imported": sum(isinstance(obj, ImportedService) for obj in held),
        "endpoints": sum(isinstance(obj, Endpoint) for obj in held),
        "exported": context.exporting.exported(peering),
        "refused": record.refused if record else 0,
        "lagSeconds": context.lags.get(name),
    }


def details(context: Context, peering: Peering) -> dict[str, Any]:
    name, view = peering.metadata.name, context.mirror.view
    record, known = context.peers.record(name), view.bundle(peering.spec.trust_domain)
    sessions = [one for one in context.exporting.sessions if one.peer == name]
    exported = sorted(str(ref) for session in sessions[-1:] for ref in session.offered)
    return {
        "spec": codec.to_document(peering)["spec"],
        "servedBy": record.replica if record else "",
        "rejected": record.rejected if record else {},
        "bundle": {"sequence": known.spec.sequence, "roots": len(known.spec.roots)} if known else None,
        "services": sorted(
            str(held.object.service)
            for held in view.imported.get(name, {}).values()
            if isinstance(held.object, ImportedService)
        ),
        "cut": sorted(
            str(held.object.service)
            for held in view.imported.get(name, {}).values()
            if isinstance(held.object, ImportedService) and held.object.spec.cut
        ),
        "serving": {
            "replica": context.settings.replica,
            "sessions": len(sessions),
            "services": exported[:1000],
            "rejectedThere": sessions[-1].rejected if sessions else {},
        },
    }
