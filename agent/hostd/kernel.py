"""The helper's hands in the kernel: packet rules by nft, the way past them by ip."""

import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from agent.hostd import sink
from agent.hostd.ruleset import TABLE

PROGRAM_SECONDS = 10.0
LOCALNET = Path("/proc/sys/net/ipv4/conf", sink.DEVICE, "route_localnet")
"""Of the network that the process is in. It is there as long as the device is."""
_NETFILTER, _NFTABLES_GROUP = 12, 7
"""NETLINK_NETFILTER of linux/netlink.h, NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h."""


class NftError(Exception):
    """The kernel's rules could not be changed; with nft's own words."""


def load_rules(text: str) -> None:
    """One transaction: all of it, or nothing.

    Raises:
        NftError: nothing was changed.

    """
    _nft(["-f", "-"], text)


def listing() -> str:
    """Our table as the kernel has it, without what changes by itself (counters, elements); empty where it is not."""
    try:
        return _nft(["-s", "-t", "list", "table", *TABLE.split()])
    except NftError:
        return ""


def rule_changes() -> socket.socket:
    """Readable when somebody, we included, has changed the kernel's packet rules. Never, where it does not tell."""
    try:
        link = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETFILTER
        )
        link.bind((0, 1 << (_NFTABLES_GROUP - 1)))
    except OSError:
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    return link


def drop_all(link: socket.socket) -> None:
    """All that was told so far; what it says does not matter."""
    for _ in range(1000):  # whoever tells more than that is heard again at once
        try:
            link.recv(65536)
        except BlockingIOError:
            return
        except OSError:  # more was told than could be kept
            continue


def has_nft() -> bool:
    return _which("nft") is not None


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _nft(arguments: list[str], text: str = "") -> str:
    return _run("nft", "nftables", arguments, text, NftError)


def _run(program: str, package: str, arguments: list[str], text: str, error: type[Exception]) -> str:
    found = _which(program)
    if found is None:
        raise error(f"this host has no {program}; install the package {package}")
    try:
        done = subprocess.run(
            [found, *arguments], input=text, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise error(f"{program} cannot be run: {exc}") from exc
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if line.strip()), f"exit status {done.returncode}")
        raise error(f"{program} refuses: {first.strip()[:300]}")
    return done.stdout


# --- where calls by name go while no rule is there ---


class SinkError(Exception):
    """The device or its route could not be had; with ip's own words."""


def has_sink() -> bool:
    try:
        return sink.stands(_ip(sink.SHOW), LOCALNET.read_text())
    except (SinkError, OSError):
        return False


def open_sink() -> str:
    """Why there is none; empty: it is there. Without it all is as in kernels that cannot have one."""
    if has_sink():
        return ""
    try:
        if not LOCALNET.exists():
            _make_device()
        with suppress(SinkError):
            _ip(sink.QUIET)
        LOCALNET.write_text("1\n")  # before the route: without it the route would refuse every call
        _ip(sink.UP)
        _ip(sink.ROUTE)
    except (SinkError, OSError) as exc:
        close_sink()
        return str(exc)
    return ""


def close_sink() -> None:
    with suppress(SinkError):
        _ip(sink.REMOVE)


def _make_device() -> None:
    faults = []
    for kind in sink.KINDS:
        try:
            _ip(sink.make(kind))
        except SinkError as exc:
            faults.append(f"{kind}: {exc}")
        else:
            return
    raise SinkError("; ".join(faults))


def _ip(arguments: tuple[str, ...]) -> str:
    return _run("ip", "iproute2", list(arguments), "", SinkError)
