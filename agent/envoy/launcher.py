"""Envoy's parent in spirit: starts it, hot-restarts it (SIGHUP), brings it back when it dies, drains it (SIGTERM).

    python -m agent.envoy.launcher --run-dir DIR --admin SOCKET [options] -- envoy -c bootstrap.json ...

Standard library only, to stay small. One launcher per run directory (a locked pid file), in a session of its own.
With --detach it goes into the background and the command returns once it holds the lock.

SIGHUP   hot restart; several of them while one is under way count as one more
SIGTERM  drain, then stop; the second one stops at once          SIGINT   stop at once
         (under a service manager, the agent gets a moment before to tell callers)
SIGUSR2  leave: the launcher ends, Envoy runs on for the next launcher to adopt

With --wanted FOLDER it runs under a service manager, as a user of its own: the agent writes into that folder what Envoy
is to be started with, and asks by a socket (agent.envoy.requests) for what else would need a signal. Until something is
wanted it waits. Envoy's words go where the launcher's own go (the journal), its standard output to --output.

A launcher that is killed leaves Envoy running, and the next one adopts it. Envoy asks the kernel for SIGTERM at its
parent's death (HotRestartImpl), so its parent must not be the launcher: it is started through a process that ends at
once, and its exit is seen through a pidfd. The price: no exit status, only that it ended.
"""

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent import notify
from agent.envoy import record, requests, succession
from agent.envoy.host import Host, Options
from agent.envoy.succession import Event, Instruction, State

TICK_SECONDS = 0.1
"""While something is awaited: Envoy's readiness, a delay, a drain."""
IDLE_SECONDS = 10.0
"""Else: how often the size of the logs is looked at."""


class Launcher:
    def __init__(self, options: Options, host: Host) -> None:
        self._options, self._host = options, host
        self._state = State()
        self._watched: dict[int, int] = {}
        """Pid -> pidfd."""
        self._poll = select.poll()
        self._wakeup = _signals()
        self._door: requests.Door | None = None
        self._begun = self._done = False
        self._told = ("", 0.0)
        self.renew = False
        """It is to start anew from disk."""

    def run(self) -> None:
        self._poll.register(self._wakeup, select.POLLIN)
        if self._options.wanted is not None:
            self._door = requests.Door(self._options.run_dir / requests.NAME, self._may_ask)
            self._poll.register(self._door.fileno(), select.POLLIN)
        adopted = self._host.adopt(time.monotonic())
        for process in adopted:
            self._watch(process.pid)
        if not adopted:
            self._host.write(self._state)
        notify.tell("READY=1")
        while not self._done:
            if not self._begun and (adopted or self._host.is_wanted()):
                self._begun = True
                self._feed(succession.Began(adopted, self._host.restarts))
            self._tell()
            busy = self._state.phase != "live" or self._state.elders
            self._take(self._poll.poll((TICK_SECONDS if busy else IDLE_SECONDS) * 1000))
            self._look()
            self._host.rotate_logs()
        if self._door is not None:
            self._door.close()

    def _may_ask(self, uid: int) -> bool:
        return uid in {0, os.geteuid(), self._host.agent()}

    def _tell(self) -> None:
        """The service manager, of what is new and that this loop turns."""
        words, now = self._words(), time.monotonic()
        if words != self._told[0] or now - self._told[1] >= IDLE_SECONDS / 2:
            self._told = (words, now)
            notify.tell("WATCHDOG=1", f"STATUS={words}")

    def _words(self) -> str:
        if not self._begun:
            return f"waiting for the agent to say what is wanted ({self._options.wanted})"
        current = self._state.current
        return f"envoy {self._state.phase}" + (f", pid {current.pid}, epoch {current.epoch}" if current else "")

    def _take(self, ready: list[tuple[int, int]]) -> None:
        descriptors = {descriptor for descriptor, _ in ready}
        if self._wakeup in descriptors:
            self._on_signals(os.read(self._wakeup, 64))
        if self._door is not None and self._door.fileno() in descriptors:
            self._on_word(self._door.take())
        self._reap(descriptors)

    def _on_word(self, word: str) -> None:
        match word:
            case "restart":
                self._feed(succession.RestartAsked())
            case "stop":
                self._stop(self._host.options.drain_seconds)  # by the agent, which has told callers
            case "end":
                self._stop(0)
            case "renew":
                self._done = self.renew = True

    def _stop(self, drain_seconds: float, leave_seconds: float = 0.0) -> None:
        # A service manager waits as long as it was told to; it need not know how long a drain is.
        seconds = drain_seconds + leave_seconds + 2 * succession.KILL_SECONDS + 10
        notify.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")
        self._feed(succession.StopAsked(drain_seconds, leave_seconds))

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGHUP:
                self._feed(succession.RestartAsked())
            elif number == signal.SIGTERM:
                under_manager = self._options.wanted is not None
                self._stop(self._host.options.drain_seconds, succession.LEAVE_SECONDS if under_manager else 0.0)
            elif number == signal.SIGINT:
                self._stop(0)
            elif number == signal.SIGUSR2:
                self._done = True

    def _reap(self, ready: set[int]) -> None:
        for pid, descriptor in tuple(self._watched.items()):
            if descriptor in ready:
                self._poll.unregister(descriptor)
                os.close(self._watched.pop(pid))
                self._host.note_exit(pid)
                self._feed(succession.Exited(pid))

    def _look(self) -> None:
        """Ask Envoy what no signal tells."""
        state = self._state
        awaited = state.successor or state.current
        if awaited and not awaited.live and self._host.is_live(awaited.epoch):
            self._feed(succession.BecameLive(awaited.pid))
        if state.stopping == "draining" and self._host.is_idle():
            self._feed(succession.Idle())
        if state.stopping or state.spawn_at is not None:
            self._feed(succession.Tick())

    def _feed(self, event: Event) -> None:
        before = self._state
        self._state, instructions = succession.handle(before, event, time.monotonic())
        for instruction in instructions:
            self._do(instruction)
        if self._state != before and not self._done:
            self._host.write(self._state)

    def _do(self, instruction: Instruction) -> None:
        match instruction:
            case succession.Spawn(epoch):
                process = self._host.spawn(epoch, time.monotonic())
                self._watch(process.pid)
                self._feed(succession.Spawned(process))
            case succession.ClearInitializing():
                self._host.clear_initializing()
            case succession.Drain():
                self._host.drain()
            case succession.End(pid, hard):
                self._host.end(self._watched.get(pid), hard=hard)
            case succession.Quit():
                self._done = True
                self._host.clean()

    def _watch(self, pid: int) -> None:
        # A process that has ended already gives a descriptor that is ready at once, as long as nobody reaped it.
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            descriptor = os.open(os.devnull, os.O_RDONLY)  # always ready: seen as ended in the next round
        self._watched[pid] = descriptor
        self._poll.register(descriptor, select.POLLIN)


