"""Ends every process of a demo when the demo is gone, however it went.

Launchers and Envoys live in sessions of their own, so no signal to a process group reaches them. Every process that a
demo starts inherits one mark in its environment, though; by that mark, and by nothing else, they are found.

    python -m controlplane.demo.reaper MARK     waits for the end of its stdin, which the demo holds open
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "HOLDFAST_DEMO"
HOST_MARK = "HOLDFAST_DEMO_HOST"
"""Which of the demo's hosts a process belongs to."""
PATIENCE = 10.0
"""Seconds between TERM and KILL."""


def marked(mark: str, name: str = MARK) -> list[int]:
    """Processes of ours that carry the mark, this one not among them."""
    wanted = f"{name}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # not ours, or gone while we looked
            if wanted in (entry / "environ").read_bytes().split(b"\0") and _alive(entry):
                found.append(int(entry.name))
    return sorted(found)


def _alive(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}


def end_all(mark: str, patience: float = PATIENCE, *, name: str = MARK) -> list[int]:
    """TERM, then KILL what is left, until nothing that carries the mark is alive. Returns what needed the KILL."""
    deadline = time.monotonic() + patience
    told: set[int] = set()
    killed: set[int] = set()
    while pids := marked(mark, name):
        late = time.monotonic() > deadline
        for pid in pids:
            if late or pid not in told:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)  # a paused one hears TERM only when it goes on
                (killed if late else told).add(pid)
        time.sleep(0.05)
    return sorted(killed)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    end_all(sys.argv[1])


if __name__ == "__main__":
    main()
