"""Which fields are taken, and which refused in what words: specimens, run through the decoder and the checks."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh import codec, validate
from mesh.model import Violation
from tests.conformance.schema import Field

SPECIMENS = Path(__file__).parent / "specimens"


@dataclass(slots=True)
class Evidence:
    """Of one field."""

    taken: set[str] = field(default_factory=set)
    """Values that it has in documents that are accepted whole."""
    refused: dict[str, str] = field(default_factory=dict)
    """Value -> the violation that it led to, as `<path>: <reason>`."""


def documents() -> list[Mapping[str, Any]]:
    return [d for file in sorted(SPECIMENS.glob("*.yaml")) for d in codec.load_yaml(file.read_text())]


def violations(document: Mapping[str, Any], *beside: Mapping[str, Any]) -> tuple[Violation, ...]:
    """Everything that is wrong with it beside these, as the API would say."""
    found = codec.decode_strict(document)
    known = [other for tree in beside if not isinstance(other := codec.decode_strict(tree), tuple)]
    return found if isinstance(found, tuple) else validate.validate(found, {other.ref: other for other in known})


def gather(fields: Iterable[Field], specimens: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Evidence]:
    """By kind and path. Of a document that is refused, only what its violations are about counts."""
    found = {(each.kind, each.path): Evidence() for each in fields}
    maps = {(each.kind, each.path) for each in fields if each.type == "object"}
    for document in specimens:
        kind, faults = document["kind"], violations(document)
        for place, value in occurrences(document["spec"], "spec", kind, maps):
            evidence = found.get((kind, pattern(place)))
            if evidence is None:
                raise AssertionError(f"{kind} {document['metadata']['name']}: {place} is no field of the kind")
            if not faults:
                evidence.taken.add(str(value))
            for fault in faults:
                if concerns(fault.path, place):
                    evidence.refused[str(value)] = f"{fault.path}: {fault.reason}"
    return found


def pattern(place: str) -> str:
    return re.sub(r"\[\d+\]", "[]", place)


def occurrences(value: Any, place: str, kind: str, maps: set[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    """Each leaf of a document, with its place."""
    if isinstance(value, Mapping) and (kind, pattern(place)) not in maps:
        for name, part in value.items():
            yield from occurrences(part, f"{place}.{name}", kind, maps)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from occurrences(part, f"{place}[{index}]", kind, maps)
    else:
        yield place, value


def concerns(fault: str, place: str) -> bool:
    """Is a violation there about what stands at this place? A filter that is refused by its type is refused whole."""
    whole = fault.removesuffix("type") if fault.endswith("].type") else f"{fault}."
    return place == fault or place.startswith((whole, f"{fault}["))
