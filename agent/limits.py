"""Are files and memory enough for what the agent and Envoy are set to take? Pure: numbers in, words out.

Where they are not, the kernel refuses or kills before Envoy's own overload manager has refused anything.
"""

from dataclasses import dataclass

FILES_A_CONNECTION = 2
"""One from the caller, one on to the application."""
OTHER_FILES = 1024
"""Libraries, listeners, logs, connections of its own; ample."""
AGENT_FILES = 1024
AGENT_MEMORY = 128 * 2**20
HEAP_MIB, HEAP_USUAL_SHARE = 2048, 0.6
"""Of Envoy, where nothing is set: so much, and of a small host's memory no more than this share."""
HEAP_SHARE = 0.85
"""Of its memory, at most, is to be Envoy's heap: stacks, code and the buffers of the kernel count, too."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process."""

    files: int | None = None
    """How many it may have open; None: any number."""
    memory: int | None = None
    """Bytes; None: not known."""
    memory_of: str = ""
    """Who sets the limit: a cgroup's path, or `this host`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What Envoy is set to take."""

    connections: int
    heap: int
    """Bytes."""

    @property
    def files(self) -> int:
        return FILES_A_CONNECTION * self.connections + OTHER_FILES


def heap_mib(memory: int | None) -> int:
    """What Envoy's heap may be with so much memory, where nothing is set."""
    return HEAP_MIB if memory is None else max(64, min(HEAP_MIB, int(memory * HEAP_USUAL_SHARE) >> 20))


def of_envoy(limits: Limits, wanted: Wanted) -> tuple[str, ...]:
    """What is too low, and what to do."""
    found = []
    if limits.files is not None and limits.files < wanted.files:
        fits = max(1, (limits.files - OTHER_FILES) // FILES_A_CONNECTION)
        found.append(
            f"Envoy may have {limits.files} files open and takes {wanted.connections} connections, for which it needs "
            f"{wanted.files}: raise LimitNOFILE of holdfast-envoy.service, or set envoy.maxConnections to {fits}"
        )
    if limits.memory is not None and wanted.heap > limits.memory * HEAP_SHARE:
        fits = int(limits.memory * HEAP_SHARE) >> 20
        found.append(
            f"Envoy's heap may grow to {_mib(wanted.heap)}, and its memory ends at {_mib(limits.memory)} "
            f"({limits.memory_of}): it would be killed before it refuses requests; set envoy.maxHeapMib to {fits}, or "
            "give it more"
        )
    return tuple(found)


def of_agent(limits: Limits) -> tuple[str, ...]:
    """What is too low, and what to do."""
    found = []
    if limits.files is not None and limits.files < AGENT_FILES:
        found.append(
            f"the agent may have {limits.files} files open and needs {AGENT_FILES}: raise LimitNOFILE of "
            "holdfast-agent.service"
        )
    if limits.memory is not None and limits.memory < AGENT_MEMORY:
        found.append(
            f"the agent's memory ends at {_mib(limits.memory)} ({limits.memory_of}), and it needs "
            f"{_mib(AGENT_MEMORY)}: raise MemoryMax of holdfast-agent.service"
        )
    return tuple(found)


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"


def open_files(text: str) -> int | None:
    """The soft limit in /proc/<pid>/limits.

    Raises:
        ValueError: it is not in there.

    """
    for line in text.splitlines():
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return None if soft == "unlimited" else int(soft)
    raise ValueError("no line `Max open files`")


def cgroup(text: str) -> str:
    """The path of the cgroup (v2) in /proc/<pid>/cgroup; empty: it has none."""
    return next((line.removeprefix("0::") for line in text.splitlines() if line.startswith("0::/")), "")


def total_memory(text: str) -> int | None:
    """Bytes, by /proc/meminfo."""
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None
