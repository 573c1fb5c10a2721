"""Commands on this machine, with an error that says what was run and what it answered."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


class VmError(Exception):
    """The hosts could not be had, or a command on one of them failed."""


NEEDED = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "nsenter": "util-linux",
}


def check_machine() -> None:
    """Raises with everything that keeps this machine from running hosts."""
    if os.geteuid() != 0:
        raise VmError("hosts for tests need root (mounts, a bridge, systemd-nspawn): run this as root, or with sudo")
    missing = sorted({package for command, package in NEEDED.items() if not shutil.which(command)})
    if missing:
        raise VmError(f"missing here: {', '.join(missing)}; on Debian or Ubuntu: apt-get install {' '.join(missing)}")


def call(
    *command: str | Path, check: bool = True, timeout: float = 60, stdin: str = "", log: Path | None = None
) -> str:
    """Standard output. `log` takes the place of the answer for commands that talk for long."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise VmError(f"{shown(words)}: no end within {timeout:g} s; it said: {exc.stdout!r} {exc.stderr!r}") from exc
    if log:
        log.write_text(done.stdout + done.stderr)
    if check and done.returncode != 0:
        raise VmError(f"{shown(words)}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def shown(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) < 300 else text[:300] + " …"
