"""What operators use besides objects: tokens, other operators, status, proxies, rotation, backup."""

import asyncio

import msgspec
from aiohttp import web

from ca import keys as ca_keys
from ca.attest import join_token
from ca.attest.join_token import BadTokenRequestError
from controlplane import auth
from controlplane.api.answers import ApiError, answer, strict
from controlplane.api.context import CALLER, CONTEXT, NOTES, Context
from controlplane.api.dist import INSTALLER
from controlplane.api.peerings import states as peer_states
from controlplane.backup import dump
from controlplane.election import LEADER, Leader
from controlplane.proxies import PeerError
from controlplane.uplink import AgentError, NotConnectedError
from mesh import codec, keys
from mesh.model import Frozen, Violation
from mesh.model.checks import label_fault
from mesh.store.protocol import Compare, Delete, Put

MAX_OPERATOR_TTL = 366 * 86400.0
BACKUP_CHUNK = 256 * 1024
WRITE_SECONDS = 60.0


class TokenRequest(Frozen, frozen=True, kw_only=True):
    node: str
    identities: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("agent",)
    ttl_seconds: float = 3600.0


class OperatorRequest(Frozen, frozen=True, kw_only=True):
    name: str
    role: auth.Role = "viewer"
    ttl_seconds: float = 30 * 86400.0


class RotateRequest(Frozen, frozen=True, kw_only=True):
    what: str = "intermediate"


async def whoami(request: web.Request) -> web.Response:
    caller = request[CALLER]
    assert isinstance(caller, auth.Operator)
    return answer({"name": caller.name, "role": caller.role, "expires": caller.expires})


async def create_token(request: web.Request) -> web.Response:
    """A join token. Its text is in this answer and nowhere else."""
    context, wanted = request.app[CONTEXT], await strict(request, TokenRequest)
    roots = context.authority.roots
    if not roots:
        raise ApiError(503, "this node knows no root yet", "its signer does not answer; see /readyz", retry_after=5)
    try:
        minted = await join_token.mint(
            context.store,
            node=wanted.node,
            identities=wanted.identities,
            roles=wanted.roles,
            ttl=wanted.ttl_seconds,
            pin=ca_keys.pin(roots[0]),
            now=context.wall(),
        )
    except BadTokenRequestError as exc:
        raise ApiError(422, f"no token was made: {exc}", violations=[Violation(path="", reason=str(exc))]) from exc
    request[NOTES].update(node=wanted.node, identities=list(wanted.identities), expires=minted.expires, id=minted.id)
    # Not the token itself: arguments are seen by every user of a host, and stay in the shell's history.
    command = "holdfast-agent join --config /etc/holdfast/agent.yaml --token-file FILE-WITH-THIS-TOKEN"
    made = {"token": minted.token, "id": minted.id, "expires": minted.expires, "join": command}
    catalogue = await context.shelf.catalogue()
    if catalogue is not None and catalogue.manifest.entry(INSTALLER) is not None:
        # What the line for a bare host pins.
        made["install"] = {"url": context.settings.advertise, "manifestSha256": catalogue.sha256}
    return answer(made, status=201)


async def create_operator(request: web.Request) -> web.Response:
    context, wanted = request.app[CONTEXT], await strict(request, OperatorRequest)
    faults = []
    if fault := label_fault(wanted.name):
        faults.append(Violation(path="name", reason=fault))
    if not 1 <= wanted.ttl_seconds <= MAX_OPERATOR_TTL:
        faults.append(Violation(path="ttlSeconds", reason="a token lasts from a second to 366 days"))
    if faults:
        raise ApiError(422, "no token was made", violations=faults)
    text, key, record = auth.new_token(wanted.name, wanted.role, context.wall(), wanted.ttl_seconds)
    await context.store.txn((), (Put(key, codec.encode_struct(record)),))
    request[NOTES].update(operator=wanted.name, role=wanted.role, expires=record.expires)
    return answer({"token": text, "name": record.name, "role": record.role, "expires": record.expires}, status=201)


async def list_operators(request: web.Request) -> web.Response:
    items = []
    for item in (await request.app[CONTEXT].store.list(keys.OPERATORS)).items:
        try:
            record = codec.decode_struct(auth.OperatorToken, item.value)
        except codec.Undecodable:
            continue
        digest = item.key.removeprefix(keys.OPERATORS)[:12]
        items.append({"id": digest, **msgspec.to_builtins(record)})
    return answer({"items": items})


