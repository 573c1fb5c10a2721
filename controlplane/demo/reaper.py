"""Ends every process of a demo when the demo is gone, however it went.

Launchers and Envoys live in sessions of their own, so no signal to a process group reaches them. Every process that a
demo starts inherits one mark in its environment, though; by that mark, and by nothing else, they are found.

    python -m controlplane.demo.reaper MARK     waits for the end of its stdin, which the demo holds open
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "HOLDFAST_DEMO"
HOST_MARK = "HOLDFAST_DEMO_HOST"
"""Which of the demo's hosts a process belongs to."""
PATIENCE = 10.0
"""Seconds between TERM and KILL."""


class Reaper:
    """The mark of one demo, and what ends everything that carries it: here at the end, or if we are killed before."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """From now on, what we start carries the mark."""
        os.environ[MARK] = self.mark
        environment = {k: v for k, v in os.environ.items() if k != MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "controlplane.demo.reaper", self.mark],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def end(self) -> int:
        """End whatever may be left; returns how many had to be killed. May be repeated."""
        stubborn = len(end_all(self.mark))
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait()
            self._process = None
        os.environ.pop(MARK, None)
        return stubborn


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
