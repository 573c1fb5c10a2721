"""What there is on this host. Looks, and changes nothing."""

import grp
import importlib.util
import os
import platform
import pwd
import re
import shutil
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from agent.installer.model import (
    AGENT_USER,
    AGENT_YAML,
    COMMAND,
    CURRENT,
    ENVOY_USER,
    ENVOYS,
    OPT,
    UNIT_FOLDER,
    UNITS,
    Facts,
)

NEEDED = ("venv", "ssl", "json", "hashlib", "zlib", "ctypes")
PORTS = ((15443, "", "mTLS"), (15020, "127.0.0.1", "metrics"))
GATEWAY = (15444, "", "gateway")


def gather(made, controlplane, options):
    """All but what the control plane says."""
    units = [key for key in made.things if key.startswith("unit ")]
    watched = (OPT, CURRENT, ENVOYS, AGENT_YAML, COMMAND, *(UNIT_FOLDER + "/" + unit for unit in UNITS))
    users = [user for user in (AGENT_USER, ENVOY_USER) if has_user(user)]
    return Facts(
        root=os.geteuid() == 0,
        python=sys.version_info[:2],
        python_faults=tuple(name for name in NEEDED if importlib.util.find_spec(name) is None),
        arch=platform.machine(),
        systemd=Path("/run/systemd/system").is_dir(),
        nftables=shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") is not None,
        free={path: free_at(path) for path in (OPT, "/var/lib")},
        # What our own units hold is not somebody else's.
        taken=() if units else tuple(taken((*PORTS, GATEWAY) if options.gateway else PORTS)),
        there=frozenset([path for path in watched if os.path.lexists(path)] + users),
        recorded=frozenset(made.things),
        logins=tuple(user for user in users if can_log_in(user)),
        halves=tuple(halves((AGENT_USER, ENVOY_USER))),
        installed=Path(CURRENT).readlink().name if Path(CURRENT).is_symlink() else "",
        node=node_of(Path(AGENT_YAML)),
        address=address_towards(controlplane),
        elsewhere=bool(options.address) and not is_here(options.address),
        unbindable=bool(options.bind) and not is_here(options.bind),
    )


def has_user(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def halves(names):
    for name in names:
        if has_user(name) != has_group(name):
            yield name, "group" if has_group(name) else "user"


def has_group(name):
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def can_log_in(name):
    """Is this account somebody's, and no service's? An empty shell is /bin/sh."""
    return Path(pwd.getpwnam(name).pw_shell).name not in ("nologin", "false")


def free_at(path):
    place = Path(path)
    while not place.exists():
        place = place.parent
    return os.stat(place).st_dev, shutil.disk_usage(place).free


def taken(ports):
    for port, address, what in ports:
        for family, wild in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            if address and family == socket.AF_INET6:
                continue
            try:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address or wild, port))
            except OSError as exc:
                # A host without IPv6 has no port of it that could be taken.
                if exc.errno == 98:
                    yield str(port) + " (" + what + ")"
                    break


def node_of(path):
    try:
        found = re.search(r"^node: *[\"']?([a-z0-9-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, ValueError):
        return ""
    return found.group(1) if found else ""


def is_here(address):
    """Can something listen at this address on this host?"""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def address_towards(url):
    """Which of this host's addresses the kernel would use towards the control plane. Nothing is sent for it."""
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    try:
        family, kind, _, _, where = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return probe.getsockname()[0]
    except OSError:
        return ""
