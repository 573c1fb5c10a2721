"""What a distribution folder holds: manifest.json, read and written. The folder is trusted for nothing beyond it."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

NAME = "manifest.json"
FORMAT = 1
MAX_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000

Kind = Literal["wheel", "binary", "unit", "script"]
KINDS: tuple[Kind, ...] = ("wheel", "binary", "unit", "script")
ARCHES = ("x86_64", "aarch64")

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,199}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One file."""

    path: str
    sha256: str
    size: int
    kind: Kind
    arch: str = "any"
    python: str = "any"
    """`3.11`: for that one only."""
    name: str
    version: str
    source: str = ""
    """Where a program came from: the wheel it was in with its SHA-256, or what it was built from."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    version: str
    """The project's."""
    files: tuple[Entry, ...]

    def entry(self, path: str) -> Entry | None:
        return next((entry for entry in self.files if entry.path == path), None)


def build(version: str, entries: Iterable[Entry]) -> Manifest:
    return Manifest(version=version, files=tuple(sorted(entries, key=lambda entry: entry.path)))


def encode(manifest: Manifest) -> bytes:
    """The same manifest, the same bytes."""
    full = msgspec.to_builtins(manifest)
    for entry in full["files"]:
        # Spelled out for readers that know no defaults.
        entry.setdefault("arch", "any")
        entry.setdefault("python", "any")
    return msgspec.json.format(msgspec.json.encode({"format": FORMAT, **full}), indent=1) + b"\n"


def parse(raw: bytes) -> Manifest | tuple[str, ...]:
    """A manifest, or everything that is wrong with it."""
    if len(raw) > MAX_BYTES:
        return (f"larger than {MAX_BYTES // 2**20} MiB",)
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as exc:
        return (f"cannot be read: {exc}",)
    if manifest.format != FORMAT:
        return (f"is of format {manifest.format}, and this version reads format {FORMAT}",)
    faults = [f"files: {len(manifest.files)} are more than {MAX_FILES}"] if len(manifest.files) > MAX_FILES else []
    seen: set[str] = set()
    for index, entry in enumerate(manifest.files[:MAX_FILES]):
        faults += [f"files[{index}].{fault}" for fault in _entry_faults(entry)]
        if entry.path in seen:
            faults.append(f"files[{index}].path: {entry.path} is listed twice")
        seen.add(entry.path)
    return tuple(faults) or manifest


def _entry_faults(entry: Entry) -> list[str]:
    faults = []
    if fault := path_fault(entry.path):
        faults.append(f"path: {fault}")
    if not _SHA256.match(entry.sha256):
        faults.append(f"sha256: {entry.sha256[:80]!r} is not a SHA-256 in hex")
    if entry.size < 0:
        faults.append(f"size: {entry.size} is negative")
    return faults


def path_fault(path: str) -> str:
    """What keeps it from being a path inside of the folder; empty: nothing."""
    segments = path.split("/")
    if len(path) > 400 or len(segments) > 4 or not all(_SEGMENT.match(segment) for segment in segments):
        return f"{path[:80]!r} is not a plain relative path"
    return f"{NAME} cannot list itself" if path == NAME else ""
