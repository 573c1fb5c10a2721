"""Parts -> one tar.gz that only its owner may read. Every part ends up in the index: whole, cut, or missing and why."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from agent.doctor import secrets
from agent.doctor.parts import Part

TOTAL_MIB = 192
"""Of all parts together, before they are packed."""

INDEX = "index.json"


class Entry(NamedTuple):
    file: str
    state: str
    """ok, cut or missing."""
    bytes: int = 0
    reason: str = ""


def write(
    out: Path,
    parts: Iterable[Part],
    known: tuple[str, ...],
    about: dict[str, Any],
    say: Callable[[str], None],
    total: int = TOTAL_MIB * 2**20,
) -> dict[str, Any]:
    """Make the file.

    Args:
        out: Must not be there yet.
        parts: In order; what comes first has room first.
        known: This host's secrets, by heart.
        about: For the top of the index: `created` (Unix seconds) and `name`, the folder inside, among it.
        say: Is told of each part before it is collected.
        total: Bytes of all parts, before they are packed.

    Returns:
        The index.

    Raises:
        OSError: it cannot be written, or is there already; then it is not there, or as it was.

    """
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            index = pack(file, parts, known, about, say, total)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return index


def pack(
    file: IO[bytes],
    parts: Iterable[Part],
    known: tuple[str, ...],
    about: dict[str, Any],
    say: Callable[[str], None],
    total: int,
) -> dict[str, Any]:
    """The same into a file that is open; see `write`."""
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
        return _fill(tar, parts, known, about, say, total)


def _fill(
    tar: tarfile.TarFile,
    parts: Iterable[Part],
    known: tuple[str, ...],
    about: dict[str, Any],
    say: Callable[[str], None],
    room: int,
) -> dict[str, Any]:
    entries: list[Entry] = []
    for part in parts:
        say(part.file)
        raw, entry = collect(part, known, room)
        entries.append(entry)
        if entry.state != "missing":
            _add(tar, about, part.file, raw)
            room -= len(raw)
    # A file's name may be of somebody's choosing, as what is in it.
    index = json.loads(_clean(json.dumps({**about, "parts": [e._asdict() for e in entries]}).encode(), known))
    assert isinstance(index, dict)
    _add(tar, about, INDEX, json.dumps(index, indent=1).encode() + b"\n")
    return index


def collect(part: Part, known: tuple[str, ...], room: int) -> tuple[bytes, Entry]:
    """One part without secrets, and what to say of it."""
    try:
        raw = part.get()
        limit = min(part.limit, room)
        if not part.end and len(raw) > limit:
            # A piece of a document cannot be looked through for what is secret in it.
            return b"", Entry(part.file, "missing", reason=f"it has {len(raw)} bytes, and there is room for {limit}")
        kept = raw[-limit:] if limit > 0 else b""
        cleaned = _clean(kept, known)
    except Exception as exc:  # noqa: BLE001 - whatever stops one part must not stop the others, and is told
        return b"", Entry(part.file, "missing", reason=_reason(exc, known))
    if len(kept) == len(raw):
        return cleaned, Entry(part.file, "ok", len(cleaned))
    return cleaned, Entry(part.file, "cut", len(cleaned), f"the end of {len(raw)} bytes")


def _clean(raw: bytes, known: tuple[str, ...]) -> bytes:
    return secrets.forget(secrets.document(secrets.forget(raw, known)), known)


def _reason(exc: Exception, known: tuple[str, ...]) -> str:
    ours = type(exc).__module__.startswith("agent.")
    words = str(exc) if ours else f"{type(exc).__name__}: {exc}"
    if isinstance(exc, OSError) and exc.strerror:
        words = f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return secrets.forget(secrets.text(words[:500]).encode(), known).decode()


def _add(tar: tarfile.TarFile, about: dict[str, Any], name: str, raw: bytes) -> None:
    info = tarfile.TarInfo(f"{about['name']}/{name}")
    info.size, info.mtime, info.mode = len(raw), int(about["created"]), 0o600
    tar.addfile(info, io.BytesIO(raw))
