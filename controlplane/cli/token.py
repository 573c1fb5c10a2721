"""`holdfast token`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from controlplane.cli.context import Flags
from controlplane.cli.options import connected, connection, output
from mesh.durations import DURATION, spelled

NO_LINE = (
    "the control plane serves no distribution folder with an installer: make one with `holdfast dist build`; "
    "store gates are set up by hand or by the Ansible collection"
)


@click.group()
def token() -> None:
    """Make tokens with which hosts join."""


@token.command()
@click.argument("node")
@click.option(
    "-i", "--identity", "identities", multiple=True, metavar="NAMESPACE/ACCOUNT", help="An identity the host may run."
)
@click.option("--gate", is_flag=True, help="The host is a store gate as well.")
@click.option("--gateway", is_flag=True, help="The host passes calls between clusters as well.")
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="How long the token may be used.")
@click.option("--out", type=click.Path(dir_okay=False), default="", help="Write the token to this file (mode 0600).")
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME:PORT[:PROTOCOL]",
    help="The line: a local service to register.",
)
@click.option("--address", default="", help="The line: where other hosts reach it, if it cannot tell by itself (NAT).")
@click.option("--bind", default="", help="The line: where its Envoy listens, if not at that address.")
@click.option("--line", "only_line", is_flag=True, help="Print the line for a bare host, and nothing else.")
@output("table", "json", "yaml")
@connected
def create(
    node: str,
    identities: tuple[str, ...],
    gate: bool,
    gateway: bool,
    ttl: float,
    out: str,
    services: tuple[str, ...],
    address: str,
    bind: str,
    only_line: bool,
    form: str,
    flags: Flags,
) -> None:
    r"""Make a one-time token with which the host called NODE joins the mesh.

    The token names what the host may run; it is used up by the first key that joins with it.

    If the control plane serves a distribution folder (`holdfast dist build`), this also tells the one line to paste
    on a bare host: it installs the agent and Envoy, joins, registers the services, and starts all of it.

    \b
    Examples:
      holdfast token create web-1 -i shop/web
      holdfast token create web-1 -i shop/web --service web:8080:http --line | ssh root@web-1 sh
      holdfast token create gate-1 --gate --ttl 15m --out gate-1.token
      holdfast token create gw-1 --gateway --out gw-1.token
      holdfast token create gw-1 --gateway --address 203.0.113.9 --bind 10.0.0.9 --line | ssh root@gw-1 sh
    """
    from controlplane.cli.client import Api
    from controlplane.cli.errors import CliError
    from controlplane.cli.output import emit, say, talk
    from controlplane.cli.paste import line

    _check(identities, services, {"--address": address, "--bind": bind})
    body = {
        "node": node,
        "identities": list(identities),
        "roles": ["agent", *(["gate"] if gate else []), *(["gateway"] if gateway else [])],
        "ttlSeconds": int(ttl),
    }

    async def work(api: Api) -> Any:
        return await api.call("POST", "/v1/tokens", body=body)

    answer = talk(connection(flags), work, "making a token")
    if (install := answer.get("install")) and not gate:
        answer["line"] = line(
            token=answer["token"],
            url=install["url"],
            manifest_sha256=install["manifestSha256"],
            node=node,
            services=services,
            identities=identities,
            gateway=gateway,
            address=address,
            bind=bind,
        )
    if only_line:
        if "line" not in answer:
            raise CliError("there is no line for this host", hint=NO_LINE)
        click.echo(answer["line"])
    elif out:
        from controlplane.cli.secretfile import write_secret

        write_secret(out, answer["token"] + "\n")
        say(f"token for {node} written to {out}")
    elif form != "table":
        emit(answer, form)
    else:
        click.echo(answer["token"])
        say(f"for {node}, once, within {spelled(ttl)}. On the host:")
        say("  holdfast-agent join --config /etc/holdfast/agent.yaml --token-file FILE-WITH-THIS-TOKEN")
        if "line" in answer:
            say(f"or, on a bare host with Python and nothing else, as root, this one line:\n\n{answer['line']}\n")


def _check(identities: Sequence[str], services: Sequence[str], addresses: Mapping[str, str]) -> None:
    """What the control plane would refuse, or only the host would see."""
    from mesh.model.checks import address_fault

    for identity in identities:
        if not re.fullmatch(r"[^/]+/[^/]+", identity):
            raise click.BadParameter(f"{identity!r} is not <namespace>/<service account>", param_hint="--identity")
    for service in services:
        if not re.fullmatch(r"([a-z0-9-]+/)?[a-z0-9-]+:[0-9]{1,5}(:[a-z0-9]+)?", service):
            raise click.BadParameter(f"{service!r} is not [namespace/]name:port[:protocol]", param_hint="--service")
    for option, address in addresses.items():
        if address and (fault := address_fault(address)):
            raise click.BadParameter(fault, param_hint=option)
