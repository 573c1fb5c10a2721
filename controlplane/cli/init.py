"""`holdfast init`."""

import asyncio
import time
from pathlib import Path
from typing import Any

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
        click.option("--renew", is_flag=True, help="Keep the CA that is there, and make everything else anew."),
        click.option(
            "--member", "members", multiple=True, required=True, metavar="NAME=ADDR[,ADDR]",
            help="A member and its addresses.",
        ),
        click.option(
            "--dir", "folder", required=True, type=click.Path(file_okay=False),
            help="Where to put them; made if missing.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@init.command("etcd-certs")
@_where
def etcd_certs(folder: str, members: tuple[str, ...], renew: bool) -> None:
    r"""Make etcd's own CA, a certificate for each member, and one for each of its users.

    The CA is etcd's alone, never the mesh's. Keep ca-key.pem off the members: it is only needed here, for --renew.

    \b
    Examples:
      holdfast init etcd-certs --dir pki --member etcd-1=10.0.0.1 --member etcd-2=10.0.0.2,etcd-2.example
      holdfast init etcd-certs --dir pki --member etcd-4=10.0.0.4 --renew
    """
    from controlplane import etcd_pki
    from controlplane.cli.output import say

    seats, now = _seats(members), time.time()
    users = (etcd_pki.ROOT_USER, etcd_pki.CONTROLPLANE_USER, etcd_pki.GATE_USER)
    ca = _ca(Path(folder), "holdfast etcd CA", now, renew=renew)
    pairs = {name: etcd_pki.make_member(ca, name, addresses, now) for name, addresses in seats}
    for user in users:
        if user in pairs:
            raise click.BadParameter(f"{user} is a user's name, not a member's", param_hint="--member")
        pairs[user] = etcd_pki.make_client(ca, user, now)
    _write_all(Path(folder), pairs, renew=renew)
    say("each with its key in <name>-key.pem (0600). A member takes its own pair and ca.pem; see docs for its flags")


@init.command("openbao-certs")
@_where
def openbao_certs(folder: str, members: tuple[str, ...], renew: bool) -> None:
    r"""Make a CA for OpenBao's own TLS, and a certificate for each of its members.

    It has nothing to do with the mesh's certificates, which OpenBao signs. Keep ca-key.pem off the members.

    \b
    Examples:
      holdfast init openbao-certs --dir bao-pki --member bao-1=10.0.0.1 --member bao-2=10.0.0.2,bao-2.example
      holdfast init openbao-certs --dir bao-pki --member bao-3=10.0.0.3 --renew
    """
    from controlplane import etcd_pki
    from controlplane.cli.output import say

    seats, now = _seats(members), time.time()
    ca = _ca(Path(folder), "holdfast OpenBao CA", now, renew=renew)
    pairs = {name: etcd_pki.make_openbao_member(ca, name, addresses, now) for name, addresses in seats}
    _write_all(Path(folder), pairs, renew=renew)
    say("each with its key in <name>-key.pem (0600). Control-plane nodes take ca.pem for signer.caFile")


def _seats(members: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    seats = [_member(text) for text in members]
    if len({name for name, _ in seats}) != len(seats):
        raise click.BadParameter("two members have the same name", param_hint="--member")
    return seats


def _write_all(root: Path, pairs: dict[str, Any], *, renew: bool) -> None:
    for name, pair in pairs.items():
        _write(root / f"{name}.pem", pair.cert, private=False, replace=renew)
        _write(root / f"{name}-key.pem", pair.key, private=True, replace=renew)
    for name in ("ca", *pairs):
        click.echo(str(root / f"{name}.pem"))


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
