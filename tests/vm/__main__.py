"""Hosts by hand.

python -m tests.vm up --name X 3 [--variant bare]   three hosts, h1 to h3, kept until `down`
python -m tests.vm ssh --name X h1 [command …]      as root; -l admin for the user with sudo
python -m tests.vm inventory --name X               for ansible-playbook -i
python -m tests.vm list                             all runs and their hosts
python -m tests.vm down --name X                    gone; without a name: what dead runs left
python -m tests.vm image [VARIANT...]               only builds the images
"""

import argparse
import os
import signal
import sys
import time

from tests.vm.fleet import Fleet, remove_leftovers, runs, say_on_stderr
from tests.vm.image import find_image, names
from tests.vm.inventory import inventory
from tests.vm.shell import VmError, check_machine


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        check_machine()
        arguments = _parser().parse_args()
        return int(arguments.act(arguments) or 0)
    except VmError as exc:
        print(exc, file=sys.stderr)
        return 1


def _up(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    with Fleet(arguments.name) as fleet:
        names = arguments.hosts or [f"h{number}" for number in range(1, arguments.count + 1)]
        fleet.up(*names, variant=arguments.variant)
        fleet.keep()
    _show(fleet)
    print(f"up in {time.monotonic() - started:.1f} s", file=sys.stderr)


def _show(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        print(f"{fleet.name}  {host.name}  {host.address}  {'running' if host.running else 'off'}  {host.image.name}")


def _ssh(arguments: argparse.Namespace) -> None:
    host = _host(arguments)
    command = host.ssh(arguments.user)
    os.execvp(command[0], [*command, *arguments.command])


def _host(arguments: argparse.Namespace):
    fleet = Fleet.found(arguments.name)
    if arguments.host not in fleet.hosts:
        raise VmError(f"no host {arguments.host!r} in {arguments.name}: {', '.join(fleet.hosts)}")
    return fleet.hosts[arguments.host]


def _list(arguments: argparse.Namespace) -> None:
    for name, state in runs():
        print(f"{name}: {state}")
        if state != "dead":
            _show(Fleet.found(name))


def _down(arguments: argparse.Namespace) -> None:
    if arguments.name:
        Fleet.found(arguments.name).close()
    else:
        remove_leftovers(say_on_stderr)


def _inventory(arguments: argparse.Namespace) -> None:
    fleet = Fleet.found(arguments.name)
    print(inventory({"all": list(fleet.hosts.values())}), end="")


def _image(arguments: argparse.Namespace) -> None:
    """One that cannot be had fails the tests that want it, and no others."""
    for variant in arguments.variants or names():
        try:
            print(find_image(variant, say_on_stderr))
        except (VmError, OSError) as exc:
            print(f"image {variant}: {exc}", file=sys.stderr)


def _variant(said: str) -> str:
    if said not in names():
        raise argparse.ArgumentTypeError(f"there is no {said!r}, only {', '.join(names())}")
    return said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(name: str, act, *, named: bool) -> argparse.ArgumentParser:
        made = commands.add_parser(name)
        made.set_defaults(act=act)
        made.add_argument("--name", required=named)
        return made

    up = command("up", _up, named=True)
    up.add_argument("count", type=int, nargs="?", default=1)
    up.add_argument("--hosts", nargs="+", help="names instead of a number")
    up.add_argument("--variant", choices=names(), default="standard")
    ssh = command("ssh", _ssh, named=True)
    ssh.add_argument("-l", dest="user", default="root")
    ssh.add_argument("host")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    command("inventory", _inventory, named=True)
    command("list", _list, named=False)
    command("down", _down, named=False)
    image = command("image", _image, named=False)
    image.add_argument(
        "variants", nargs="*", type=_variant, metavar="VARIANT", help=f"only these of {', '.join(names())}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
