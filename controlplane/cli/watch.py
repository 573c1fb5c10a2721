"""`holdfast watch`."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import click
import msgspec

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import collection, connected, connection, namespace_of, output, the_kind
from mesh.model import KINDS

RETRY_SECONDS = 1.0


@click.command()
@click.argument("kind")
@click.option("-n", "--namespace", default="", help="Namespace; default: the context's, else `default`.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of every namespace.")
@click.option("--revision", type=int, default=0, help="Show changes from this revision on; default: from now.")
@output("table", "json")
@connected
def watch(kind: str, namespace: str, all_namespaces: bool, revision: int, form: str, flags: Flags) -> None:
    r"""Show changes of a KIND as they happen, until Ctrl-C. A broken stream is resumed where it was.

    \b
    Examples:
      holdfast watch endpoints -n shop
      holdfast watch services -A -o json | jq .object.metadata.name
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import say
    from controlplane.cli.plain import plain
    from controlplane.cli.views import rows

    kind = the_kind(kind)
    to = connection(flags)
    within = "" if all_namespaces else namespace_of(kind, namespace, to.namespace)

    def show(event: dict[str, Any]) -> None:
        if form == "json":
            click.echo(msgspec.json.encode(event).decode())
            return
        if event["type"] == "bad":
            say(f"revision {event['revision']}: {event['key']} cannot be read: {event['reason']}")
            return
        titles, cells = rows(kind, [event["object"]], wide=False, now=time.time())
        pairs = [f"{t.lower()}={c}" for t, c in zip(titles, cells[0], strict=True) if t not in {"NAME", "NAMESPACE"}]
        name = "/".join(c for t, c in zip(titles, cells[0], strict=True) if t in {"NAME", "NAMESPACE"})
        click.echo(plain(f"{event['revision']:>8}  {event['type']:<6} {name}  {' '.join(pairs)}"))

    async def run() -> None:
        async with Api(to) as api:
            async for event in changes(api, kind, within, revision):
                show(event)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        raise SystemExit(int(Exit.OK)) from None


async def changes(api: Any, kind: str, namespace: str, revision: int) -> AsyncIterator[dict[str, Any]]:
    """Changes from a revision on (0: from now), resumed after each break of the stream."""
    from controlplane.cli.output import say

    scope = {"namespace": namespace} if namespace else {}
    if not revision:
        revision = (await api.get(collection(kind), scope))["revision"] + 1
    while True:
        try:
            async for event in api.lines(f"/v1/watch/{KINDS[kind].plural}", scope | {"revision": str(revision)}):
                # One revision may change several objects: it is behind us only once a mark says so.
                mark = event["type"] == "mark"
                revision = max(revision, event["revision"] + 1 if mark else event["revision"])
                if not mark:
                    yield event
        except CliError as exc:
            if exc.exit_code != Exit.UNREACHABLE:
                raise
            say(f"{exc.message}; trying again from revision {revision}")
        await asyncio.sleep(RETRY_SECONDS)
