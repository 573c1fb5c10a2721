"""`holdfast apply`."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError
from controlplane.cli.options import Patience, connected, connection, output, waits

if TYPE_CHECKING:
    from controlplane.cli.files import Source


@click.command()
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE|DIR|-", help="What to apply.")
@click.option("--dry-run", is_flag=True, help="Check and compare, but write nothing.")
@click.option(
    "--all-or-nothing", is_flag=True, help="Every Envoy judges it first; what one refuses afterwards is put back."
)
@waits
@output("table", "json", "yaml")
@connected
def apply(
    files: tuple[str, ...], dry_run: bool, all_or_nothing: bool, patience: Patience, form: str, flags: Flags
) -> None:
    r"""Write all objects of FILE, DIR or stdin (-) in one transaction: all of them, or nothing.

    An object that carries metadata.resourceVersion is written only if nobody changed it since.

    With --wait it returns when all of it is in force at every live proxy, and names those that lack it otherwise;
    exit code 3 then. Hosts that are offline are named, and waited for with --require-all only.

    With --all-or-nothing every connected agent first has an Envoy judge the changed configuration: if one refuses it,
    or cannot be asked, nothing is written. Then it waits as --wait does; if a proxy refuses an object after all, the
    objects are put back to what they were, in one transaction, and the exit code is 3.

    \b
    Examples:
      holdfast apply -f shop.yaml
      holdfast apply -f deploy/ --dry-run
      holdfast apply -f deploy/ --wait --timeout 2m
      holdfast apply -f deploy/ --all-or-nothing
      holdfast get svc api -n shop -o yaml | sed s/http/http2/ | holdfast apply -f -
    """
    from controlplane.cli.client import Api
    from controlplane.cli.files import read
    from controlplane.cli.output import emit, say, table, talk

    if dry_run and (patience.wait or all_or_nothing):
        raise click.UsageError("--dry-run writes nothing: there is nothing to wait for; `holdfast plan` tells more")
    sources = read(files)
    to = connection(flags)
    if all_or_nothing:
        from controlplane.cli.checked import apply_checked

        apply_checked(to, sources, patience, form)
        return
    body = {"objects": objects_of(sources), "delete": [], "dryRun": dry_run}

    async def work(api: Api) -> Any:
        # Applying the same objects again changes nothing, so a lost answer may be repeated at another node.
        return await api.call("POST", "/v1/apply", body=body, repeatable=True)

    try:
        answer = talk(to, work, f"applying {len(sources)} objects", timeout=60)
    except CliError as exc:
        raise located(exc, {name_of(s.document): s.origin for s in sources}) from None
    if form == "table":
        table(
            ["OBJECT", "ACTION"],
            [[r["object"], r["action"] + (" (dry run)" if dry_run else "")] for r in answer["results"]],
        )
        nothing = "nothing was written (dry run), " if dry_run else ""
        say(f"{nothing}revision {answer['revision']}")
        warn(answer)
    if patience.wait:
        from controlplane.cli.settle import conclude, settle

        answer["wait"] = settle(to, answer["waitFor"], [r["object"] for r in answer["results"]], patience)
    if form != "table":
        emit(answer, form)
    if patience.wait:
        conclude(answer["wait"])


def warn(answer: Mapping[str, Any]) -> None:
    """Say what was written and yet does not do what it says."""
    from controlplane.cli.output import say

    for one in answer["warnings"]:
        say(f"warning: {one['object']}: {one['condition']} is false, {one['reason']}: {one['message']}")


def objects_of(sources: Iterable["Source"]) -> list[dict[str, Any]]:
    """What `get -o yaml` prints can be applied again: status is the mesh's word, never an operator's."""
    return [{k: v for k, v in s.document.items() if k != "status"} for s in sources]


def name_of(document: dict[str, Any]) -> str:
    """As the control plane names the object in a violation: `Kind namespace/name`."""
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{document.get('kind', '?')} {place}{metadata.get('name', '?')}"


def located(error: CliError, origins: dict[str, str]) -> CliError:
    """The same error, with the file in front of each violation whose object came from one."""
    details = []
    for detail in error.details:
        known = [origin for name, origin in origins.items() if detail.startswith((name + " ", name + ":"))]
        details.append(f"{known[0]}: {detail}" if known else detail)
    error.details = tuple(details)
    return error
