"""`holdfast describe`."""

import time
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.options import collection, connected, connection, namespace_of, path_of, the_kind


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Namespace; default: the context's, else `default`.")
@connected
def describe(kind: str, name: str, namespace: str, flags: Flags) -> None:
    r"""Show an object and what belongs to it: a Service with its endpoints and policies, a Node with its instances.

    \b
    Examples:
      holdfast describe service api -n shop
      holdfast describe node web-1
    """
    from controlplane.cli.client import Api
    from controlplane.cli.hosts import with_status
    from controlplane.cli.output import table, talk
    from controlplane.cli.plain import plain
    from controlplane.cli.views import describe as lines
    from controlplane.cli.views import rows

    kind = the_kind(kind)
    to = connection(flags)
    within = namespace_of(kind, namespace, to.namespace)

    async def work(api: Api) -> tuple[Any, list[tuple[str, list[Any]]]]:
        document = await api.get(path_of(kind, within, name))
        if kind == "Node":
            said = (await api.get("/v1/proxies"))["items"]
            document = with_status([document], said, time.time())[0]
        return document, [(other, await related(api, other, kind, within, name)) for other in RELATED.get(kind, ())]

    document, others = talk(to, work, f"reading {kind} {name}")
    click.echo(plain("\n".join(lines(document))))
    for other, documents in others:
        click.echo(f"\n{other} objects: {len(documents) or 'none'}")
        if documents:
            table(*rows(other, documents, wide=False, now=time.time()))


RELATED: dict[str, tuple[str, ...]] = {
    "Service": ("Endpoint", "AuthorizationPolicy"),
    "Node": ("Instance",),
    "Namespace": ("Service", "AuthorizationPolicy"),
}


async def related(api: Any, other: str, kind: str, namespace: str, name: str) -> list[Any]:
    """The objects of another kind that belong to this one."""
    within = name if kind == "Namespace" else namespace
    answer = await api.get(collection(other), {"namespace": within} if within else {})
    return [d for d in answer["items"] if belongs(d, kind, name)]


def belongs(document: dict[str, Any], kind: str, name: str) -> bool:
    spec = document.get("spec") or {}
    match kind, document.get("kind"):
        case "Service", "Endpoint":
            return bool(spec.get("service") == name)
        case "Service", "AuthorizationPolicy":
            return (spec.get("target") or {}).get("service", "") in {"", name}
        case "Node", "Instance":
            return bool(spec.get("node") == name)
    return True
