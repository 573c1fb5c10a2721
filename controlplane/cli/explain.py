"""`holdfast explain`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection, output

Document = Mapping[str, Any]


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="CALLER SERVICE[:PORT]")
@click.option("--method", default="GET", show_default=True, help="Of the request.")
@click.option("--path", default="/", show_default=True, help="Of the request, with its query.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Of the request; may be repeated.")
@click.option("--host", default="", metavar="NAME", help="Host of the request [<service>.<namespace>].")
@click.option("--node", default="", help="Of several hosts that run the caller, this one.")
@output("table", "json", "yaml")
@connected
def explain(
    words: tuple[str, ...], method: str, path: str, headers: tuple[str, ...], host: str, node: str,
    form: str, flags: Flags,
) -> None:  # fmt: skip
    r"""Tell what becomes of a call from one service to another, and which objects say so.

    Services are named <name>.<namespace>, those of other clusters <name>.<namespace>.<cluster>. The agents of both
    hosts answer, from the configuration that their proxies have: the route, the shares of its backends, the endpoints
    and their health, times and tries, and the rule that lets the caller in or refuses it. Of another cluster they tell
    by which gateways it is reached and who may answer. Nothing is sent to any application.

    \b
    Examples:
      holdfast explain web.shop api.shop
      holdfast explain 'web.shop -> api.shop:80' --path /cart --method POST
      holdfast explain web.shop api.shop --header 'version: two' -o json
      holdfast explain web.shop api.shop.east
      holdfast explain spiffe://west.example/ns/shop/sa/web api.shop     whether a caller of a peer is let in
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, talk
    from controlplane.cli.plain import plain

    to = connection(flags)
    body = question(words, to.namespace or "default")
    body |= {"method": method, "path": path, "headers": dict(map(header, headers)), "host": host, "node": node}

    async def work(api: Api) -> Any:
        return await api.call("POST", "/v1/explain", body=body, repeatable=True)

    found = talk(to, work, "asking the agents of both hosts", timeout=40)
    if form != "table":
        emit(found, form)
        return
    for line in lines(found, body, time.time()):
        click.echo(plain(line))


def question(words: Sequence[str], namespace: str) -> dict[str, Any]:
    """Who calls whom. Pure."""
    parts = [part for word in words for part in word.replace("->", " ").split() if part != "-"]
    if len(parts) != 2:
        hint = "such as: holdfast explain web.shop api.shop:80 (quote an arrow)"
        raise CliError("say who calls whom", code=Exit.USAGE, hint=hint)
    called, _, port = parts[1].partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= 0xFFFF):
        raise CliError(f"{port!r} is not a port", code=Exit.USAGE, hint="such as: api.shop:80")
    name, _, its = ("", "", "") if parts[0].startswith("spiffe:") else parts[0].partition(".")
    service, _, theirs = called.partition(".")
    if "." in theirs:  # <service>.<namespace>.<cluster>, which is named <service>.<cluster> in that namespace here
        theirs, _, cluster = theirs.partition(".")
        service = f"{service}.{cluster}"
    who = {"name": name} if name else {"caller": parts[0]}
    return {
        **who,
        "namespace": its or namespace,
        "service": service,
        "serviceNamespace": theirs or its or namespace,
        "port": int(port or 0),
    }


