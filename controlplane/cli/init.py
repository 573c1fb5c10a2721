"""`holdfast init`."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from controlplane.cli.errors import CliError, Exit
from controlplane.cli.options import output


@click.group()
def init() -> None:
    r"""Set up a new mesh: etcd's certificates first, then, with etcd running, the mesh itself.

    \b
    Examples:
      holdfast init etcd-certs --dir pki --member etcd-1=10.0.0.1 --member etcd-2=10.0.0.2 --member etcd-3=10.0.0.3
      holdfast init mesh --config controlplane.yaml --trust-domain prod.example --cluster prod \
          --etcd-root-cert pki/root.pem --etcd-root-key pki/root-key.pem --token-file admin.token --ca-file ca.pem
    """


def _where(command: Any) -> Any:
    """The options that both kinds of certificates have."""
    for option in (
        click.option(
            "--pipe", is_flag=True,
            help="The CA's certificate and key come from stdin (nothing: a new CA), and all goes to stdout as JSON.",
        ),
        click.option("--renew", is_flag=True, help="Keep the CA that is there, and make everything else anew."),
        click.option("--member", "members", multiple=True, metavar="NAME=ADDR[,ADDR]", help="A member, its addresses."),
        click.option("--dir", "folder", type=click.Path(file_okay=False), help="Where to put them; made if missing."),
    ):  # fmt: skip
        command = option(command)
    return command


@init.command("etcd-certs")
@_where
def etcd_certs(folder: str | None, members: tuple[str, ...], renew: bool, pipe: bool) -> None:
    r"""Make etcd's own CA, a certificate for each member, and one for each of its users.

    The CA is etcd's alone, never the mesh's. Keep ca-key.pem off the members: it is only needed here, for --renew.

    \b
    Examples:
      holdfast init etcd-certs --dir pki --member etcd-1=10.0.0.1 --member etcd-2=10.0.0.2,etcd-2.example
      holdfast init etcd-certs --dir pki --member etcd-4=10.0.0.4 --renew
      cat pki/ca.pem pki/ca-key.pem | holdfast init etcd-certs --pipe --member etcd-4=10.0.0.4
    """
    from controlplane import etcd_pki

    now = time.time()
    seats = _seats(members)
    users = (etcd_pki.ROOT_USER, etcd_pki.CONTROLPLANE_USER, etcd_pki.GATE_USER)
    if taken := [name for name, _ in seats if name in users]:
        raise click.BadParameter(f"{taken[0]} is a user's name, not a member's", param_hint="--member")

    def make(ca: Any) -> dict[str, Any]:
        pairs = {name: etcd_pki.make_member(ca, name, addresses, now) for name, addresses in seats}
        return pairs | {user: etcd_pki.make_client(ca, user, now) for user in users}

    _give(_Order(folder, seats, renew, pipe), "holdfast etcd CA", make, "docs/operations.md has its flags")


@init.command("openbao-certs")
@_where
def openbao_certs(folder: str | None, members: tuple[str, ...], renew: bool, pipe: bool) -> None:
    r"""Make a CA for OpenBao's own TLS, and a certificate for each of its members.

    It has nothing to do with the mesh's certificates, which OpenBao signs. Keep ca-key.pem off the members.

    \b
    Examples:
      holdfast init openbao-certs --dir bao-pki --member bao-1=10.0.0.1 --member bao-2=10.0.0.2,bao-2.example
      holdfast init openbao-certs --dir bao-pki --member bao-3=10.0.0.3 --renew
    """
    from controlplane import etcd_pki

    now = time.time()
    seats = _seats(members)

    def make(ca: Any) -> dict[str, Any]:
        return {name: etcd_pki.make_openbao_member(ca, name, addresses, now) for name, addresses in seats}

    order = _Order(folder, seats, renew, pipe)
    _give(order, "holdfast OpenBao CA", make, "Control-plane nodes take ca.pem for signer.caFile")


class _Order(NamedTuple):
    folder: str | None
    seats: list[tuple[str, list[str]]]
    renew: bool
    pipe: bool


def _give(order: _Order, ca_name: str, make: Callable[[Any], dict[str, Any]], hint: str) -> None:
    """Into a folder, or as JSON through pipes: `{"ca": {"cert", "key"}, "<name>": {"cert", "key"}, …}`, all of it PEM.

    The CA's key is there only if it is a new one.
    """
    from controlplane import etcd_pki
    from controlplane.cli.output import say

    if bool(order.folder) == order.pipe or (order.pipe and order.renew):
        raise click.UsageError("give --dir, or --pipe without --dir and --renew")
    if order.pipe:
        given = sys.stdin.buffer.read()
        ca = _piped(given) if given.strip() else etcd_pki.make_ca(time.time(), ca_name)
        pairs = {"ca": ca, **(make(ca) if order.seats else {})}
        made = {name: {"cert": pair.cert.decode(), "key": pair.key.decode()} for name, pair in pairs.items()}
        if given.strip():
            del made["ca"]["key"]
        click.echo(json.dumps(made))
        return
    if not order.seats:
        raise click.UsageError("give at least one --member")
    root = Path(order.folder or "")
    pairs = make(_ca(root, ca_name, time.time(), renew=order.renew))
    for name, pair in pairs.items():
        _write(root / f"{name}.pem", pair.cert, private=False, replace=order.renew)
        _write(root / f"{name}-key.pem", pair.key, private=True, replace=order.renew)
    for name in ("ca", *pairs):
        click.echo(str(root / f"{name}.pem"))
    say(f"each with its key in <name>-key.pem (0600). A member takes its own pair and ca.pem. {hint}")


def _piped(given: bytes) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    from controlplane import etcd_pki

    try:
        cert = x509.load_pem_x509_certificate(given)
        key = serialization.load_pem_private_key(given[given.index(b"-----BEGIN PRIVATE KEY") :], None)
    except ValueError as exc:
        raise CliError("stdin is no CA", hint="its certificate, then its key: cat ca.pem ca-key.pem") from exc
    if cert.public_key() != key.public_key():
        raise CliError("the key on stdin is not the certificate's", hint="cat ca.pem ca-key.pem, of the same CA")
    return etcd_pki.Pair(cert.public_bytes(serialization.Encoding.PEM), given[given.index(b"-----BEGIN PRIVATE KEY") :])


def _seats(members: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    seats = [_member(text) for text in members]
    if len({name for name, _ in seats}) != len(seats):
        raise click.BadParameter("two members have the same name", param_hint="--member")
    return seats


def _member(text: str) -> tuple[str, list[str]]:
    name, equals, addresses = text.partition("=")
    found = [a for a in addresses.split(",") if a]
    if not equals or not found or not name.replace("-", "").isalnum():
        raise click.BadParameter(f"{text!r} is not NAME=ADDR[,ADDR]", param_hint="--member")
    return name, found


def _ca(root: Path, name: str, now: float, *, renew: bool) -> Any:
    from controlplane import etcd_pki

    cert, key = root / "ca.pem", root / "ca-key.pem"
    if renew:
        try:
            return etcd_pki.Pair(cert.read_bytes(), key.read_bytes())
        except OSError as exc:
            raise CliError(f"{exc.filename}: {exc.strerror}", hint="--renew needs the CA and its key there") from exc
    if cert.exists():
        raise CliError(
            f"{cert} exists already", code=Exit.CONFLICT, hint="--renew keeps it; or name another directory with --dir"
        )
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise CliError(f"{root} cannot be made: {exc.strerror}") from exc
    ca = etcd_pki.make_ca(now, name)
    _write(cert, ca.cert, private=False, replace=False)
    _write(key, ca.key, private=True, replace=False)
    return ca


def _write(path: Path, content: bytes, *, private: bool, replace: bool) -> None:
    from controlplane.cli.secretfile import write_secret

    if replace:
        path.unlink(missing_ok=True)
    write_secret(str(path), content)
    if not private:
        path.chmod(0o644)


@init.command()
@click.option("--config", required=True, type=click.Path(dir_okay=False), help="A node's controlplane.yaml.")
@click.option("--trust-domain", required=True, help="Of all identities of this mesh, such as prod.example. For good.")
@click.option("--cluster", default="default", show_default=True, help="Name of this cluster, a DNS label. For good.")
@click.option(
    "--etcd-root-cert", default="", type=click.Path(dir_okay=False), help="Of etcd's user root: makes the users."
)
@click.option("--etcd-root-key", default="", type=click.Path(dir_okay=False), help="Its key.")
@click.option(
    "--token-file", default="", type=click.Path(dir_okay=False), help="Write the token here (0600), not to stdout."
)
@click.option(
    "--ca-file", default="", type=click.Path(dir_okay=False), help="Write the mesh's roots here, for HOLDFAST_CA."
)
@click.option("--new-token", is_flag=True, help="Make an administrator's token even if there are operators already.")
@output("table", "json", "yaml")
def mesh(
    config: str,
    trust_domain: str,
    cluster: str,
    etcd_root_cert: str,
    etcd_root_key: str,
    token_file: str,
    ca_file: str,
    new_token: bool,
    form: str,
) -> None:
    r"""Set up the mesh in a running etcd: users, epoch, root of trust, and the first administrator's token.

    It may be repeated: what is there already is left as it is. The token is shown once.

    \b
    Examples:
      holdfast init mesh --config controlplane.yaml --trust-domain prod.example \
          --etcd-root-cert pki/root.pem --etcd-root-key pki/root-key.pem --token-file admin.token --ca-file ca.pem
      holdfast init mesh --config controlplane.yaml --trust-domain prod.example --new-token
    """
    from controlplane.cli.configured import errors_of_setup, progress, settings
    from controlplane.cli.secretfile import write_secret
    from controlplane.setup import InitOptions, init_mesh

    if token_file and Path(token_file).exists():
        raise CliError(f"{token_file} exists already", code=Exit.CONFLICT, hint="name another, or move that one away")
    chosen = settings(Path(config))
    options = InitOptions(
        trust_domain=trust_domain,
        cluster=cluster,
        etcd_root_cert=etcd_root_cert,
        etcd_root_key=etcd_root_key,
        new_token=new_token,
    )
    with errors_of_setup(chosen, "the mesh was not set up"):
        done = asyncio.run(init_mesh(chosen, options, progress))
    if ca_file:
        Path(ca_file).write_text("".join(pem.rstrip() + "\n" for pem in done.roots))
    if token_file and done.admin_token:
        write_secret(token_file, done.admin_token + "\n")
    _show(done, form, token_file=token_file, ca_file=ca_file)


def _show(done: Any, form: str, *, token_file: str, ca_file: str) -> None:
    from controlplane.cli.output import emit, say

    if form != "table":
        shown = {
            "trustDomain": done.trust_domain,
            "cluster": done.cluster,
            "fresh": done.fresh,
            "roots": list(done.roots),
            "token": "" if token_file else done.admin_token,
            "expires": done.expires,
        }
        emit(shown, form)
        return
    say(f"{done.trust_domain} (cluster {done.cluster}) " + ("is set up" if done.fresh else "was set up already"))
    if ca_file:
        say(f"roots of trust in {ca_file}")
    if not done.admin_token:
        say("operators are there already; --new-token makes another administrator's token")
    elif token_file:
        say(f"administrator's token in {token_file}")
    else:
        click.echo(done.admin_token)
        say("this is the administrator's token, shown this once: keep it in a file for --token-file")
