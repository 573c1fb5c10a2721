"""What the figures were measured on."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from controlplane.demo import binaries


def facts(*, quick: bool) -> dict[str, Any]:
    etcd = binaries.find_etcd()
    return {
        "revision": _said(["git", "rev-parse", "--short", "HEAD"]) + (" and changes" if _changed() else ""),
        "samples": "few (--quick): not figures to report" if quick else "as said",
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processor": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory": _memory(),
        "load average": " ".join(f"{one:.2f}" for one in os.getloadavg()),
        "etcd": _said([str(etcd.etcd), "--version"]).removeprefix("etcd Version: "),
        "envoy": _said([str(binaries.find_envoy()), "--version"]).rpartition("version: ")[2],
        "openbao": _said([str(binaries.find_bao()), "version"]),
    }


def _said(command: list[str]) -> str:
    """First line that is not empty."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, cwd=Path(__file__).parent
        )
    except OSError as exc:
        return f"unknown ({exc.strerror})"
    return next((line.strip() for line in done.stdout.splitlines() if line.strip()), "unknown")


def _changed() -> bool:
    return _said(["git", "status", "--porcelain", "--untracked-files=no"]) != "unknown"


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _cpu_model() -> str:
    return _field("/proc/cpuinfo", "model name")


def _memory() -> str:
    text = _field("/proc/meminfo", "MemTotal").split()[0]
    return f"{int(text) / 2**20:.1f} GiB" if text.isdigit() else text
