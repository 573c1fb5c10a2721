"""What the launcher writes down: for the agent, and for a launcher that comes after it. Standard library only."""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

LOCK = "launcher.pid"
RECORD = "envoy.json"
BASE_ID = "envoy.base-id"


@dataclass(frozen=True)
class Running:
    """One Envoy process. A pid alone may be reused; with its start time it is one process of this boot."""

    pid: int
    start: int
    """Clock ticks since boot (proc(5), stat field 22)."""
    epoch: int
    role: str
    """current, successor (starting beside it) or elder (draining)."""


@dataclass(frozen=True)
class Record:
    launcher: int
    boot: str
    phase: str
    """starting, live, handover, waiting (before a restart), draining, stopped."""
    started: float = 0.0
    """Unix seconds: when the current process was started."""
    restarts: int = 0
    """Unplanned ones."""
    refused_restarts: int = 0
    """Hot restarts whose new process died before it was live."""
    last_exit: str = ""
    base_id: int | None = None
    command: tuple[str, ...] = ()
    running: tuple[Running, ...] = ()

    @property
    def current(self) -> Running | None:
        return next((r for r in self.running if r.role == "current"), None)


def write(run_dir: Path, record: Record) -> None:
    """Replace the record as a whole. It is for this boot only, so it needs no fsync."""
    temporary = run_dir / (RECORD + ".new")
    temporary.write_text(json.dumps(asdict(record)))
    temporary.replace(run_dir / RECORD)


def read(run_dir: Path) -> Record | None:
    """The last record, or None if there is none that can be read."""
    try:
        raw = json.loads((run_dir / RECORD).read_text())
        running = tuple(Running(**r) for r in raw.pop("running"))
        return Record(**{**raw, "command": tuple(raw.pop("command"))}, running=running)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def alive(record: Record) -> tuple[Running, ...]:
    """Those of its processes that still run."""
    if record.boot != boot():
        return ()
    return tuple(r for r in record.running if start_of(r.pid) == r.start)


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_of(pid: int) -> int | None:
    """When this process was started; None if there is none, or if it has ended and was not reaped."""
    try:
        # The command's name, in parentheses, may hold anything; what follows it is numbers.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def lock(run_dir: Path) -> int | None:
    """Become the one launcher of this directory: a descriptor to keep, or None if there is one already."""
    descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def launcher_of(run_dir: Path) -> int | None:
    """Pid of the launcher that holds the lock, or None if nobody does."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(ValueError):
            return int(os.pread(descriptor, 32, 0))
        return None
    else:
        return None
    finally:
        os.close(descriptor)
