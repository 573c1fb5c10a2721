"""`holdfast status`."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.options import connected, connection, output
from controlplane.cli.views import span


@click.command()
@output("table", "json", "yaml")
@connected
def status(form: str, flags: Flags) -> None:
    r"""Show the state of the mesh: control-plane nodes, store, hosts, and what is wrong with any of them.

    \b
    Examples:
      holdfast status
      holdfast status -o json | jq .nodes.lost
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, say, table, talk
    from controlplane.cli.plain import plain

    async def work(api: Api) -> Any:
        return {**await api.get("/v1/status"), "proxies": await api.get("/v1/proxies")}

    found = talk(connection(flags), work, "asking the control plane")
    if form != "table":
        emit(found, form)
        return
    for line in summary(found, time.time()):
        click.echo(plain(line))
    click.echo("")
    table(
        ["REPLICA", "LEADER", "AGENTS", "INTERMEDIATE", "SIGNER", "VERSION", "URL"],
        [replica(r, time.time()) for r in found["replicas"]],
    )
    for line in troubles(found, time.time()):
        say(line)


def replica(one: Mapping[str, Any], now: float) -> list[str]:
    """Its line in the table. Pure. A control plane that is older than this program says nothing of signers."""
    end = one.get("intermediate", {}).get("notAfter", 0.0)
    return [
        one["replica"],
        "yes" if one["leader"] else "-",
        str(one["connected"]),
        span(end - now) if end else "-",
        "AWAY" if one.get("signerFault") else "ok" if end else "-",
        one["version"],
        one["advertise"],
    ]


def summary(found: Mapping[str, Any], now: float) -> list[str]:
    """The mesh in a few lines. Pure."""
    nodes, store = found["nodes"], found["store"]
    runway = certificates(found)
    lines = [
        f"mesh           {found['trustDomain']} (cluster {found['cluster']}), version {found['version']}",
        f"store          {'ok' if store['connected'] else 'NOT CONNECTED'}, revision {store['revision']}",
        f"hosts          {nodes['connected']} of {nodes['known']} connected, {len(nodes['lost'])} lost",
        f"services       {found['services']}, instances {found['instances']}, endpoints {found['endpoints']}",
        f"proxies        {phases(found)}",
        f"intermediate   valid for {span(found['intermediate']['notAfter'] - now)}",
    ]
    if peers := found.get("peers"):
        lines.append(f"peers          {peers_line(peers)}")
    if runway:
        worst = min(runway, key=lambda one: one[1] - now)
        lines.append(f"certificates   {len(runway)}; the first ends in {span(worst[1] - now)} ({worst[0]})")
    return lines


def phases(found: Mapping[str, Any]) -> str:
    """How many proxies are in which phase."""
    counts: dict[str, int] = {}
    for item in found["proxies"]["items"]:
        report = item.get("report") or {}
        phase = (report.get("phase") or "joining") if item.get("connected") else "lost" if item.get("lost") else "away"
        counts[phase] = counts.get(phase, 0) + 1
    return ", ".join(f"{number} {phase}" for phase, number in sorted(counts.items())) or "none"


def peers_line(peers: Sequence[Mapping[str, Any]]) -> str:
    """How many peers are in which state, and what is imported of them."""
    counts = Counter(peer["state"] for peer in peers)
    states = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return f"{states}; {sum(peer['imported'] for peer in peers)} services imported"


Runway = tuple[str, float, float]
"""Identity on its node, end and begin of its certificate."""


def certificates(found: Mapping[str, Any]) -> list[Runway]:
    """Every certificate that an agent reports."""
    return [
        (f"{svid['spiffeId']} on {item['node']}", svid["notAfter"], svid["notBefore"])
        for item in found["proxies"]["items"]
        for svid in (item.get("report") or {}).get("svids") or []
    ]


WARN, ALARM = 0.5, 0.25
"""Shares of a certificate's life that are left."""


def troubles(found: Mapping[str, Any], now: float) -> list[str]:
    """What an operator should look at. Pure."""
    lines = [f"lost: {node}; its instances get no traffic" for node in found["nodes"]["lost"]]
    if not found["store"]["connected"]:
        lines.append("the store does not answer this control-plane node; running traffic goes on")
    lines += [f"unreadable in the store: {bad['key']}: {bad['reason']}" for bad in found["store"]["bad"]]
    for part in (_of_replicas, _of_peers, _of_certificates, _of_proxies):
        lines += part(found, now)
    return lines


def _of_replicas(found: Mapping[str, Any], now: float) -> Iterator[str]:
    for one in found["replicas"]:
        if fault := one.get("signerFault"):
            left = span(one["intermediate"]["notAfter"] - now)
            yield f"{one['replica']}: its signer does not answer: {fault}; it issues for {left} without it"
    if not found.get("leader"):
        yield "no leader is elected: nobody is marked lost until there is one"


def _of_peers(found: Mapping[str, Any], _now: float) -> Iterator[str]:
    for peer in found.get("peers") or []:
        if peer["state"] in {"lost", "refused"}:
            why = f": {peer['reason']}" if peer["reason"] else ""
            kept = "what was imported is kept"
            yield f"peer {peer['name']} is {peer['state']} for {span(peer['lostSeconds'])}{why}; {kept}"
        if peer["refused"]:
            yield f"peer {peer['name']}: {peer['refused']} items are refused; `holdfast peering describe` says why"


def _of_certificates(found: Mapping[str, Any], now: float) -> Iterator[str]:
    for name, end, begin in certificates(found):
        left = (end - now) / max(1.0, end - begin)
        if left <= 0:
            yield f"EXPIRED: {name}"
        elif left < ALARM:
            yield f"ALARM: {name} has {span(end - now)} left, {left:.0%} of its life: renewals fail"
        elif left < WARN:
            yield f"warning: {name} has {span(end - now)} left, {left:.0%} of its life: its renewal is late"


def _of_proxies(found: Mapping[str, Any], _now: float) -> Iterator[str]:
    for item in found["proxies"]["items"]:
        report = item.get("report") or {}
        for refused in report.get("rejected") or []:
            yield f"{item['node']}: {refused['object']} is refused: {refused['reason']}"
        for warning in report.get("warnings") or []:
            yield f"warning: {item['node']}: {warning}"
        if report.get("held"):
            yield f"{item['node']}: holds back a mass deletion: {report['held']}"
