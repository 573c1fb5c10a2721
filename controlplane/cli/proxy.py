"""`holdfast proxy`."""

import time
from collections.abc import Mapping
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection, output
from controlplane.cli.views import span, text

Document = Mapping[str, Any]


@click.group()
def proxy() -> None:
    """Show what the proxies have applied and hold."""


@proxy.command()
@click.argument("node", required=False)
@output("table", "json", "yaml")
@connected
def status(node: str | None, form: str, flags: Flags) -> None:
    r"""Show each proxy: is it connected, what revision is in force in it, was anything refused.

    APPLIED is the newest revision in force: acknowledged by Envoy, and nothing of it still warming.

    \b
    Examples:
      holdfast proxy status
      holdfast proxy status api-1 -o yaml
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, say, table, talk

    async def work(api: Api) -> Any:
        return await api.get(f"/v1/proxies/{node}" if node else "/v1/proxies")

    found = talk(connection(flags), work, "asking the proxies")
    items = [found] if node else found["items"]
    if form != "table":
        emit(found, form)
        return
    table(TITLES, [row(item, time.time()) for item in items])
    for item in items:
        for line in complaints(item):
            say(line)
    if not node and found.get("unreachable"):
        say(f"control-plane nodes that did not answer: {', '.join(found['unreachable'])}; theirs are shown as away")


TITLES = ["NODE", "PHASE", "ENVOY", "OBSERVED", "APPLIED", "CERTIFICATES", "REJECTED", "AT", "UP"]


def row(item: Document, now: float) -> list[str]:
    """One line of the table. Pure."""
    report = item.get("report") or {}
    if not item.get("connected") or not report:
        return [item["node"], "lost" if item.get("lost") else "away", *["-"] * 7]
    left = [svid["notAfter"] - now for svid in report.get("svids") or []]
    return [
        item["node"],
        text(report.get("phase") or "joining"),
        text(report.get("envoy") or "down"),
        str(report.get("observed", 0)),
        str(report.get("applied", 0)),
        f"{len(left)}, {span(min(left))} left" if left else "-",
        str(len(report.get("rejected") or [])),
        text(item.get("replica")),
        span(now - report["started"]) if report.get("started") else "-",
    ]


def complaints(item: Document) -> list[str]:
    """What a reader of the table should know besides. Pure."""
    report = item.get("report") or {}
    node = item["node"]
    lines = [
        f"{node}: {r['object']} is refused: {r['reason']} (in force: {r.get('inForce', 'nothing')})"
        for r in report.get("rejected") or []
    ]
    lines += [f"{node}: {problem}" for problem in report.get("problems") or []]
    lines += [f"{node}: warning: {warning}" for warning in report.get("warnings") or []]
    if report.get("maintenance"):
        lines.append(f"{node}: out of service (maintenance); `holdfast node undrain {node}` puts it back")
    if report.get("held"):
        lines.append(f"{node}: holds back a mass deletion: {report['held']}")
    return lines


@proxy.command()
@click.argument("node")
@output("json", "yaml", default="json")
@connected
def config(node: str, form: str, flags: Flags) -> None:
    r"""Show the whole configuration that a proxy's Envoy holds, asked of it now.

    \b
    Examples:
      holdfast proxy config api-1 | jq '.configs[] | keys'
      holdfast proxy config api-1 -o yaml > api-1.yaml
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, talk

    async def work(api: Api) -> Any:
        return await api.get(f"/v1/proxies/{node}/config")

    try:
        found = talk(connection(flags), work, f"asking {node}", timeout=30)
    except CliError as exc:
        if exc.exit_code == Exit.NOT_FOUND and not exc.hint:
            exc.hint = "`holdfast proxy status` lists the proxies"
        raise
    emit(found, form)