def header(text: str) -> tuple[str, str]:
    """`name: value`. Pure."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise CliError(f"{text[:80]!r} is not a header", code=Exit.USAGE, hint="such as: --header 'version: two'")
    return name.strip(), value.strip()


def lines(found: Document, asked: Document, now: float) -> list[str]:
    """The answer for people. Pure."""
    caller = found["caller"]
    if asked.get("caller"):
        shown = [f"{asked['caller']} calls {asked['service']}.{asked['serviceNamespace']} from another cluster"]
        return shown + _endpoints(caller["outcomes"][0]["service"], caller["endpoints"], found["callees"], now)
    who = f"{asked['name']}.{asked['namespace']} on {caller['node']}"
    service, _, cluster = asked["service"].partition(".")
    whom = f"{'.'.join(filter(None, (service, asked['serviceNamespace'], cluster)))} through {caller['listen']}"
    shown = [f"{who} calls {whom}: {asked['method']} {asked['path']}"]
    shown.append(f"  as {caller['spiffeId']}, {_until(caller, now)}")
    for outcome in caller["outcomes"]:
        shown += ["", *_outcome(outcome)]
        if outcome.get("service"):
            shown += _endpoints(outcome["service"], caller.get("endpoints", ()), found["callees"], now)
    return shown


def _until(side: Document, now: float) -> str:
    left = side.get("notAfter", 0.0) - now
    if not side.get("notAfter"):
        return "no certificate is held"
    return f"certificate for {left / 3600:.1f} h more" if left > 0 else "certificate has expired"


def _outcome(outcome: Document) -> list[str]:
    share = f"{100 * outcome['share']:.4g}%"
    by = f" by {_route(outcome['route'])}" if outcome.get("route") else ""
    match outcome["verdict"]:
        case "to":
            head = f"{share} goes to {outcome['service'] or outcome['cluster']}{by}"
        case "redirect":
            head = f"{share} is told to go to {outcome['location']} ({outcome['status']}){by}"
        case "deny":
            head = f"{share} is refused by {outcome['rule']} ({outcome['status']})"
        case "closed":
            head = f"{share} is closed: {outcome.get('words', '')}"
        case other:
            words = f": {outcome['words']}" if outcome.get("words") else ""
            head = f"{share} gets {other} {outcome.get('status', '')}{words}{by}"
    return [head, *(f"  {line}" for line in _details(outcome))]


def _route(name: str) -> str:
    """`HTTPRoute/shop/api/split/0` in words."""
    parts = name.split("/")
    return f"{parts[0]} {parts[1]}/{parts[2]}, rule {parts[3]}, match {parts[4]}" if len(parts) == 5 else name


def _details(outcome: Document) -> list[str]:
    if outcome["verdict"] != "to":
        return [f"because of {', '.join(outcome['objects'])}"] if outcome.get("objects") else []
    limit = outcome.get("timeoutSeconds")
    tries = f"{outcome.get('retries', 0)} more tries on {', '.join(outcome.get('retryOn', ())) or 'nothing'}"
    each = f", each {outcome['perTrySeconds']:g} s" if outcome.get("perTrySeconds") else ""
    found = [f"as {outcome.get('path', '')} of {outcome.get('host', '')}"] if outcome.get("path") else []
    found.append(f"{f'within {limit:g} s' if limit else 'without a time limit'}; {tries}{each}")
    if outcome.get("delaySeconds"):
        found.append(f"held back for {outcome['delaySeconds']:g} s by a fault")
    if outcome.get("mirrors"):
        found.append(f"with a copy to {', '.join(outcome['mirrors'])}")
    if outcome.get("objects"):
        found.append(f"made from {', '.join(outcome['objects'])}")
    return found


def _endpoints(service: str, known: Sequence[Document], callees: Sequence[Document], now: float) -> list[str]:
    answers = {(one["service"], one["node"]): one for one in callees}
    shown = []
    for one in known:
        if one["service"] != service:
            continue
        place = f" in {one['locality']}" if one.get("locality") else ""
        head = f"  {one['instance']} on {one['node']} ({one['address']}){place} is {one['health']}"
        if one.get("cluster"):
            shown += [f"{head}; it leads to cluster {one['cluster']}", *_far(one)]
            continue
        shown.append(head + _answer(answers.get((service, one["node"])), now))
    return shown or ["  no endpoint is behind it"]


def _far(one: Document) -> list[str]:
    """Of another cluster: what is known here, and where the rest is."""
    return [
        f"    as {one['sni']}, and nobody may answer but {', '.join(one['identities'])}",
        f"    whom policies of {one['cluster']} let in, `holdfast explain SPIFFE-ID SERVICE` tells there",
    ]


def _answer(side: Document | None, now: float) -> str:
    if side is None:
        return ""
    if side.get("error"):
        return f"; its agent does not say whether it lets the call in: {side['error']}"
    said = []
    for outcome in side["outcomes"]:
        if outcome["verdict"] == "to":
            limits = f" (limited by {', '.join(outcome['limits'])})" if outcome.get("limits") else ""
            said.append(f"lets it in by {outcome.get('rule') or 'no rule'}{limits}")
        elif outcome["verdict"] == "deny":
            said.append(f"refuses it by {outcome['rule']}")
        else:
            said.append(f"{outcome['verdict']} {outcome.get('status', '') or outcome.get('words', '')}".strip())
    return f"; {' or '.join(said)}; {_until(side, now)}"
