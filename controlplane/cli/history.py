"""`holdfast history`."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection, output, the_kind
from controlplane.cli.views import when
from mesh.model import KINDS

Document = Mapping[str, Any]
PAGE = 500
"""The most that the API gives in one answer."""
TITLES = ["WHEN", "WHO", "WHAT", "REVISION", "ID"]
NAMED = 3
"""Objects of one entry that the table names."""


@click.group(invoke_without_command=True)
@click.option("--object", "wanted", default="", metavar="KIND/NS/NAME", help="Only entries that changed this object.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many entries, at most.")
@output("table", "json", "yaml")
@connected
@click.pass_context
def history(ctx: click.Context, wanted: str, limit: int, form: str, flags: Flags) -> None:
    r"""Show who changed which objects and when, the newest first.

    Kept are the last 1,000 applies and deletes that changed something, for at most 30 days.

    \b
    Examples:
      holdfast history
      holdfast history --object service/shop/api --limit 5
      holdfast history show 1234
    """
    if ctx.invoked_subcommand is not None:
        return
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, say, table, talk

    query = {"object": _object(wanted)} if wanted else {}

    async def work(api: Api) -> list[Any]:
        found: list[Any] = []
        before: dict[str, str] = {}
        while len(found) < limit:
            page = await api.get("/v1/history", query | before | {"limit": str(min(PAGE, limit - len(found)))})
            for bad in page["bad"]:
                say(f"unreadable in the store: {bad['key']}: {bad['reason']}")
            found += page["items"]
            if not page["next"]:
                break
            before = {"before": page["next"]}
        return found

    items = talk(connection(flags), work, "reading the history")
    if form != "table":
        emit({"items": items}, form)
    elif items:
        table(TITLES, [row(item) for item in items])
    else:
        say("the history is empty" if not wanted else f"nothing of the history changed {wanted}")


def _object(text: str) -> str:
    """`svc/shop/api` as the API names it."""
    word, _, place = text.partition("/")
    kind = the_kind(word)
    if len(place.split("/")) != (2 if KINDS[kind].namespaced else 1):
        shape = "KIND/NAMESPACE/NAME" if KINDS[kind].namespaced else "KIND/NAME"
        raise CliError(f"{text!r} names no object", code=Exit.USAGE, hint=f"a {kind} is named {shape}")
    return f"{kind}/{place}"


def row(item: Document) -> list[str]:
    """One line of the table. Pure."""
    objects = [f"{touched['object']} {touched['action']}" for touched in item["objects"]]
    hidden = len(objects[NAMED:]) + item["more"]
    what = ", ".join(objects[:NAMED]) + (f" and {hidden} more" if hidden else "")
    return [when(item["moment"]), who(item), what, str(item["revision"] or "-"), item["id"]]


def who(item: Document) -> str:
    return str(item["author"]).removeprefix("operator:")


@history.command()
@click.argument("entry")
@output("diff", "json", "yaml", default="diff")
@connected
def show(entry: str, form: str, flags: Flags) -> None:
    r"""Show what one entry changed, object by object. ENTRY is a revision or an id of `holdfast history`.

    \b
    Examples:
      holdfast history show 1234
      holdfast history show 1760000000000-5f3a9c01 -o yaml
    """
    from urllib.parse import quote

    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, talk
    from controlplane.cli.plain import plain

    async def work(api: Api) -> Any:
        return await api.get(f"/v1/history/{quote(entry, safe='')}")

    found = talk(connection(flags), work, "reading the history")
    if form != "diff":
        emit(found, form)
        return
    revision = f", revision {found['revision']}" if found["revision"] else ", before the store was restored"
    click.echo(plain(f"{found['id']}{revision}: {found['source']} by {who(found)} at {when(found['moment'])}"))
    for line in (line for detail in found["objects"] for line in difference(detail)):
        click.echo(click.style(plain(line), fg=COLOURS.get(line[:1])))
    if found["more"]:
        click.echo(f"and {found['more']} objects that are not named, for want of room")


COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def difference(detail: Document) -> Iterable[str]:
    """One object as a unified diff of YAML. Pure."""
    yield ""
    yield f"{detail['object']} {detail['action']}"
    if detail.get("note"):
        yield f"({detail['note']})"
    name = detail["object"]
    before, after = _lines(detail.get("before")), _lines(detail.get("after"))
    yield from difflib.unified_diff(before, after, f"{name} (before)", f"{name} (after)", lineterm="")


def _lines(document: Document | None) -> list[str]:
    """Without the generation, which changes with every change."""
    if document is None:
        return []
    import yaml

    metadata = {k: v for k, v in document.get("metadata", {}).items() if k != "generation"}
    text: str = yaml.safe_dump({**document, "metadata": metadata}, sort_keys=False, allow_unicode=True)
    return text.splitlines()
