"""Resource files: a path, a directory or stdin, as documents that know where they came from."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from controlplane.cli.errors import CliError, Exit

SUFFIXES = {".yaml", ".yml", ".json"}


class Source(NamedTuple):
    document: dict[str, Any]
    origin: str
    """File and place in it, for messages."""


def read(paths: Iterable[str]) -> list[Source]:
    """Every document of these files; directories are searched to their bottom, in name order.

    Raises:
        CliError: with every file that cannot be used, not only the first.

    """
    found: list[Source] = []
    faults: list[str] = []
    for path in paths:
        for name, content in _contents(path, faults):
            _parse(name, content, found, faults)
    if faults:
        raise CliError("input cannot be used; nothing was sent", code=Exit.REFUSED, details=faults)
    if not found:
        raise CliError(
            "no objects found", code=Exit.USAGE, hint=f"files end in {', '.join(sorted(SUFFIXES))}; `-` reads stdin"
        )
    return found


def _contents(path: str, faults: list[str]) -> Iterable[tuple[str, str]]:
    if path == "-":
        yield "<stdin>", sys.stdin.read()
        return
    root = Path(path)
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not files:
            faults.append(f"{path}: no file in it ends in {', '.join(sorted(SUFFIXES))}")
    else:
        files = [root]
    for file in files:
        try:
            yield str(file), file.read_text()
        except UnicodeDecodeError:
            faults.append(f"{file}: not text in UTF-8")
        except OSError as exc:
            faults.append(f"{file}: {exc.strerror}")


def _parse(name: str, content: str, found: list[Source], faults: list[str]) -> None:
    from mesh import codec

    try:
        documents = codec.load_yaml(content)
    except codec.BadDocument as exc:
        faults.append(f"{name}: {exc}")
        return
    for index, document in enumerate(documents, start=1):
        origin = name if len(documents) == 1 else f"{name} (document {index})"
        if isinstance(document, dict):
            # A List, as `get -o yaml` prints it, is its items.
            items = document.get("items") if document.get("kind") == "List" else None
            found += [Source(item, origin) for item in items or [document] if isinstance(item, dict)]
        elif document is not None:
            faults.append(f"{origin}: a resource is a mapping with apiVersion, kind and metadata")
