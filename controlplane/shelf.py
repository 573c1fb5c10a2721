"""The distribution folder as this node hands it out: what its manifest lists, and only while it is what that says."""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from controlplane import manifest
from controlplane.manifest import Manifest

log = structlog.get_logger(__name__)

Stamp = tuple[int, int, int]
"""Time of change, size and inode: equal stamps, equal files."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The manifest as it is on disk now."""

    raw: bytes
    sha256: str
    manifest: Manifest


class Shelf:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: tuple[Stamp, Catalogue | None] | None = None
        self._good: dict[str, tuple[Stamp, str]] = {}
        """Path -> the stamp at which its hash was found right, and that hash. Files of many MB are read once for it."""
        self._hashing = asyncio.Lock()

    async def catalogue(self) -> Catalogue | None:
        """None: there is no folder, or none that can be read; the log says which."""
        return await asyncio.to_thread(self._load)

    async def find(self, path: str) -> Path | None:
        """A file that the manifest lists and that has the hash it lists. None: there is no such file."""
        catalogue = await self.catalogue()
        entry = catalogue.manifest.entry(path) if catalogue else None
        if entry is None:
            return None
        # One at a time: callers are strangers, and hashing takes a core.
        async with self._hashing:
            good = await asyncio.to_thread(self._check, entry.path, entry.sha256)
        return self._folder / entry.path if good else None

    def _load(self) -> Catalogue | None:
        path = self._folder / manifest.NAME
        try:
            stamp = _stamp(path)
            if self._held is not None and self._held[0] == stamp:
                return self._held[1]
            with path.open("rb") as file:
                raw = file.read(manifest.MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            log.warning("distribution folder cannot be read", folder=str(self._folder), error=str(exc))
            return None
        found = manifest.parse(raw)
        if isinstance(found, tuple):
            log.warning("distribution folder is not served", folder=str(self._folder), faults=found[:10])
            self._held = (stamp, None)
            return None
        self._held = (stamp, Catalogue(raw, hashlib.sha256(raw).hexdigest(), found))
        return self._held[1]

    def _check(self, path: str, wanted: str) -> bool:
        file = self._folder / path
        try:
            stamp = _stamp(file)
            if self._good.get(path) == (stamp, wanted):
                return True
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as exc:
            log.warning("file of the distribution folder cannot be read", file=str(file), error=str(exc))
            return False
        if found != wanted:
            log.warning("file of the distribution folder is not what its manifest says", file=str(file))
            return False
        self._good[path] = (stamp, wanted)
        return True


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
