"""Everything that is in the way, at once, before anything is changed."""

from agent.installer.model import AGENT_YAML, COMMAND, CURRENT, OLDEST_PYTHON, OPT, UNIT_FOLDER, UNITS

MAX_SKEW = 240.0
"""Seconds. Certificates are dated five minutes back; the rest is for the way."""
UNPACKED = 4
"""A wheel, unpacked and compiled, takes about so much more."""
MARGIN = 64 * 1024 * 1024
ARCHITECTURES = ("x86_64", "aarch64")


def early_faults(facts):
    """What keeps the installer from even looking around."""
    found = []
    if not facts.root:
        found.append("this needs root: run it as root, or with sudo before python3")
    if facts.python < OLDEST_PYTHON:
        found.append(
            "Python "
            + ".".join(map(str, facts.python))
            + " is too old: 3.11 or newer is needed (Debian 12, Ubuntu 24.04)"
        )
    found.extend(part + " is missing in this Python: apt-get install python3" for part in facts.python_faults)
    if facts.arch not in ARCHITECTURES:
        found.append("this machine is " + facts.arch + "; Holdfast runs on " + " and ".join(ARCHITECTURES))
    if not facts.systemd:
        found.append("systemd does not run here (no /run/systemd/system); the services are systemd units")
    return found


def faults(facts, options, offer):
    """All the rest. `offer` is None as long as none could be had."""
    found = early_faults(facts)
    if facts.unreachable:
        found.append(facts.unreachable)
    if facts.skew is not None and abs(facts.skew) > MAX_SKEW:
        found.append(skew_fault(facts.skew))
    found += ["port " + port + " is taken by another program (see: ss -ltnp)" for port in facts.taken]
    if facts.unbindable:
        found.append("--bind " + options.bind + " is not an address of this host, so Envoy cannot listen there")
    ours = {key.split(" ", 1)[1] for key in facts.recorded}
    found += [
        path + " is there and was not made by this installer: another installation manages this host"
        for path in (*(UNIT_FOLDER + "/" + unit for unit in UNITS), COMMAND)
        if path in facts.there and path not in ours
    ]
    found += [
        "the account "
        + name
        + " is there, and can be logged in to: whoever does so would have this host's identity in the mesh. "
        "Rename it; or, if it is nobody's, usermod --shell /usr/sbin/nologin " + name
        for name in facts.logins
        if name not in ours
    ]
    found += [
        "the "
        + there
        + " "
        + name
        + " is there, and no "
        + ("user" if there == "group" else "group")
        + " of that name: units and files need both. Rename it; or, if it is nobody's, "
        + there
        + "del "
        + name
        for name, there in facts.halves
        if name not in ours
    ]
    if facts.node and options.node and facts.node != options.node:
        found.append(AGENT_YAML + " says that this host is " + facts.node + ", not " + options.node)
    if options.upgrade and not facts.installed:
        found.append("there is nothing to upgrade: " + CURRENT + " is not there")
    if offer is not None:
        found += _space(facts, offer)
    return found


def skew_fault(skew: float) -> str:
    minutes = round(abs(skew) / 60)
    text = str(minutes) + " min" if minutes < 120 else str(round(minutes / 60, 1)) + " h"
    side = "behind" if skew > 0 else "ahead of"
    return (
        "this host's clock is " + text + " " + side + " the control plane's: certificates would not be valid here. "
        "Set it (timedatectl set-ntp true, or date -s), then run this again"
    )


def _space(facts, offer):
    """Downloads are kept until the end, beside what they become."""
    wheels = sum(item.size for item in offer.wheels)
    need = {OPT: wheels * UNPACKED + offer.envoy.size + MARGIN, "/var/lib": wheels + MARGIN}
    if facts.installed == offer.version:
        return []
    by_device: dict = {}
    for path, wanted in need.items():
        device, free = facts.free.get(path, (path, wanted))
        total, names, _ = by_device.get(device, (0, [], 0))
        by_device[device] = (total + wanted, [*names, path], free)
    return [
        "the disk of " + " and ".join(names) + " has " + _mib(free) + " free, and " + _mib(total) + " are needed"
        for total, names, free in by_device.values()
        if free < total
    ]


def _mib(size):
    return str(round(size / 2**20)) + " MiB"


def notes(facts):
    """What is left out, and goes on all the same."""
    if facts.nftables:
        return []
    words = "this host has no nftables: services cannot be called by name (explicit upstreams work). "
    return [words + "apt-get install nftables, then: systemctl restart holdfast-host"]
