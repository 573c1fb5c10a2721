"""This checkout under other versions, as distribution folders."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist

ROOT = Path(__file__).parents[2]
HERE: dict[str, Any] = {"arches": ("x86_64",), "pythons": ("3.11",)}
"""For hosts like these."""


def build_version(folder: Path, version: str, *, change: Callable[[Path], None] = lambda _: None, **order: Any) -> Path:
    """The same sources as `folder/version`; `change` may spoil them before."""
    source = folder / f"source-{version}"
    source.mkdir()
    for name in ("mesh", "ca", "controlplane", "multicluster", "agent"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    text = (source / "pyproject.toml").read_text()
    (source / "pyproject.toml").write_text(text.replace('version = "0.1.0"', f'version = "{version}"', 1))
    change(source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=300)
    wheel = next(folder.glob(f"holdfast-{version}-*.whl"))
    build_dist(folder / version, Order(**{**HERE, "wheel": wheel, **order}), lambda _: None)
    return folder / version
