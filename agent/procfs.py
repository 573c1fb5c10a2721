"""What the kernel lets a process have, read from /proc and the cgroups."""

from contextlib import suppress
from pathlib import Path

from agent import limits
from agent.limits import Limits

CGROUPS = Path("/sys/fs/cgroup")


def limits_of(pid: int | str, *, cgroups: Path = CGROUPS) -> Limits:
    """What the process with this pid, or `self`, may have. What cannot be read is not known."""
    files: int | None = None
    with suppress(OSError, ValueError):
        files = limits.open_files(Path(f"/proc/{pid}/limits").read_text(encoding="utf-8"))
    found, where = memory(), "this host"
    with suppress(OSError, ValueError):
        group = limits.cgroup(Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"))
        for most, path in _memory_of(cgroups, group):
            if found is None or most < found:
                found, where = most, f"memory.max of {path}"
    return Limits(files, found, where)


def memory() -> int | None:
    """Bytes of this host; None: not known."""
    with suppress(OSError, ValueError):
        return limits.total_memory(Path("/proc/meminfo").read_text(encoding="ascii"))
    return None


def _memory_of(cgroups: Path, group: str) -> list[tuple[int, str]]:
    """The limits of a cgroup and of all above it."""
    found = []
    place = Path(group)
    for path in (place, *place.parents):
        with suppress(OSError, ValueError):
            text = (cgroups / str(path).lstrip("/") / "memory.max").read_text(encoding="ascii").strip()
            if text != "max":
                found.append((int(text), str(path)))
    return found
