"""`holdfast operator`."""

import time
from typing import Any
from urllib.parse import quote

import click

from controlplane.cli.context import Flags
from controlplane.cli.errors import CliError
from controlplane.cli.options import connected, connection, output
from mesh.durations import DURATION


@click.group()
def operator() -> None:
    """Make, list and end the tokens of operators: people, and programs that read the API."""


@operator.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["viewer", "admin"]),
    default="viewer",
    show_default=True,
    help="A viewer reads; an admin also changes things and makes tokens.",
)
@click.option("--ttl", type=DURATION, default="30d", show_default=True, help="How long the token counts; 366d at most.")
@click.option("--out", type=click.Path(dir_okay=False), default="", help="Write the token to this file (mode 0600).")
@output("table", "json", "yaml")
@connected
def create(name: str, role: str, ttl: float, out: str, form: str, flags: Flags) -> None:
    r"""Make a token for the operator called NAME. It is shown once.

    An operator may have several tokens, so that a new one is in use before the old one ends.

    \b
    Examples:
      holdfast operator create prometheus --ttl 366d --out prometheus.token
      holdfast operator create alice --role admin --ttl 12h
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, say, talk
    from controlplane.cli.views import when

    body = {"name": name, "role": role, "ttlSeconds": int(ttl)}

    async def work(api: Api) -> Any:
        return await api.call("POST", "/v1/operators", body=body)

    made = talk(connection(flags), work, "making a token")
    if out:
        from controlplane.cli.secretfile import write_secret

        write_secret(out, made["token"] + "\n")
        say(f"token of {role} {name}, until {when(made['expires'])}, written to {out}")
    elif form != "table":
        emit(made, form)
    else:
        click.echo(made["token"])
        say(f"of {role} {name}, until {when(made['expires'])}; it is kept nowhere else")


@operator.command("list")
@output("table", "json", "yaml")
@connected
def list_(form: str, flags: Flags) -> None:
    r"""Show whose tokens there are, and until when. Not the tokens: those are kept nowhere.

    \b
    Examples:
      holdfast operator list
      holdfast operator list -o json
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import emit, table, talk
    from controlplane.cli.views import when

    async def work(api: Api) -> Any:
        return await api.get("/v1/operators")

    found = talk(connection(flags), work, "asking for operators")
    if form != "table":
        emit(found, form)
        return
    now = time.time()
    items = sorted(found["items"], key=lambda one: (one["name"], one["expires"]))
    rows = [
        (one["name"], one["role"], when(one["expires"]) + (" (ended)" if one["expires"] < now else ""), one["id"])
        for one in items
    ]
    table(("NAME", "ROLE", "UNTIL", "ID"), rows)


@operator.command()
@click.argument("name")
@click.option("--myself", is_flag=True, help="Also if it is the operator whose token this command uses.")
@connected
def delete(name: str, myself: bool, flags: Flags) -> None:
    r"""End all tokens of the operator called NAME, now.

    \b
    Examples:
      holdfast operator delete prometheus
    """
    from controlplane.cli.client import Api
    from controlplane.cli.output import say, talk

    async def work(api: Api) -> Any:
        if not myself and (await api.get("/v1/whoami"))["name"] == name:
            raise CliError(
                f"{name} is you: this command's own token would end",
                hint="use another administrator's token, or say --myself",
            )
        return await api.call("DELETE", f"/v1/operators/{quote(name, safe='')}")

    ended = talk(connection(flags), work, "ending tokens")["deleted"]
    say(f"{name}: {ended} token{'' if ended == 1 else 's'} ended")
