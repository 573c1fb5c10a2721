"""`holdfast get`."""

import time
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.options import collection, connected, connection, namespace_of, output, path_of, the_kind
from mesh.model import KINDS


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-n", "--namespace", default="", help="Namespace; default: the context's, else `default`.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of every namespace.")
@click.option("-l", "--selector", default="", metavar="LABELS", help="Labels the objects must have: a=b,c=d.")
@output("table", "wide", "json", "yaml")
@connected
def get(
    kind: str, name: str | None, namespace: str, all_namespaces: bool, selector: str, form: str, flags: Flags
) -> None:
    r"""List the objects of a KIND, or show the one called NAME.

    KIND is a kind's name, its plural or a short form, in any case: Service, services, svc. Nodes are shown with what
    their agents report, under `status`: state, versions, when they were heard, the shortest certificate.

    \b
    Examples:
      holdfast get services -n shop
      holdfast get endpoints -A -o wide
      holdfast get svc api -n shop -o yaml
      holdfast get nodes
      holdfast get instances -A -l version=v2 -o json
    """
    from controlplane.cli.client import Api
    from controlplane.cli.hosts import with_status
    from controlplane.cli.output import emit, say, table, talk
    from controlplane.cli.views import rows

    kind = the_kind(kind)
    if name and (all_namespaces or selector):
        raise click.UsageError("a NAME goes with neither -A nor -l")
    to = connection(flags)
    within = "" if all_namespaces else namespace_of(kind, namespace, to.namespace)

    async def work(api: Api) -> Any:
        if name:
            answer = await api.get(path_of(kind, within, name))
        else:
            params = {"namespace": within} if within else {}
            answer = await api.get(collection(kind), params | ({"labelSelector": selector} if selector else {}))
        if kind != "Node":
            return answer
        said = (await api.get("/v1/proxies"))["items"]
        if name:
            return with_status([answer], said, time.time())[0]
        return {**answer, "items": with_status(answer["items"], said, time.time())}

    found = talk(to, work, f"reading {KINDS[kind].plural}")
    for bad in found.get("bad") or []:
        say(f"unreadable in the store: {bad['key']}: {bad['reason']}")
    items = [found] if name else found["items"]
    if form in {"json", "yaml"}:
        emit(found if name else {"kind": "List", "items": items, "revision": found.get("revision")}, form)
    elif items:
        table(*rows(kind, items, wide=form == "wide", now=time.time()))
    else:
        where = f" in namespace {within}" if within else ""
        hint = "; -A looks in all of them" if within else ""
        say(f"no {KINDS[kind].plural}{where}{hint}")
