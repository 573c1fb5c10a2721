"""Routes -> handlers. Who may use each is `controlplane.auth.MATRIX`."""

from aiohttp import web

from controlplane.api import (
    agents,
    checked,
    dist,
    explaining,
    health,
    history,
    nodes,
    objects,
    operators,
    peerings,
    plans,
    revisions,
    watching,
)
from controlplane.api.context import CONTEXT, Context
from controlplane.api.guard import Handler, guard

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/healthz", health.healthz),
    ("GET", "/readyz", health.readyz),
    ("GET", "/metrics", health.metrics),
    ("GET", "/v1/whoami", operators.whoami),
    ("GET", "/v1/kinds", objects.kinds),
    ("GET", "/v1/objects/{plural}", objects.list_objects),
    ("GET", "/v1/objects/{plural}/{name}", objects.get),
    ("PUT", "/v1/objects/{plural}/{name}", objects.put),
    ("DELETE", "/v1/objects/{plural}/{name}", objects.delete),
    ("GET", "/v1/objects/{plural}/{namespace}/{name}", objects.get),
    ("PUT", "/v1/objects/{plural}/{namespace}/{name}", objects.put),
    ("DELETE", "/v1/objects/{plural}/{namespace}/{name}", objects.delete),
    ("POST", "/v1/apply", objects.apply),
    ("GET", "/v1/watch/{plural}", watching.watch),
    ("POST", "/v1/apply/checked", checked.apply),
    ("POST", "/v1/plan", plans.plan),
    ("POST", "/v1/explain", explaining.explain),
    ("POST", "/v1/ask", plans.ask),
    ("POST", "/v1/wait", revisions.wait),
    ("GET", "/v1/standings", revisions.standings),
    ("GET", "/v1/history", history.entries),
    ("GET", "/v1/history/{entry}", history.entry),
    ("GET", "/v1/status", operators.status),
    ("GET", "/v1/proxies", operators.proxies),
    ("GET", "/v1/proxies/{node}", operators.proxy),
    ("GET", "/v1/proxies/{node}/config", operators.proxy_config),
    ("GET", "/v1/nodes/{node}/drain", nodes.drained),
    ("POST", "/v1/nodes/{node}/drain", nodes.drain),
    ("POST", "/v1/nodes/{node}/undrain", nodes.undrain),
    ("POST", "/v1/nodes/{node}/dump", nodes.dump),
    ("GET", "/v1/backup", operators.backup),
    ("POST", "/v1/tokens", operators.create_token),
    ("GET", "/v1/operators", operators.list_operators),
    ("POST", "/v1/operators", operators.create_operator),
    ("DELETE", "/v1/operators/{name}", operators.delete_operator),
    ("POST", "/v1/ca/rotate", operators.rotate),
    ("GET", "/v1/trust-bundle", peerings.bundle),
    ("GET", "/v1/peerings", peerings.list_peerings),
    ("GET", "/v1/peerings/{name}", peerings.get),
    ("POST", "/v1/peering/tokens", peerings.create_token),
    ("POST", "/v1/peering/accept", peerings.accept),
    ("POST", "/v1/peering/establish", peerings.establish),
    ("GET", "/v1/peering/session", peerings.session),
    ("GET", "/v1/roots", agents.roots),
    ("GET", "/install.py", dist.installer),
    ("GET", "/v1/dist/manifest.json", dist.manifest),
    ("GET", "/v1/dist/{path}", dist.file),
    ("POST", "/v1/join", agents.join),
    ("POST", "/v1/renew", agents.renew),
    ("POST", "/v1/sign", agents.sign),
    ("POST", "/v1/register", agents.register),
    ("GET", "/v1/uplink", agents.uplink),
)


def make_app(context: Context) -> web.Application:
    app = web.Application(middlewares=[guard], client_max_size=context.settings.limits.body_bytes)
    app[CONTEXT] = context
    for method, path, handler in ROUTES:
        # A {path} has slashes in it. HEAD comes with GET, except where a GET has effects or never ends.
        app.router.add_route(method, path.replace("{path}", "{path:.+}"), handler)
    return app
