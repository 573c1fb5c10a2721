"""Faults of hosts, each undone at the end of its `with`.

Delay by `tc netem` needs a kernel with sch_netem, and this says so where it is missing; `narrow` (a slow link) and
`lossy` (a share of packets dropped) need only what every kernel with nftables has.

Clocks: a container has the machine's clock, and a time namespace changes the monotonic one only. `clock` gives another
time of day to the processes that systemd starts, by a preloaded library: to Python and Envoy, but not to programs that
are linked statically (etcd, OpenBao).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.shell import VmError, call


def link_of(host: Host) -> str:
    """The host's cable, as this machine calls its end."""
    number = re.search(r"@if(\d+)", host.inside("ip", "-o", "link", "show", "host0"))
    assert number
    for line in call("ip", "-o", "link", "show", "master", host.bridge).splitlines():
        index, name = line.split(": ")[:2]
        if index == number[1]:
            return name.split("@")[0]
    raise VmError(f"{host.name}: no link of it on {host.bridge}")


@contextmanager
def unplugged(host: Host) -> Iterator[None]:
    link = link_of(host)
    call("ip", "link", "set", link, "down")
    try:
        yield
    finally:
        call("ip", "link", "set", link, "up")


@contextmanager
def dropped(fleet: Fleet, *rules: str) -> Iterator[None]:
    """Frames over the bridge that one of the rules matches go nowhere: `ip saddr A ip daddr B tcp dport 2379`."""
    table = f"hf-{fleet.name}"
    chain = "\n".join(f"{rule} drop" for rule in rules)
    script = f'table bridge "{table}" {{ chain forward {{ type filter hook forward priority 0;\n{chain}\n}}\n}}'
    call("nft", script.replace('"', ""))
    try:
        yield
    finally:
        call("nft", "delete", "table", "bridge", table)


@contextmanager
def split(fleet: Fleet, one: Host, other: Host) -> Iterator[None]:
    """The two do not reach each other; everybody else reaches both."""
    a, b = one.address, other.address
    with dropped(fleet, f"ip saddr {a} ip daddr {b}", f"ip saddr {b} ip daddr {a}"):
        yield


@contextmanager
def lossy(fleet: Fleet, host: Host, percent: int) -> Iterator[None]:
    """Of what goes to the host."""
    with dropped(fleet, f"ip daddr {host.address} numgen random mod 100 < {percent}"):
        yield


@contextmanager
def narrow(host: Host, *, kbit: int) -> Iterator[None]:
    with _queue(host, "tbf", "rate", f"{kbit}kbit", "burst", "4kb", "latency", "500ms"):
        yield


@contextmanager
def delayed(host: Host, *, ms: int) -> Iterator[None]:
    with _queue(host, "netem", "delay", f"{ms}ms"):
        yield


@contextmanager
def _queue(host: Host, *discipline: str) -> Iterator[None]:
    link = link_of(host)
    call("tc", "qdisc", "add", "dev", link, "root", *discipline)
    try:
        yield
    finally:
        call("tc", "qdisc", "delete", "dev", link, "root")


@contextmanager
def stopped(host: Host, unit: str) -> Iterator[None]:
    """The unit's processes stand still (SIGSTOP)."""
    host.run(f"systemctl kill --signal=STOP {unit}")
    try:
        yield
    finally:
        host.run(f"systemctl kill --signal=CONT {unit}")


@contextmanager
def full(host: Host, path: str, *, megabytes: int = 1) -> Iterator[None]:
    """No byte is free under `path`, which keeps what it holds. What holds a file there open still writes beneath."""
    fill = f"dd if=/dev/zero of={path}/.filled bs=64k 2>/dev/null; dd if=/dev/zero of={path}/.filled2 bs=1 2>/dev/null"
    host.run(
        f"mkdir -p {path} && size=$(du -sm {path} | cut -f1) && rm -rf /run/copy && cp -a {path} /run/copy && "
        f"mount -t tmpfs -o size=$((size + {megabytes}))m,mode=$(stat -c %a {path}) full {path} && "
        f"chown $(stat -c %u:%g /run/copy) {path} && cp -a /run/copy/. {path}/ && rm -rf /run/copy; {fill}; true"
    )
    try:
        yield
    finally:
        host.run(f"umount -l {path}")


CLOCK = "/run/systemd/system/service.d/10-clock.conf"
LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


@contextmanager
def clock(host: Host, offset: str, *units: str) -> Iterator[None]:
    """`+1h`, `-90s`: for units that are started, or restarted here, from now on."""
    host.run(f"test -e {LIBRARY} || {{ echo no libfaketime on this host: take the standard image; exit 1; }}")
    settings = f"LD_PRELOAD={LIBRARY} FAKETIME={offset} FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1"
    host.write(CLOCK, f"[Service]\nEnvironment={settings}\n")
    restart = f" && systemctl restart {' '.join(units)}" if units else ""
    host.run(f"systemctl daemon-reload{restart}")
    try:
        yield
    finally:
        host.run(f"rm {CLOCK} && systemctl daemon-reload{restart}")
