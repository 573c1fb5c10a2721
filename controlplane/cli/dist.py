"""`holdfast dist`."""

import hashlib
import platform
import sys
from pathlib import Path

import click

from controlplane.cli.errors import CliError, Exit

ARCHES = click.Choice(["x86_64", "aarch64"])
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def dist() -> None:
    r"""Make and check the folder from which hosts install: wheels, programs, units, installer, with hashes.

    The control plane serves it (`distDir`, by default /var/lib/holdfast-controlplane/dist), the Ansible collection
    and offline sites copy it.

    \b
    Examples:
      holdfast dist build --out /var/lib/holdfast-controlplane/dist
      holdfast dist build --out dist --arch x86_64 --python 3.11
      holdfast dist build --out dist --envoy-aarch64 ./envoy-1.40.0-linux-aarch_64
      holdfast dist verify dist
    """


@dist.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder to make.")
@click.option("--arch", "arches", multiple=True, type=ARCHES, help="For hosts of this kind. Default: both.")
@click.option("--python", "pythons", multiple=True, metavar="3.N", help="For this Python. Default: 3.11 and 3.12.")
@click.option("--here", is_flag=True, help="Only for hosts like this one: its Python, its architecture.")
@click.option("--wheel", type=FILE, help="Holdfast's own wheel. Default: made from what is running.")
@click.option("--envoy-aarch64", type=FILE, help="Envoy's program for aarch64, instead of the wheel's.")
@click.option("--envoy-x86-64", type=FILE, help="Envoy's program for x86-64, instead of the wheel's.")
@click.option("--envoy-version", default="", help="Version of an Envoy that is given, if its name does not say it.")
@click.option(
    "--etcd", "etcds", multiple=True, metavar="[ARCH=]DIR", help="Folder with etcd, etcdctl, etcdutl. Default: built."
)
@click.option("--no-servers", is_flag=True, help="Leave etcd and OpenBao out: only agents install from it.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def build(
    out: Path,
    arches: tuple[str, ...],
    pythons: tuple[str, ...],
    here: bool,
    wheel: Path | None,
    envoy_aarch64: Path | None,
    envoy_x86_64: Path | None,
    envoy_version: str,
    etcds: tuple[str, ...],
    no_servers: bool,
    quiet: bool,
) -> None:
    r"""Make the folder, or replace the one that is there. It is whole or not there at any moment.

    \b
    Examples:
      holdfast dist build --out dist
      holdfast dist build --out dist --here --no-servers
      holdfast dist build --out dist --etcd aarch64=/srv/etcd-arm64
    """
    from controlplane.distribution.folder import PYTHONS, Order
    from controlplane.distribution.folder import build as make
    from controlplane.distribution.wheels import DistributionError
    from controlplane.manifest import ARCHES as ALL

    if here and (arches or pythons):
        raise click.UsageError("--here goes without --arch and --python")
    if here:
        arches, pythons = (platform.machine(),), (f"{sys.version_info[0]}.{sys.version_info[1]}",)
    for python in pythons:
        if not python.startswith("3.") or not python[2:].isdigit() or int(python[2:]) < 11:
            raise click.BadParameter(f"{python!r} is not 3.11 or newer", param_hint="--python")
    given = {"aarch64": envoy_aarch64, "x86_64": envoy_x86_64}
    order = Order(
        arches=arches or ALL,
        pythons=pythons or PYTHONS,
        wheel=wheel,
        envoys={arch: path for arch, path in given.items() if path},
        envoy_version=envoy_version,
        etcds=_etcds(etcds),
        servers=not no_servers,
    )

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    try:
        built = make(out.absolute(), order, say)
    except DistributionError as exc:
        raise CliError(str(exc), hint="nothing was changed") from exc
    for gap in built.gaps:
        click.echo(f"warning: {gap}", err=True)
    total = sum(entry.size for entry in built.manifest.files)
    click.echo(f"{out}: Holdfast {built.manifest.version}, {len(built.manifest.files)} files, {total / 2**20:.0f} MiB")
    click.echo(f"manifest sha256 {built.sha256}")


def _etcds(given: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in given:
        arch, equals, folder = text.partition("=")
        if not equals:
            arch, folder = platform.machine(), text
        if arch not in ARCHES.choices or not Path(folder).is_dir():
            raise click.BadParameter(f"{text!r} is not [x86_64=|aarch64=]FOLDER", param_hint="--etcd")
        found[arch] = Path(folder)
    return found


@dist.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(folder: Path) -> None:
    r"""Check every file of a folder against its manifest.

    \b
    Examples:
      holdfast dist verify /var/lib/holdfast-controlplane/dist
    """
    from controlplane.distribution.folder import verify as check
    from controlplane.manifest import NAME

    outcome = check(folder)
    if isinstance(outcome, tuple):
        raise CliError(
            f"{folder} is not whole", code=Exit.FAILED, details=outcome, hint="make it anew with `holdfast dist build`"
        )
    digest = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    click.echo(f"{folder}: Holdfast {outcome.version}, {len(outcome.files)} files, all as the manifest says")
    click.echo(f"manifest sha256 {digest}")
