"""`holdfast peering`."""

from collections.abc import Mapping
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import connected, connection, output, path_of
from mesh.durations import DURATION, spelled

SECONDS = 130.0
"""For a call that waits for the other cluster."""


@click.group()
def peering() -> None:
    """Make and keep peerings with other clusters.

    A Peering's spec.addresses is the peer's to say: each of its sessions overwrites what is written there by hand.
    Others for good are set on its side, as peerAddresses in controlplane.yaml.
    """


@peering.command()
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="How long the token may be used.")
@click.option("--out", type=click.Path(dir_okay=False), default="", help="Write the token to this file (mode 0600).")
@click.option("--for", "peer", default="", metavar="CLUSTER", help="Only this cluster may use it, also to peer anew.")
@output("table", "json", "yaml")
@connected
def token(ttl: float, out: str, peer: str, form: str, flags: Flags) -> None:
    r"""Make a one-time token with which another cluster becomes a peer of this one.

    Carry it there as the secret that it is, and give it to `holdfast peering accept`. It names this cluster, its
    addresses and the pin of its root, so the other side knows whom it talks to. The first cluster that shows it uses
    it up. One that is a peer already, and comes with other roots than before, needs a token made --for it: nobody else
    may take its place.

    \b
    Examples:
      holdfast peering token --for west
      holdfast peering token --out to-west.token
      holdfast peering token --ttl 15m | ssh admin@west holdfast peering accept -
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, say, talk

    async def work(api: Api) -> Any:
        return await api.call("POST", "/v1/peering/tokens", body={"ttlSeconds": int(ttl), "peer": peer})

    answer = talk(connection(flags), work, "making a token")
    if out:
        from controlplane.cli.secretfile import write_secret

        write_secret(out, answer["token"] + "\n")
        say(f"peering token written to {out}")
    elif form != "table":
        emit(answer, form)
    else:
        click.echo(answer["token"])
        say(f"for one cluster, within {spelled(ttl)}. There:\n  holdfast peering accept FILE-WITH-THIS-TOKEN")


@peering.command()
@click.argument("file", type=click.File("r"))
@click.option("--anew", is_flag=True, help="It is a peer already, was set up anew, and has other roots now.")
@output("table", "json", "yaml")
@connected
def accept(file: Any, anew: bool, form: str, flags: Flags) -> None:
    r"""Use another cluster's peering token, read from FILE: afterwards both have a Peering with each other.

    Nothing is exported yet, either way: that is what an ExportPolicy is for. The call may be repeated if its answer
    was lost. The Peering's addresses are those of the token until the peer tells others, which it does in each session.

    \b
    Examples:
      holdfast peering accept to-west.token
      holdfast peering accept --context west - < to-west.token
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, say, talk

    text = file.read(16 * 1024).strip()

    async def work(api: Api) -> Any:
        return await api.call("POST", "/v1/peering/accept", body={"token": text, "anew": anew}, repeatable=True)

    answer = talk(connection(flags), work, "asking the other cluster", timeout=SECONDS)
    if form != "table":
        emit(answer, form)
        return
    made = answer["peering"]
    name = made["metadata"]["name"]
    click.echo(f"peered with {name} (trust domain {made['spec']['trustDomain']})")
    say(f"`holdfast peering describe {name}` tells how it is; an ExportPolicy says what {name} may know")


@peering.command("list")
@output("table", "json", "yaml")
@connected
def list_(form: str, flags: Flags) -> None:
    r"""List the peers and how each of them is.

    \b
    Examples:
      holdfast peering list
      holdfast peering list -o json | jq '.items[] | select(.state != "connected")'
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, table, talk

    async def work(api: Api) -> Any:
        return await api.get("/v1/peerings")

    found = talk(connection(flags), work, "asking the control plane")
    if form != "table":
        emit(found, form)
        return
    table(
        ["PEER", "TRUST DOMAIN", "STATE", "IMPORTED", "EXPORTED", "REFUSED"],
        [
            [p["name"], p["trustDomain"], standing(p), str(p["imported"]), str(p["exported"]), str(p["refused"])]
            for p in found["items"]
        ],
    )


@peering.command()
@click.argument("name")
@output("table", "json", "yaml")
@connected
def describe(name: str, form: str, flags: Flags) -> None:
    r"""Show a peer: its state and since when, what goes in and out, and what is refused and why.

    Its addresses are those that it told last; what is written over them by hand lasts until its next session.

    \b
    Examples:
      holdfast peering describe east
      holdfast peering describe east -o json | jq .rejected
    """
    from urllib.parse import quote

    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, talk
    from controlplane.cli.plain import plain

    async def work(api: Api) -> Any:
        return await api.get(f"/v1/peerings/{quote(name, safe='')}")

    found = talk(connection(flags), work, "asking the control plane")
    if form != "table":
        emit(found, form)
        return
    for line in described(found):
        click.echo(plain(line))


def standing(peer: Mapping[str, Any]) -> str:
    """A peer's state in a word or two. Pure."""
    from controlplane.cli.views import span

    if peer["state"] == "connected":
        return "connected"
    return f"{peer['state']} for {span(peer['lostSeconds'] or peer['sinceSeconds'])}"


