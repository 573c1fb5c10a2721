"""For load balancers, supervisors and Prometheus."""

from aiohttp import web

from controlplane.api.context import CONTEXT, Context
from mesh.obs import health_page


async def healthz(_: web.Request) -> web.Response:
    """The process runs and answers."""
    return web.Response(body=b'{"ok":true}', content_type="application/json")


async def readyz(request: web.Request) -> web.Response:
    page = health_page(_faults(request.app[CONTEXT]), ("store", "issuer"))
    return web.Response(body=page.body, status=page.status, content_type="application/json")


def _faults(context: Context) -> dict[str, str]:
    store = "" if context.mirror.connected and context.mirror.ready.is_set() else "the store does not answer"
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
    return web.Response(body=made.page(), headers={"Content-Type": made.content_type})
