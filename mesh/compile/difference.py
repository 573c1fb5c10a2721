"""What changes for a proxy between two snapshots, resource by resource."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mesh import pb
from mesh.compile.types import Resources, Snapshot


@dataclass(frozen=True, slots=True)
class Difference:
    type: str
    """Short type name: cds, eds, lds, rds, sds."""
    name: str
    action: Literal["add", "change", "remove"]
    before: str = ""
    """Versions; empty where there is none."""
    after: str = ""


def difference(before: Snapshot, after: Snapshot) -> tuple[Difference, ...]:
    """All resources whose content is another, by type and name. Who made them does not count, nor in which order."""
    return tuple(
        found
        for url, short in sorted(pb.SHORT.items(), key=lambda row: row[1])
        for found in _of_type(short, before.resources.get(url, {}), after.resources.get(url, {}))
    )


def _of_type(short: str, old: Resources, new: Resources) -> Iterator[Difference]:
    if old is new:
        return
    for name in sorted({*old, *new}):
        was, is_now = old.get(name), new.get(name)
        if was is None and is_now is not None:
            yield Difference(short, name, "add", after=is_now.version)
        elif was is not None and is_now is None:
            yield Difference(short, name, "remove", before=was.version)
        elif was is not None and is_now is not None and was.version != is_now.version:
            yield Difference(short, name, "change", was.version, is_now.version)
