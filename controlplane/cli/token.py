"""`holdfast token`."""

import re
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.options import connected, connection, output, seconds


@click.group()
def token() -> None:
    """Make tokens with which hosts join."""


@token.command()
@click.argument("node")
@click.option(
    "-i", "--identity", "identities", multiple=True, metavar="NAMESPACE/ACCOUNT", help="An identity the host may run."
)
@click.option("--gate", is_flag=True, help="The host is a store gate as well.")
@click.option("--ttl", default="1h", show_default=True, help="How long the token may be used.")
@click.option("--out", type=click.Path(dir_okay=False), default="", help="Write the token to this file (mode 0600).")
@output("table", "json", "yaml")
@connected
def create(node: str, identities: tuple[str, ...], gate: bool, ttl: str, out: str, form: str, flags: Flags) -> None:
    r"""Make a one-time token with which the host called NODE joins the mesh.

    The token names what the host may run; it is used up by the first key that joins with it.

    \b
    Examples:
      holdfast token create web-1 -i shop/web
      holdfast token create gate-1 --gate --ttl 15m --out gate-1.token
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, say, talk

    for identity in identities:
        if not re.fullmatch(r"[^/]+/[^/]+", identity):
            raise click.BadParameter(f"{identity!r} is not <namespace>/<service account>", param_hint="--identity")
    body = {
        "node": node,
        "identities": list(identities),
        "roles": ["agent", "gate"] if gate else ["agent"],
        "ttlSeconds": seconds(ttl),
    }

    async def work(api: Api) -> Any:
        return await api.call("POST", "/v1/tokens", body=body)

    answer = talk(connection(flags), work, "making a token")
    if out:
        from controlplane.cli.secretfile import write_secret

        write_secret(out, answer["token"] + "\n")
        say(f"token for {node} written to {out}")
    elif form != "table":
        emit(answer, form)
    else:
        click.echo(answer["token"])
        say(f"for {node}, once, within {ttl}. On the host:")
        say("  holdfast-agent join --config /etc/holdfast/agent.yaml --token-file FILE-WITH-THIS-TOKEN")
