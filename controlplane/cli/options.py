"""Options that commands share, and the few words they are resolved with."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from controlplane.cli.context import Connection, Flags, from_environment
from controlplane.cli.errors import CliError, Exit
from mesh.durations import DURATION
from mesh.model import KINDS, kind_named

F = TypeVar("F", bound=Callable[..., Any])


def connected(command: F) -> F:
    """Adds the connection's flags; the command gets them as one argument `flags`."""
    from functools import wraps

    @click.option("--addr", default="", help="Control plane, host:port; several separated by commas.")
    @click.option("--token-file", default="", metavar="FILE", help="File with the operator's token.")
    @click.option("--ca", default="", metavar="FILE", help="PEM file the control plane must chain to.")
    @click.option("--context", default="", help="A context of the config file.")
    @wraps(command)
    def wrapped(addr: str, token_file: str, ca: str, context: str, **rest: Any) -> Any:
        return command(flags=Flags(addr=addr, token_file=token_file, ca=ca, context=context), **rest)

    return wrapped  # type: ignore[return-value]


def output(*forms: str, default: str = "table") -> Callable[[F], F]:
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(forms),
        default=default,
        show_default=True,
        help="Form of the output.",
    )


def waits(command: F) -> F:
    """Adds --wait and what belongs to it; the command gets them as one argument `patience`."""
    from functools import wraps

    @click.option("--wait", is_flag=True, help="Return when the change is in force at every live proxy.")
    @click.option("--timeout", type=DURATION, default="60s", show_default=True, help="How long to wait.")
    @click.option("--require-all", is_flag=True, help="Wait for hosts that are offline, too.")
    @wraps(command)
    def wrapped(wait: bool, timeout: float, require_all: bool, **rest: Any) -> Any:
        if require_all and not (wait or rest.get("all_or_nothing")):
            raise click.UsageError("--require-all goes with --wait")
        return command(patience=Patience(wait, timeout, require_all), **rest)

    return wrapped  # type: ignore[return-value]


class Patience(NamedTuple):
    wait: bool
    seconds: float
    require_all: bool


def connection(flags: Flags) -> Connection:
    return from_environment(flags)


def the_kind(word: str) -> str:
    """The kind an operator means.

    Raises:
        CliError: no kind is called so.

    """
    found = kind_named(word)
    if found is None:
        import difflib

        words = [w for name, kind in KINDS.items() for w in (name.casefold(), kind.plural)]
        near = difflib.get_close_matches(word.casefold(), words, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise CliError(
            f"no kind is called {word!r}",
            code=Exit.USAGE,
            hint=hint + "kinds: " + ", ".join(sorted(kind.plural for kind in KINDS.values())),
        )
    return found


def collection(kind: str) -> str:
    return f"/v1/objects/{KINDS[kind].plural}"


def path_of(kind: str, namespace: str, name: str) -> str:
    """Of one object in the REST API."""
    from urllib.parse import quote

    middle = f"/{quote(namespace, safe='')}" if KINDS[kind].namespaced else ""
    return f"{collection(kind)}{middle}/{quote(name, safe='')}"


def namespace_of(kind: str, said: str, default: str) -> str:
    return (said or default) if KINDS[kind].namespaced else ""
