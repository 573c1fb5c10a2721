"""What the agent wants of a launcher that runs as another user: a file that the one writes and the other reads.

Nobody writes into the other's folder. The agent's holds this file and the bootstrap, for Envoy's group to read; the
launcher's holds its lock, its record and its sockets. Standard library only.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "wanted.json"
MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Wanted:
    arguments: tuple[str, ...]
    """Of Envoy, after its program, which is the launcher's own affair."""
    drain_seconds: float
    parent_shutdown_seconds: int
    rotate: tuple[str, ...] = ()
    """Access logs to keep bounded, besides Envoy's standard output."""


def write(folder: Path, wanted: Wanted) -> Path:
    """Replace the file as a whole; returns where it is."""
    path = folder / FILE
    text = json.dumps(asdict(wanted))
    with suppress(OSError):
        if path.read_text() == text:
            return path
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.chmod(0o640)
    temporary.replace(path)
    return path


def read(folder: Path) -> Wanted | None:
    """What is wanted, or None if nothing was said yet, or nothing that can be understood."""
    try:
        with (folder / FILE).open("rb") as file:
            raw = json.loads(file.read(MAX_BYTES))
        return Wanted(
            arguments=_texts(raw["arguments"]),
            drain_seconds=float(raw["drain_seconds"]),
            parent_shutdown_seconds=int(raw["parent_shutdown_seconds"]),
            rotate=_texts(raw["rotate"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _texts(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(text, str) and "\0" not in text for text in raw):
        raise TypeError("not a list of texts")
    return tuple(raw)
