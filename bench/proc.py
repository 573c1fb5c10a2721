"""What /proc says of a process, and how our processes are started for it."""

import compileall
import importlib.util
import os
from pathlib import Path

PACKAGES = ("mesh", "ca", "multicluster", "controlplane", "agent")

TICKS = os.sysconf("SC_CLK_TCK")


def as_installed() -> None:
    """Compile our modules, as the installation of a host does.

    A checkout whose environment forbids bytecode compiles them at every start, and keeps 1 MB of that.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in (spec and spec.submodule_search_locations) or ():
            compileall.compile_dir(folder, quiet=2)


def cpu_seconds(pid: int) -> float:
    """User and system time so far."""
    # The name in parentheses may hold anything, spaces included.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> dict[str, int]:
    """Resident bytes: `rss`, and of it `own` (private) and `shared` with other processes; `pss` splits the latter."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    own = found["Private_Clean"] + found["Private_Dirty"]
    return {"rss": found["Rss"], "pss": found["Pss"], "own": own, "anonymous": found["Anonymous"]}
