"""A control group of its own for each host.

systemd-nspawn makes its sub-groups beneath the group that it is started in. Two hosts started from one group share one
tree, and each systemd takes the other's services for its own: so each is started in a group of its name, in the
version 2 tree (which is what a host sees as its /sys/fs/cgroup) and, where the machine still has it, in systemd's own
version 1 tree.

On a machine with the hybrid layout the controllers (memory, cpu) stay with version 1: a host's units run, are told
apart by `socket cgroupv2`, and are killed as a whole, but MemoryMax= and CPUQuota= have no effect inside.
"""

import os
import time
from pathlib import Path

from tests.vm.shell import VmError

TOP = Path("/sys/fs/cgroup")


def trees() -> list[Path]:
    """Where a host's group is made; the version 2 tree first."""
    if (TOP / "cgroup.controllers").exists():
        return [TOP]
    unified = TOP / "unified"
    if not (unified / "cgroup.controllers").exists():
        raise VmError("no version 2 control groups on this machine: hosts could not tell a socket's unit")
    return [unified] + ([TOP / "systemd"] if (TOP / "systemd").is_dir() else [])


def make(name: str) -> list[Path]:
    """The host's groups, each with one beneath for what starts it; writing an id to cgroup.procs moves a process."""
    groups = [tree / name for tree in trees()]
    for group in groups:
        (group / "keeper").mkdir(parents=True, exist_ok=True)
    return groups


def processes(name: str) -> list[int]:
    found: set[int] = set()
    for tree in trees():
        for procs in (tree / name).glob("**/cgroup.procs"):
            try:
                found.update(int(word) for word in procs.read_text().split())
            except OSError:  # the group went away meanwhile
                continue
    return sorted(found)


def leader(name: str) -> int:
    """The host's own init, as this machine numbers it."""
    scope = trees()[0] / name / "payload" / "init.scope" / "cgroup.procs"
    try:
        return int(scope.read_text().split()[0])
    except (OSError, IndexError):
        raise VmError(f"{name} is not running") from None


def kill(name: str, *, timeout: float = 20) -> None:
    """As a power cut: everything at once, nothing gets to tidy up. Returns when all of it is gone."""
    deadline = time.monotonic() + timeout
    while True:
        switch = trees()[0] / name / "cgroup.kill"
        if switch.exists():
            switch.write_text("1")
        left = processes(name)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise VmError(f"{name}: processes {left} outlive being killed")
        time.sleep(0.02)


def remove(name: str) -> None:
    for tree in trees():
        for folder, _, _ in os.walk(tree / name, topdown=False):
            Path(folder).rmdir()
