"""The drop-in that ties a service's own unit to its registration in the mesh."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SYSTEM = Path("/etc/systemd/system")
NAME = "holdfast.conf"
INSTALLED = Path("/usr/local/bin/holdfast-agent")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]+\.service")
INSTANCE = "%i"
"""systemd's word for what stands between `@` and `.service`."""
_SERVICE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class HookError(Exception):
    """The drop-in cannot be made, with what to do about it."""


def render(name: str, unit: str, timeout: float, stops: Sequence[str], config: Path) -> str:
    """The text. `stops`: the unit's own ExecStop lines, which must come after callers have left. Pure."""
    _check(name, unit)
    if not 0 < timeout <= 3600:
        raise HookError("--timeout is between 0 and 3600 seconds")
    if any(c.isspace() or c in "%$'\"" for c in str(config)):
        raise HookError(f"{config}: a path in a unit file has no spaces, quotes, '%' or '$'")
    program = INSTALLED if INSTALLED.exists() else Path(shutil.which(sys.argv[0]) or sys.argv[0]).absolute()
    # '-': the unit starts and stops also without an agent. '+': the agent's socket is root's, not the service's user's.
    agent = f"-+{program} service"
    given = "" if str(config) == "/etc/holdfast/agent.yaml" else f" --config {config}"
    lines = [
        f"# {unit} and the mesh: callers leave before it stops, and come back when it is healthy.",
        f"# By `holdfast-agent service hook {name} --unit {unit}`.",
        "[Unit]",
        "# After a boot the agent is asked when it can answer; at a shutdown it and Envoy are still there.",
        "After=holdfast-agent.service holdfast-envoy.service",
        "[Service]",
        f"ExecStartPost={agent} start{given} {name}",
        *(["# Callers leave before the unit's own commands run.", "ExecStop="] if stops else []),
        f"ExecStop={agent} stop{given} --timeout {timeout:g} {name}",
        *(f"ExecStop={stop}" for stop in stops),
        f"TimeoutStopSec={timeout + 90:g}",
    ]
    return "\n".join(lines) + "\n"


def _check(name: str, unit: str) -> None:
    """Is it a unit, and does its stop mean this service alone?"""
    if not _SERVICE.fullmatch(name.replace(INSTANCE, "0")):
        raise HookError(f"{name[:80]!r} is not the name of a service")
    if not _UNIT.fullmatch(unit):
        raise HookError(f"{unit[:80]!r} is not the name of a service unit, such as web.service")
    template = unit.endswith("@.service")
    if template and INSTANCE not in name:
        first, dot, namespace = name.partition(".")
        raise HookError(
            f"{unit} is a template: the stop of any one of its instances would take {name} out of service for all of"
            f" them. If each instance is a service of its own, {first}-1 for {unit[:-8]}1.service, say"
            f" `service hook {first}-{INSTANCE}{dot}{namespace} --unit {unit}`; if {name} is one of them alone, name"
            " that instance's unit; if they share a port, tie none of them to it"
        )
    if not template and INSTANCE in name:
        raise HookError(f"{unit} is no template, and has no instance to put in place of {INSTANCE} in {name}")


def own_stops(unit: str) -> tuple[str, ...]:
    """What the unit itself runs to stop, without what this drop-in had said before."""
    if shutil.which("systemctl") is None:
        return ()
    done = subprocess.run(["systemctl", "cat", "--", unit], capture_output=True, text=True, check=False, timeout=10)
    if done.returncode:
        raise HookError(f"{unit}: {done.stderr.strip()[-200:] or 'systemd does not know it'}")
    return stops_of(done.stdout)


def stops_of(text: str) -> tuple[str, ...]:
    """The ExecStop lines in what `systemctl cat` prints; an empty one takes back those before it. Pure."""
    found: list[str] = []
    ours = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("# /"):
            ours = line.endswith(f"/{NAME}")
        elif not ours and (match := re.fullmatch(r"\s*ExecStop\s*=\s*(.*?)\s*", line)):
            found = [*found, match[1]] if match[1] else []
    return tuple(found)


def write(unit: str, text: str) -> Path:
    """Put it where systemd reads it."""
    path = SYSTEM / f"{unit}.d" / NAME
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        temporary.chmod(0o644)
        temporary.replace(path)
        subprocess.run(["systemctl", "daemon-reload"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as exc:
        raise HookError(f"{path}: {exc}") from exc
    return path