def _signals() -> int:
    """A descriptor from which the numbers of arriving signals can be read."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    return reader


def _parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="agent.envoy.launcher", description="Envoy's launcher; see the agent.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--admin", type=Path, required=True, help="Envoy's admin socket")
    parser.add_argument("--base-id", type=int, default=None, help="default: chosen by Envoy, free on this machine")
    parser.add_argument("--log-file", type=Path, default=None, help="default: envoy.log in the run directory")
    parser.add_argument("--log-max-bytes", type=int, default=16 * 1024 * 1024)
    parser.add_argument("--rotate", type=Path, action="append", default=[], help="another log to keep bounded")
    parser.add_argument("--drain-seconds", type=float, default=20.0)
    parser.add_argument("--parent-shutdown-seconds", type=int, default=30)
    parser.add_argument("--wanted", type=Path, default=None, help="where another user, the agent, says what it wants")
    parser.add_argument("--output", type=Path, default=None, help="Envoy's standard output; with --wanted")
    parser.add_argument("--detach", action="store_true", help="return as soon as the launcher holds its lock")
    parser.add_argument("command", nargs="+", help="envoy and its arguments")
    parsed = parser.parse_args(arguments)
    under_manager = parsed.wanted is not None
    log_file = parsed.log_file or (None if under_manager else parsed.run_dir / "envoy.log")
    return Options(
        run_dir=parsed.run_dir,
        admin=parsed.admin,
        base_id=parsed.base_id,
        log_file=log_file,
        log_max_bytes=parsed.log_max_bytes,
        logs=tuple(path for path in (log_file, parsed.output, *parsed.rotate) if path),
        drain_seconds=parsed.drain_seconds,
        parent_shutdown_seconds=parsed.parent_shutdown_seconds,
        command=tuple(parsed.command),
        detach=parsed.detach,
        wanted=parsed.wanted,
        output=parsed.output,
    )


def main() -> int:
    """Run until told to stop. Exit status 75 (EX_TEMPFAIL): this run directory has a launcher already."""
    options = _parse(sys.argv[1:])
    options.run_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    if options.detach:
        return _detach(options)
    return _run(options, lambda: None)


def _run(options: Options, locked: Callable[[], None]) -> int:
    lock = record.lock(options.run_dir)
    if lock is None:
        sys.stderr.write(f"a launcher runs in {options.run_dir} already (pid {record.launcher_of(options.run_dir)})\n")
        return os.EX_TEMPFAIL
    with suppress(PermissionError):
        os.setsid()  # refused if this is a session's leader already
    locked()
    launcher = Launcher(options, Host(options))
    launcher.run()
    if launcher.renew:
        # The same process goes on as what is on disk now; its locks and descriptors close by themselves.
        os.execv(sys.orig_argv[0], sys.orig_argv)  # noqa: S606 - our own arguments, no shell
    return os.EX_OK


def _detach(options: Options) -> int:
    """Go on in a child that nobody waits for; return what it says about the lock."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        return os.EX_OK if os.read(reader, 1) else os.EX_TEMPFAIL

    def locked() -> None:
        os.write(writer, b"1")
        os.close(writer)
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(options.run_dir / "launcher.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)

    return _run(options, locked)


if __name__ == "__main__":
    sys.exit(main())
