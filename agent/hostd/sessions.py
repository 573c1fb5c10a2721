"""Over which SSH connection did a process come in, and when did that begin? Pure: who asks brings what /proc says."""

from collections.abc import Callable
from dataclasses import dataclass

_CONSOLES = (4, 5, 229)
"""Major numbers of terminals that no network reaches: tty and ttyS, console, hvc."""

_DEPTH = 64


@dataclass(frozen=True)
class Process:
    pid: int
    comm: str
    parent: int
    tty: int
    """Device number of its controlling terminal; 0: none."""
    start: int
    """Clock ticks since boot."""


def parse(stat: str) -> Process:
    """`/proc/<pid>/stat` (proc(5)). The name is in parentheses, and may hold anything, parentheses too.

    Raises:
        ValueError: it is no such text.

    """
    head, _, rest = stat.rpartition(")")
    pid, _, comm = head.partition(" (")
    fields = rest.split()
    if len(fields) < 20:
        raise ValueError("not the stat of a process")
    return Process(int(pid), comm, int(fields[1]), int(fields[4]), int(fields[19]))


def came(pid: int, look: Callable[[int], Process | None]) -> int | None:
    """When the SSH connection began that `pid` descends from, in ticks since boot; None: there is none.

    The process of a connection is the outermost `sshd` below the one that listens. Whoever was detached from it
    (screen, nohup under init) has no connection any more.
    """
    line: list[Process] = []
    while pid > 1 and len(line) < _DEPTH and (process := look(pid)):
        line.append(process)
        pid = process.parent
    sshd = [process for process in line if process.comm in {"sshd", "sshd-session"}]
    if len(sshd) > 1 and sshd[-1].parent <= 1 and sshd[-1].comm == "sshd":
        sshd.pop()  # the one that listens
    return sshd[-1].start if sshd else None


def at_console(process: Process | None) -> bool:
    """Does it sit at a terminal of the machine itself?"""
    return process is not None and ((process.tty >> 8) & 0xFFF) in _CONSOLES