def described(peer: Mapping[str, Any]) -> list[str]:
    """A peer in lines. Pure."""
    spec, bundle, serving = peer["spec"], peer.get("bundle"), peer["serving"]
    lag = peer.get("lagSeconds")
    lines = [
        f"peer           {peer['name']}, trust domain {peer['trustDomain']}",
        f"state          {standing(peer)}" + (f": {peer['reason']}" if peer["reason"] else ""),
        f"addresses      {', '.join(spec.get('addresses') or []) or 'none'}",
        f"served by      {peer['servedBy'] or '-'}"
        + (f", last offer written after {lag * 1000:.1f} ms" if lag else ""),
        "trust bundle   " + (f"sequence {bundle['sequence']}, {bundle['roots']} roots" if bundle else "NOT KNOWN"),
        f"imported       {peer['imported']} services, {peer['endpoints']} endpoints, {peer['refused']} refused",
        f"exported       {peer['exported']} services, {serving['sessions']} sessions at {serving['replica']}",
        f"networks       {', '.join(spec.get('networks') or []) or 'any'}",
        f"reached by     {'its gateways' if spec.get('exposes', 'Gateway') == 'Gateway' else 'each instance of ours'}",
    ]
    lines += [f"  imports      {name}" for name in peer["services"][:50]]
    lines += [f"  not whole    {name} has more endpoints there than are told" for name in peer["cut"][:50]]
    lines += [f"  refused      {key}: {reason}" for key, reason in peer["rejected"].items()]
    lines += [f"  refused there {key}: {reason}" for key, reason in serving["rejectedThere"].items()]
    if peer["lostSeconds"] and not spec.get("removeAfter"):
        lines.append(
            "what was imported stays until the peer is back, or the peering is deleted (spec.removeAfter is not set)"
        )
    return lines


@peering.command()
@click.argument("name")
@connected
def pause(name: str, flags: Flags) -> None:
    r"""Stop telling and hearing a peer; what was imported stays as it is.

    \b
    Examples:
      holdfast peering pause east
    """
    _change(name, flags, paused=True)


@peering.command()
@click.argument("name")
@connected
def resume(name: str, flags: Flags) -> None:
    r"""Go on with a peer that was paused: what changed meanwhile is sent.

    \b
    Examples:
      holdfast peering resume east
    """
    _change(name, flags, paused=False)


def _change(name: str, flags: Flags, *, paused: bool) -> None:
    from controlplane.cli.client import Api
    from controlplane.cli.output import say, talk

    path = path_of("Peering", "", name)

    async def work(api: Api) -> None:
        found = await api.get(path)
        found.pop("status", None)
        found["spec"]["paused"] = paused
        await api.call("PUT", path, body=found)

    talk(connection(flags), work, "writing the Peering")
    say(f"{name}: {'paused; its imports stay as they are' if paused else 'resumed'}")


@peering.command()
@click.argument("name")
@connected
def delete(name: str, flags: Flags) -> None:
    r"""End a peering: what was imported of the peer goes, and so does its trust bundle.

    The peer is told, and keeps its side, with what it imported, until it is deleted there as well. To be peers again
    takes a new token.

    \b
    Examples:
      holdfast peering delete east
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import say, talk

    async def work(api: Api) -> Any:
        return await api.call("DELETE", path_of("Peering", "", name))

    try:
        talk(connection(flags), work, "deleting the Peering")
    except CliError as exc:
        if exc.exit_code == Exit.NOT_FOUND:
            raise CliError(
                f"there is no peering {name!r}", code=Exit.NOT_FOUND, hint="`holdfast peering list`"
            ) from exc
        raise
    say(f"{name}: no peer any more. There, `holdfast peering delete` removes what it imported of this cluster")
