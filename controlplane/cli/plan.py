"""`holdfast plan`."""

from collections.abc import Mapping
from typing import Any

import click

from controlplane.cli.apply import located, name_of, objects_of, warn
from controlplane.cli.context import Flags
from controlplane.cli.delete import refs_of
from controlplane.cli.errors import CliError
from controlplane.cli.options import connected, connection, output

Document = Mapping[str, Any]


@click.command()
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE|DIR|-", help="What to apply.")
@click.option("--delete", "removing", is_flag=True, help="Plan the deletion of what the files describe.")
@click.option("--proxy", default="", metavar="NODE", help="Only the proxy of this host, with all of its resources.")
@output("table", "json", "yaml")
@connected
def plan(files: tuple[str, ...], removing: bool, proxy: str, form: str, flags: Flags) -> None:
    r"""Show what `holdfast apply` of these files would change in which proxies, and write nothing.

    The input is checked as for an apply. Every connected agent compiles the changed configuration beside the one in
    force, and tells the resources of Envoy's that would differ: cds clusters, eds endpoints, lds listeners, rds
    routes, sds secrets. Endpoints that hosts would be given as a consequence are not foreseen.

    \b
    Examples:
      holdfast plan -f deploy/
      holdfast plan -f policy.yaml --proxy api-1
      holdfast plan -f old.yaml --delete -o json | jq '.proxies[].node'
    """
    from controlplane.cli.client import Api
    from controlplane.cli.files import read
    from controlplane.cli.output import emit, say, table, talk

    sources = read(files)
    to = connection(flags)
    change = {"delete": refs_of(sources, to.namespace)} if removing else {"objects": objects_of(sources)}
    body = {"objects": [], "delete": [], "proxy": proxy, **change}

    async def work(api: Api) -> Any:
        return await api.call("POST", "/v1/plan", body=body, repeatable=True)

    try:
        found = talk(to, work, "asking the proxies' agents", timeout=120)
    except CliError as exc:
        raise located(exc, {name_of(s.document): s.origin for s in sources}) from None
    if form != "table":
        emit(found, form)
        return
    table(["OBJECT", "ACTION"], [[r["object"], r["action"]] for r in found["results"]])
    if shown := rows(found):
        click.echo("")
        table(["PROXY", "TYPE", "RESOURCE", "ACTION"], shown)
    warn(found)
    for line in summary(found):
        say(line)


def rows(found: Document) -> list[list[str]]:
    """One line for each resource of each proxy that would change. Pure."""
    shown = []
    for proxy in found["proxies"]:
        shown += [[proxy["node"], c["type"], c["name"], c["action"]] for c in proxy["changes"]]
        if proxy["more"]:
            shown.append([proxy["node"], "-", f"and {proxy['more']} more; --proxy {proxy['node']} names them", "-"])
    return shown


def summary(found: Document) -> list[str]:
    """The rest of it in words. Pure."""
    problems = [f"{proxy['node']}: {problem}" for proxy in found["proxies"] for problem in proxy["problems"]]
    changed = sum(bool(proxy["changes"] or proxy["more"]) for proxy in found["proxies"])
    same = found["unchanged"] + len(found["proxies"]) - changed
    lines = [f"problem at {problem}" for problem in problems]
    lines += [f"not known: {one['node']}: {one['reason']}" for one in found["unknown"]]
    unknown = f", {len(found['unknown'])} not known" if found["unknown"] else ""
    return [*lines, f"{changed} proxies would change, {same} would not{unknown}; nothing was written"]
