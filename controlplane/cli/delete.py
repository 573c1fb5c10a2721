"""`holdfast delete`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.options import Patience, connected, connection, namespace_of, path_of, the_kind, waits

if TYPE_CHECKING:
    from controlplane.cli.files import Source


@click.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option("-n", "--namespace", default="", help="Namespace; default: the context's, else `default`.")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE|DIR|-", help="Delete what these files describe.")
@click.option("--ignore-missing", is_flag=True, help="An object that is not there is no error.")
@waits
@connected
def delete(
    kind: str | None,
    name: str | None,
    namespace: str,
    files: tuple[str, ...],
    ignore_missing: bool,
    patience: Patience,
    flags: Flags,
) -> None:
    r"""Delete one object by KIND and NAME, or all objects of files, these in one transaction.

    \b
    Examples:
      holdfast delete service api -n shop
      holdfast delete -f shop.yaml --ignore-missing
      holdfast delete authz web-to-api -n shop --wait
    """
    from controlplane.cli.output import say

    if bool(files) == bool(kind) or (kind and not name):
        raise click.UsageError("name what to delete: either KIND and NAME, or -f")
    to = connection(flags)
    if kind and name:
        kind = the_kind(kind)
        path = path_of(kind, namespace_of(kind, namespace, to.namespace), name)
        answer = _one(to, path, ignore_missing=ignore_missing)
        say(f"{kind} {name} deleted" if answer["results"] else f"{kind} {name} was not there")
    else:
        answer = _all(to, files, ignore_missing=ignore_missing)
        for line in [f"{r['object']} {r['action']}" for r in answer["results"]] or ["none of them was there"]:
            say(line)
    if patience.wait:
        from controlplane.cli.settle import conclude, settle

        conclude(settle(to, answer["waitFor"], [r["object"] for r in answer["results"]], patience))


NOTHING: dict[str, Any] = {"results": [], "waitFor": 0}


def _one(to: Any, path: str, *, ignore_missing: bool) -> Any:
    """What was deleted; NOTHING if it was not there."""
    from controlplane.cli.client import Api
    from controlplane.cli.errors import CliError, Exit
    from controlplane.cli.output import talk

    async def work(api: Api) -> Any:
        return await api.call("DELETE", path)

    try:
        return talk(to, work, "deleting")
    except CliError as exc:
        if exc.exit_code != Exit.NOT_FOUND or not ignore_missing:
            raise
        return NOTHING


def _all(to: Any, files: tuple[str, ...], *, ignore_missing: bool) -> Any:
    from controlplane.cli.client import Api
    from controlplane.cli.files import read
    from controlplane.cli.output import talk

    refs = refs_of(read(files), to.namespace)

    async def work(api: Api) -> Any:
        wanted = refs
        if ignore_missing:
            wanted = [ref for ref in refs if await _exists(api, ref)]
        if not wanted:
            return NOTHING
        return await api.call("POST", "/v1/apply", body={"objects": [], "delete": wanted, "dryRun": False})

    return talk(to, work, f"deleting {len(refs)} objects", timeout=60)


def refs_of(sources: Iterable["Source"], namespace: str) -> list[dict[str, str]]:
    """The objects of files by their names, as an apply deletes them."""
    from controlplane.cli.errors import CliError, Exit

    refs = []
    for document, origin in sources:
        kind, metadata = the_kind(str(document.get("kind", ""))), document.get("metadata") or {}
        if not metadata.get("name"):
            raise CliError(f"{origin}: metadata.name is missing", code=Exit.REFUSED)
        within = namespace_of(kind, metadata.get("namespace", ""), namespace)
        refs.append({"kind": kind, "namespace": within, "name": metadata["name"]})
    return refs


async def _exists(api: Any, ref: dict[str, str]) -> bool:
    from controlplane.cli.errors import CliError, Exit

    try:
        await api.get(path_of(ref["kind"], ref["namespace"], ref["name"]))
    except CliError as exc:
        if exc.exit_code == Exit.NOT_FOUND:
            return False
        raise
    return True
