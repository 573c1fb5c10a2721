"""Fields of a kind: from Gateway API's CRDs, and from our Structs. Pure.

A field here is a leaf: a text, number or truth, or a list of them (`[]` at its end), or a mapping whose keys are free.
What holds others is made of them, and has no line of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import inspect as i

from mesh.model import KINDS

ROUTES = ("HTTPRoute", "GRPCRoute", "TCPRoute", "ReferenceGrant")
VERSION = "v1"
CHANNELS = ("standard", "experimental")

FRAME = ("apiVersion", "kind", "metadata", "status")
"""What every resource has beside its spec."""


class Field(NamedTuple):
    kind: str
    path: str
    """From the object's root; `[]` behind each list."""
    type: str
    channel: str
    """Gateway API's; empty for kinds of our own."""
    values: tuple[str, ...] = ()
    """All that it can be, if it cannot be anything."""
    experimental: tuple[str, ...] = ()
    """Those of the values that are in the experimental channel only."""


# --- Gateway API's ---------------------------------------------------------------------------------------------------


def of_crds(kind: str, standard: Mapping[str, Any], experimental: Mapping[str, Any]) -> list[Field]:
    """The fields of the spec, by path, from the CRD in both channels."""
    firm = dict(_leaves(_schema(standard)["properties"]["spec"], "spec"))
    found = []
    for path, node in _leaves(_schema(experimental)["properties"]["spec"], "spec"):
        values = tuple(str(value) for value in node.get("enum", ()))
        known = {str(value) for value in firm.get(path, node).get("enum", ())}
        channel = CHANNELS[path not in firm]
        found.append(Field(kind, path, node["type"], channel, values, tuple(v for v in values if v not in known)))
    assert firm.keys() <= {field.path for field in found}
    return sorted(found, key=lambda field: field.path)


def frame(crd: Mapping[str, Any]) -> tuple[str, ...]:
    """What an object of the kind has on top, but for its spec."""
    return tuple(sorted(_schema(crd)["properties"].keys() - {"spec"}))


def _schema(crd: Mapping[str, Any]) -> Mapping[str, Any]:
    version = next(v for v in crd["spec"]["versions"] if v["name"] == VERSION)
    found: Mapping[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if parts := node.get("properties"):
        for name, part in parts.items():
            yield from _leaves(part, f"{path}.{name}")
    elif node["type"] == "array":
        yield from _leaves(node["items"], f"{path}[]")
    else:
        yield path, node


# --- ours ------------------------------------------------------------------------------------------------------------

_TYPES: dict[type[i.Type], str] = {
    i.StrType: "string",
    i.IntType: "integer",
    i.FloatType: "number",
    i.BoolType: "boolean",
    i.DictType: "object",
}


def of_struct(kind: str) -> list[Field]:
    """The fields of the spec, by path, as our Struct has them."""
    struct = i.type_info(KINDS[kind].struct)
    assert isinstance(struct, i.StructType)
    spec = next(field.type for field in struct.fields if field.name == "spec")
    return sorted(_fields(kind, spec, "spec"), key=lambda field: field.path)


def _fields(kind: str, info: i.Type, path: str) -> Iterator[Field]:
    match info:
        case i.StructType():
            for field in info.fields:
                yield from _fields(kind, field.type, f"{path}.{field.encode_name}")
        case i.VarTupleType():
            yield from _fields(kind, info.item_type, f"{path}[]")
        case i.UnionType():
            (one,) = (member for member in info.types if not isinstance(member, i.NoneType))
            yield from _fields(kind, one, path)
        case i.LiteralType():
            text = isinstance(info.values[0], str)
            yield Field(kind, path, "string" if text else "integer", "", tuple(str(v) for v in info.values))
        case _:
            yield Field(kind, path, _TYPES[type(info)], "")


# --- the compact list ------------------------------------------------------------------------------------------------

_MARK = "!"
"""Behind a value of the experimental channel."""


def write(head: str, fields: Iterable[Field]) -> str:
    """A line for each field, under a head."""
    lines = [f"# {line}" for line in head.splitlines()]
    for field in fields:
        values = (f"{value}{_MARK}" if value in field.experimental else value for value in field.values)
        lines.append(" ".join([field.kind, field.path, field.type, field.channel, "|".join(values)]).rstrip())
    return "\n".join(lines) + "\n"


def read(text: str) -> list[Field]:
    return [_line(line) for line in text.splitlines() if not line.startswith("#")]


def _line(line: str) -> Field:
    kind, path, type_, channel, *rest = line.split(" ")
    values = rest[0].split("|") if rest else []
    plain = tuple(value.removesuffix(_MARK) for value in values)
    return Field(kind, path, type_, channel, plain, tuple(v.removesuffix(_MARK) for v in values if v.endswith(_MARK)))
