"""For load balancers, supervisors and Prometheus."""

from aiohttp import web

from controlplane.api.context import CONTEXT, Context
from controlplane.api.peerings import state as peer_state
from mesh.obs import health_page


async def healthz(_: web.Request) -> web.Response:
    """The process runs and answers."""
    return web.Response(body=b'{"ok":true}', content_type="application/json")


async def readyz(request: web.Request) -> web.Response:
    page = health_page(_faults(request.app[CONTEXT]), ("store", "issuer"))
    return web.Response(body=page.body, status=page.status, content_type="application/json")


def _faults(context: Context) -> dict[str, str]:
    mirror = context.mirror
    followed = mirror.connected and mirror.ready.is_set()
    store = "" if followed else f"the store does not answer: {mirror.outage or 'nothing was told'}"
    issuer = "" if context.authority.valid_until() > context.wall() else "no valid intermediate is held"
    return {"store": store, "issuer": issuer}


async def metrics(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    made, view = context.metrics, context.mirror.view
    made.watches.set(context.open_watches)
    made.uplinks.set(len(context.uplinks.connections()))
    made.leading.set(context.election.leading)
    made.connected.set(context.mirror.connected)
    made.revision.set(view.revision)
    made.unreadable.set(len(view.bad))
    made.issuer_end.set(context.authority.valid_until())
    made.signer_up.set(not context.authority.signer_fault)
    _peers(context)
    return web.Response(body=made.page(), headers={"Content-Type": made.content_type})


def _peers(context: Context) -> None:
    """Set anew, so that a peering that was deleted leaves no figure."""
    made = context.metrics
    for gauge in (made.peer_connected, made.peer_lost, made.peer_imported, made.peer_exported, made.peer_refused):
        gauge.clear()
    for peering in context.mirror.view.peerings():
        known = peer_state(context, peering)
        name = known["name"]
        made.peer_connected.labels(name).set(known["state"] == "connected")
        made.peer_lost.labels(name).set(known["lostSeconds"])
        made.peer_imported.labels(name, "services").set(known["imported"])
        made.peer_imported.labels(name, "endpoints").set(known["endpoints"])
        made.peer_exported.labels(name).set(known["exported"])
        made.peer_refused.labels(name).set(known["refused"])
