"""The launcher's hands: processes, files, signals, and the few words it exchanges with Envoy's admin socket.

Standard library only.
"""

import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from agent.envoy import record, wanted
from agent.envoy.record import Record, Running
from agent.envoy.succession import Process, State

ADMIN_TIMEOUT_SECONDS = 1.0
ADMIN_LIMIT_BYTES = 4 * 1024 * 1024
HOT_RESTART = "hot-restart"
"""What the names of the sockets begin with over which one Envoy hands over to the next."""
_CONNECTIONS = r"^(server\.total_connections|listener\..*\.downstream_cx_active)$"
SHM = Path("/dev/shm")  # noqa: S108 - where Envoy keeps it (shm_open)


@dataclass(frozen=True)
class Options:
    run_dir: Path
    admin: Path
    base_id: int | None
    log_file: Path | None
    """None: Envoy's words go where ours go."""
    log_max_bytes: int
    logs: tuple[Path, ...]
    drain_seconds: float
    parent_shutdown_seconds: int
    command: tuple[str, ...]
    detach: bool = False
    wanted: Path | None = None
    """Where the agent, another user, says what it wants; `command` is the program alone then."""
    output: Path | None = None
    """Envoy's standard output, where that is not its log."""


class Host:
    def __init__(self, options: Options) -> None:
        self._given = self._options = options
        self._base_id = options.base_id
        self._starts: dict[int, int] = {}
        self._started = 0.0
        self._last_exit = ""
        self.restarts = 0
        """As an earlier launcher counted them."""

    @property
    def options(self) -> Options:
        """As they are now: the agent may want others than before."""
        self.is_wanted()
        return self._options

    def is_wanted(self) -> bool:
        """Has the agent said with what Envoy is to be started? What it said last is taken up."""
        given = self._given
        if given.wanted is None:
            return True
        found = wanted.read(given.wanted)
        if found is not None:
            self._options = replace(
                given,
                command=(*given.command, *found.arguments),
                drain_seconds=found.drain_seconds,
                parent_shutdown_seconds=found.parent_shutdown_seconds,
                logs=(*given.logs, *(Path(path) for path in found.rotate)),
            )
        return found is not None

    def agent(self) -> int | None:
        """The user who says what is wanted."""
        if self._given.wanted is None:
            return None
        with suppress(OSError):
            return self._given.wanted.stat().st_uid
        return None

    def adopt(self, now: float) -> tuple[Process, ...]:
        """What an earlier launcher left running, elders first. A successor that was not live yet is ended."""
        old = record.read(self._options.run_dir)
        if old is None:
            return ()
        self._base_id = self._options.base_id if old.base_id is None else old.base_id
        self._started = old.started
        self.restarts = old.restarts
        adopted: dict[str, list[Process]] = {"elder": [], "current": [], "successor": []}
        for running in record.alive(old):
            self._starts[running.pid] = running.start
            adopted[running.role].append(Process(running.pid, running.epoch, now))
        if not adopted["current"]:
            for orphan in (*adopted["elder"], *adopted["successor"]):
                self._kill_and_wait(orphan.pid)
            return ()
        for unborn in adopted["successor"]:
            self._kill_and_wait(unborn.pid)
            self.clear_initializing()
        return (*adopted["elder"], *adopted["current"])

    def spawn(self, epoch: int, now: float) -> Process:
        """Start Envoy. It is not our child: see the launcher."""
        options = self.options
        log = _appended(options.log_file)
        output = _appended(options.output) if options.output else os.dup(log)
        try:
            pid = _start((*options.command, *self._epoch_arguments(epoch)), output, log)
        finally:
            os.close(log)
            os.close(output)
        self._starts[pid] = record.start_of(pid) or 0
        self._started = time.time()  # noqa: TID251 - the launcher is a process of its own: this is its root
        return Process(pid, epoch, now)

    def _epoch_arguments(self, epoch: int) -> tuple[str, ...]:
        options = self._options
        arguments: tuple[str, ...] = (
            "--restart-epoch",
            str(epoch),
            "--drain-time-s",
            str(max(1, int(options.drain_seconds))),
            "--parent-shutdown-time-s",
            str(options.parent_shutdown_seconds),
        )
        if options.wanted is not None:
            # By default these are abstract sockets, which any user of the host may speak to.
            arguments = (*arguments, "--socket-path", str(options.run_dir / HOT_RESTART), "--socket-mode", "600")
        if options.base_id is not None:
            return (*arguments, "--base-id", str(options.base_id))
        if epoch == 0:
            self._remove_shared_memory()
            self._base_id = None
            with suppress(FileNotFoundError):
                (options.run_dir / record.BASE_ID).unlink()
            return (*arguments, "--use-dynamic-base-id", "--base-id-path", str(options.run_dir / record.BASE_ID))
        return (*arguments, "--base-id", str(self._known_base_id()))

    def _known_base_id(self) -> int | None:
        if self._base_id is None:
            with suppress(OSError, ValueError):
                self._base_id = int((self._options.run_dir / record.BASE_ID).read_text())
        return self._base_id

    def note_exit(self, pid: int) -> None:
        self._starts.pop(pid, None)
        self._last_exit = f"pid {pid} ended"

    def end(self, pidfd: int | None, *, hard: bool) -> None:
        """Signal a watched process; a killed one is waited for, since its successor may need its names."""
        if pidfd is None:
            return
        with suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL if hard else signal.SIGTERM)
        if hard:
            select.select([pidfd], [], [], 2.0)

    @staticmethod
    def _kill_and_wait(pid: int) -> None:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 2.0)
            finally:
                os.close(pidfd)

    def write(self, state: State) -> None:
        roles = [(p, "elder") for p in state.elders]
        roles += [(p, role) for p, role in ((state.current, "current"), (state.successor, "successor")) if p]
        record.write(
            self._options.run_dir,
            Record(
                launcher=os.getpid(),
                boot=record.boot(),
                phase=state.phase,
                started=self._started,
                restarts=state.restarts,
                refused_restarts=state.refused_restarts,
                last_exit=self._last_exit,
                base_id=self._known_base_id(),
                command=self._options.command,
                running=tuple(Running(p.pid, self._starts.get(p.pid, 0), p.epoch, role) for p, role in roles),
            ),
        )

    def clear_initializing(self) -> None:
        """Unset SHMEM_FLAGS_INITIALIZING, the last 8 bytes of Envoy's SharedMemory; its first 8 are the size.

        Envoy has no way to do so: without this, a line in which one hot restart failed could never restart again.
        """
        path = self._shared_memory()
        with suppress(OSError, struct.error):
            if path is None:
                return
            with path.open("r+b", buffering=0) as file:
                (size,) = struct.unpack("=Q", file.read(8))
                if size == path.stat().st_size:
                    file.seek(size - 8)
                    file.write(struct.pack("=Q", 0))

    def clean(self) -> None:
        """Nothing is left behind after the last process."""
        self._remove_shared_memory()
        with suppress(FileNotFoundError):
            self._options.admin.unlink()
        for left in self._options.run_dir.glob(HOT_RESTART + "_*"):
            left.unlink(missing_ok=True)

    def _shared_memory(self) -> Path | None:
        base = self._known_base_id()
        # Envoy scales base ids by ten, to make room for the epochs' socket names.
        return None if base is None else SHM / f"envoy_shared_memory_{base * 10}"

    def _remove_shared_memory(self) -> None:
        if path := self._shared_memory():
            with suppress(OSError):
                path.unlink()

    def rotate_logs(self) -> None:
        """Keep each log and one older copy. Copied and cut, not renamed: Envoy's descriptors append and stay valid."""
        for path in self._options.logs:
            with suppress(OSError):
                if path.stat().st_size > self._options.log_max_bytes:
                    shutil.copyfile(path, path.with_name(path.name + ".1"))
                    os.truncate(path, 0)

    def is_live(self, epoch: int) -> bool:
        """Is the Envoy that answers the one of this epoch, and does it serve?"""
        try:
            info = json.loads(self._ask("GET", "/server_info"))
            return bool(info["state"] == "LIVE" and info["command_line_options"].get("restart_epoch", 0) == epoch)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def is_idle(self) -> bool:
        """Is no downstream connection open? Not, if Envoy does not say.

        What listeners have is of this moment; the sum, which knows of a replaced process's too, of some seconds ago.
        """
        with suppress(OSError, ValueError):
            answer = self._ask("GET", f"/stats?filter={quote(_CONNECTIONS)}")
            held = re.findall(rb"(?m)^(?!listener\.admin\.).*: (\d+)$", answer)
            return bool(held) and not any(map(int, held))
        return False

    def drain(self) -> None:
        for path in ("/healthcheck/fail", "/drain_listeners?graceful"):
            with suppress(OSError, ValueError):
                self._ask("POST", path)

    def _ask(self, method: str, path: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(ADMIN_TIMEOUT_SECONDS)
            admin.connect(str(self._options.admin))
            admin.sendall(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            answer = bytearray()
            while len(answer) < ADMIN_LIMIT_BYTES and (some := admin.recv(65536)):
                answer += some
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
            raise ValueError(f"admin answers {head[:60]!r}")
        return _dechunk(body) if b"transfer-encoding: chunked" in head.lower() else body


def _dechunk(body: bytes) -> bytes:
    out = bytearray()
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        out += rest[:length]
        body = rest[length + 2 :]
    return bytes(out)


def _appended(path: Path | None) -> int:
    """A descriptor that appends to this file; without one, to where our own errors go."""
    if path is None:
        return os.dup(2)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _start(command: tuple[str, ...], output: int, log: int) -> int:
    """Start a process that is nobody's child and return its pid."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        try:
            _become(command, output, log, writer, os.getpid())
        finally:
            os._exit(127)
    os.close(writer)
    try:
        raw = os.read(reader, 32)
    finally:
        os.close(reader)
        os.waitpid(middle, 0)
    return int(raw)


def _become(command: tuple[str, ...], output: int, log: int, writer: int, middle: int) -> None:
    """In the forked process: fork again, tell the pid, and let the grandchild be Envoy."""
    pid = os.fork()
    if pid:
        os.write(writer, str(pid).encode())
        os._exit(0)
    # Envoy's request for a signal at its parent's death must come when it has this parent no more.
    while os.getppid() == middle:
        time.sleep(0.001)
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(log, 2)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the agent's own argument list, no shell
    except OSError as exc:
        os.write(2, f"cannot start {command[0]}: {exc}\n".encode())
