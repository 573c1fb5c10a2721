"""The collection in ansible/, where Ansible finds it, and its commands."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def collections_path(folder: Path) -> Path:
    """A folder for ANSIBLE_COLLECTIONS_PATH, with this checkout's collection in it."""
    place = folder / "ansible_collections" / "holdfast"
    place.mkdir(parents=True, exist_ok=True)
    link = place / "mesh"
    if not link.is_symlink():
        link.symlink_to(ROOT / "ansible")
    return folder


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For Ansible's commands: nothing of this user's settings, and all that it writes in this folder."""
    settings = folder / "ansible.cfg"
    settings.touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "HOLDFAST_"))}
    return {
        **kept,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(settings),
        "ANSIBLE_HOME": str(folder / "ansible-home"),
        "ANSIBLE_COLLECTIONS_PATH": str(collections_path(folder)),
        "ANSIBLE_NOCOLOR": "1",
        **(more or {}),
    }


def ansible(
    folder: Path, *command: str, more: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """One of Ansible's commands, run in this folder."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
