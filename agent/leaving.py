"""`holdfast-agent leave`: the installer's copy on this host takes everything away, this program included."""

import os
import sys
from pathlib import Path

INSTALLED = Path("/var/lib/holdfast-install")


class LeaveError(Exception):
    """The host cannot be left so, with what to do."""


def hand_over(*, keep_config: bool, drain_seconds: float, home: Path = INSTALLED) -> None:
    """Become the installer, under the system's Python: the one that runs this is among what is removed.

    Raises:
        LeaveError: there is no installer here, or not enough rights.

    """
    script = home / "install.py"
    if os.geteuid() != 0:
        raise LeaveError("this needs root: run it as root, or with sudo")
    if not script.is_file():
        raise LeaveError(
            f"{script} is not there: this host was not set up by install.py. Those of the Ansible collection leave "
            "with remove_hosts.yml; for one set up by hand: holdfast-agent drain, then remove what was put there"
        )
    arguments = ["--remove", "--drain-seconds", str(drain_seconds), *(["--keep-config"] if keep_config else [])]
    os.chdir("/")
    os.execv(system_python(Path(sys.prefix)), ["python3", "-I", str(script), *arguments])  # noqa: S606 - no shell


def system_python(environment: Path) -> str:
    """The Python that a virtual environment was made with, not a path through that environment."""
    return str((environment / "bin/python3").resolve())