async def delete_operator(request: web.Request) -> web.Response:
    """All tokens of this name end now."""
    context, name = request.app[CONTEXT], request.match_info["name"]
    compares, ops = [], []
    for item in (await context.store.list(keys.OPERATORS)).items:
        try:
            record = codec.decode_struct(auth.OperatorToken, item.value)
        except codec.Undecodable:
            continue
        if record.name == name:
            compares.append(Compare(item.key, item.revision))
            ops.append(Delete(item.key))
    if not ops:
        raise ApiError(404, f"no operator is called {name[:80]!r}")
    await context.store.txn(compares, ops)
    return answer({"deleted": len(ops)})


async def status(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    view = context.mirror.view
    leader = await _leader(context)
    replicas = [
        {
            "replica": presence.replica,
            "advertise": presence.advertise,
            "version": presence.version,
            "connected": len(presence.connected),
            "leader": presence.replica == leader,
            "intermediate": {"notAfter": presence.intermediate_end},
            "signerFault": presence.signer_fault,
        }
        for _, presence in sorted(view.replicas.items())
    ]
    connected = {node for presence in view.replicas.values() for node in presence.connected}
    nodes = {ref.name for ref in view.objects if ref.kind == "Node"}
    return answer(
        {
            "trustDomain": context.trust_domain,
            "cluster": context.cluster,
            "version": context.version,
            "replica": context.settings.replica,
            "leader": leader,
            "replicas": replicas,
            "store": {
                "connected": context.mirror.connected,
                "revision": view.revision,
                "bad": [{"key": key, "reason": bad.reason} for key, bad in sorted(view.bad.items())][:100],
            },
            "nodes": {
                "known": len(nodes),
                "connected": len(nodes & connected),
                "lost": sorted(view.marked_lost()),
            },
            "services": view.written_services,
            "instances": len(view.instances),
            "endpoints": sum(len(endpoints) for endpoints in view.endpoints.values()),
            "intermediate": {"notAfter": context.authority.valid_until()},
            "peers": peer_states(context),
        }
    )


async def _leader(context: Context) -> str:
    item = await context.store.get(LEADER)
    try:
        return codec.decode_struct(Leader, item.value).replica if item else ""
    except codec.Undecodable:
        return ""


async def proxies(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    if isinstance(request[CALLER], auth.ReplicaCaller):
        return answer({"items": context.proxies.local(), "unreachable": []})
    merged = await context.proxies.merged()
    return answer({"items": merged.items, "unreachable": merged.unreachable})


async def proxy(request: web.Request) -> web.Response:
    name = request.match_info["node"]
    merged = await request.app[CONTEXT].proxies.merged()
    for item in merged.items:
        if item["node"] == name:
            return answer(item)
    raise ApiError(404, f"there is no node {name[:80]!r}")


async def proxy_config(request: web.Request) -> web.Response:
    context, name = request.app[CONTEXT], request.match_info["node"]
    hint = "is its agent running? `holdfast proxy status` shows who is connected"
    try:
        if isinstance(request[CALLER], auth.ReplicaCaller):
            text: str | None = await context.uplinks.ask(name, "config")
        else:
            text = await context.proxies.config(name)
    except NotConnectedError:
        text = None
    except (AgentError, PeerError) as exc:
        raise ApiError(502, str(exc), hint) from exc
    if text is None:
        raise ApiError(404, f"no agent of node {name[:80]!r} is connected", hint)
    return web.Response(text=text, content_type="application/json")


async def rotate(request: web.Request) -> web.Response:
    context, wanted = request.app[CONTEXT], await strict(request, RotateRequest)
    if wanted.what != "intermediate":
        reason = "only 'intermediate' can be rotated so"
        raise ApiError(422, "nothing was rotated", violations=[Violation(path="what", reason=reason)])
    await context.authority.rotate()
    return answer({"replica": context.settings.replica, "notAfter": context.authority.valid_until()})


async def backup(request: web.Request) -> web.StreamResponse:
    """All keys at one revision, as NDJSON; the last line says that it is whole."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    context, chunk = request.app[CONTEXT], bytearray()
    # Read before the head goes out, so that a store which does not answer gives a proper error.
    lines = await dump(context.store, cluster=context.cluster, trust_domain=context.trust_domain, now=context.wall())
    await response.prepare(request)
    for line in lines:
        chunk += line
        if len(chunk) >= BACKUP_CHUNK:
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(bytes(chunk))
            chunk.clear()
    await response.write(bytes(chunk))
    await response.write_eof()
    return response
