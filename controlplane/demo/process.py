"""Real servers as child processes: started with a log, waited for, stopped, killed, paused. And free ports for them.

Each runs in a session of its own, so a Ctrl-C in the terminal reaches only us, and a signal of ours reaches the whole
group. Who starts one stops it, also on failure: use it as a context manager or in an ExitStack.
"""

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

TAIL_LINES = 30
POLL = 0.02

_LOWEST_PORT = 12_000
# One walk through the ports per program, from a random place: two calls never hand out the same port, and two programs
# on one machine hardly ever.
_walk = itertools.count(random.SystemRandom().randrange(20_000))


class ProcessError(Exception):
    """A server did not do what was waited for. The message holds the end of its log."""


class Process:
    """One server. Start, stop and signals are synchronous and quick; nothing here needs a loop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Describe it. `env` is added to ours."""
        self.name, self.command, self.log = name, list(command), log
        self._env, self._cwd = env, cwd
        self._child: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def pid(self) -> int:
        if self._child is None:
            raise ProcessError(f"{self.name} was never started")
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return None if self._child is None else self._child.poll()

    def start(self) -> Self:
        """Start it, with its output appended to the log. Refused while it runs."""
        if self.running:
            raise ProcessError(f"{self.name} already runs as {self.pid}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                env={**os.environ, **(self._env or {})},
                start_new_session=True,
            )
        self._paused = False
        return self

    def wait_until(self, condition: Callable[[], bool], *, what: str, timeout: float = 30.0) -> None:
        """Return once the condition holds.

        Raises:
            ProcessError: the time is over, or the process ended; with the end of its log.

        """
        deadline = time.monotonic() + timeout
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name}: {what}: not within {timeout:g} s\n{self.tail()}")
            time.sleep(POLL)

    def wait_for_port(self, address: str, port: int, *, timeout: float = 30.0) -> None:
        """Return once it accepts connections there."""
        self.wait_until(lambda: accepts(address, port), what=f"listen on {address}:{port}", timeout=timeout)

    def check(self) -> None:
        """Raise ProcessError, with the end of its log, if it does not run."""
        if not self.running:
            raise ProcessError(f"{self.name} ended with code {self.exit_code}\n{self.tail()}")

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return f"(no log at {self.log})"
        return f"--- end of {self.log}\n" + "\n".join(text.splitlines()[-lines:])

    def signal(self, number: int) -> None:
        """Send a signal to the whole group. Nothing happens if it is gone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def stop(self, timeout: float = 10.0) -> int | None:
        """TERM, then KILL after `timeout`. May be repeated. Returns its exit code."""
        if self._child is None:
            return None
        if self._paused:
            self.resume()
        self.signal(signal.SIGTERM)
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
        return self.exit_code

    def kill9(self) -> None:
        """End it with no chance to clean up, and wait until it is gone. May be repeated."""
        self.signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait(10)
        self._paused = False

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stay open and silent."""
        self.signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a paused one go on."""
        self.signal(signal.SIGCONT)
        self._paused = False

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def accepts(address: str, port: int) -> bool:
    """Does anything accept TCP connections there?"""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def taken(places: Iterable[tuple[str, int]]) -> str:
    """Why nobody can listen on all of these addresses and ports; empty if one can."""
    with contextlib.ExitStack() as stack:
        for place in places:
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError as exc:
                return f"{place[0]}:{place[1]}: {exc.strerror}"
    return ""


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that is free there, below the range from which the kernel takes ports of outgoing connections.

    So it stays free while its server is down, which port 0 would not promise.
    """
    highest = _lowest_ephemeral_port()
    for _ in range(highest - _LOWEST_PORT):
        port = _LOWEST_PORT + next(_walk) % (highest - _LOWEST_PORT)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise ProcessError(f"no free port on {address}")


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Several distinct ones."""
    return [free_port(address) for _ in range(count)]


def _lowest_ephemeral_port() -> int:
    try:
        found = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
    # A machine that hands out nearly all ports leaves us no room below; then any port must do.
    return found if found > _LOWEST_PORT + 1000 else 60_000
