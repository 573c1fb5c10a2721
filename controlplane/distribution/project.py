"""The project's own wheel: built from the source tree beside this module, or packed again from the installation."""

import base64
import csv
import hashlib
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from controlplane.distribution.wheels import DistributionError, Say

NAME = "holdfast"
EPOCH = 315532800
"""1980-01-01, the first date that a zip knows: equal sources make equal wheels."""
_DATE = (1980, 1, 1, 0, 0, 0)
_TREE = ("pyproject.toml", "README.md", "LICENSE", "mesh", "ca", "controlplane", "multicluster", "agent")
BUILD_SECONDS = 600.0


def tree() -> Path | None:
    """The source tree that this runs from."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "agent").is_dir() else None


def make(into: Path, scratch: Path, say: Say) -> Path:
    """The wheel of what is running.

    Raises:
        DistributionError: it cannot be made.

    """
    if root := tree():
        say(f"building {NAME}'s wheel from {root}")
        return _built(root, into, scratch)
    say(f"packing {NAME}'s wheel from this installation")
    return pack(importlib.metadata.distribution(NAME), into, NAME)


def _built(root: Path, into: Path, scratch: Path) -> Path:
    """Built from a copy, since the build writes beside its sources; modes are set, since a wheel has them in it."""
    source = scratch / "source"
    source.mkdir()
    for name in _TREE:
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif (root / name).is_file():
            shutil.copy(root / name, source / name)
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(source)]
    env = dict(os.environ) | {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    found = sorted(into.glob(f"{NAME}-*.whl"))
    if done.returncode or not found:
        raise DistributionError(f"{NAME}'s wheel could not be built:\n{done.stderr[-2000:]}")
    return found[-1]


def pack(installed: importlib.metadata.Distribution, into: Path, name: str) -> Path:
    """What an installer unpacked, packed again: without what it made itself."""
    files = {}
    for file in installed.files or ():
        inner = PurePosixPath(str(file))
        if ".." in inner.parts or inner.is_absolute() or inner.suffix == ".pyc":
            continue  # console scripts and compiled modules
        if inner.name in {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"} and ".dist-info" in str(inner):
            continue
        files[str(inner)] = Path(str(installed.locate_file(file))).read_bytes()
    info = next((inner.split("/", 1)[0] for inner in files if inner.endswith(".dist-info/WHEEL")), "")
    if not info:
        raise DistributionError(f"this installation of {name} has no record of its files; name a wheel with --wheel")
    files[f"{info}/RECORD"] = _record(files.items(), f"{info}/RECORD")
    target = into / f"{name}-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in sorted(files, key=lambda path: (path.startswith(info), path)):
            item = zipfile.ZipInfo(path, _DATE)
            item.compress_type, item.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            wheel.writestr(item, files[path])
    return target


def _record(files: Iterable[tuple[str, bytes]], own: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for name, content in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow((name, f"sha256={digest}", len(content)))
    writer.writerow((own, "", ""))
    return out.getvalue().encode()
