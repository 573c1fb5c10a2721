"""What people write: a plain tree -> an object, or all of its violations.

The walk follows the types as msgspec.inspect tells them, so a new kind or field needs no code here. msgspec's own
decoder stops at the first fault; it has the last word on a tree in which the walk found none.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as i

from mesh.codec import corev1
from mesh.model import KINDS, Object, Violation
from mesh.model.checks import entry, nearest, shown

T = TypeVar("T")

MAX_VIOLATIONS = 100
"""Of one object; more help nobody."""

API_VERSIONS = tuple(dict.fromkeys([kind.api_version for kind in KINDS.values()] + ["v1"]))


def decode_strict(document: object) -> Object | tuple[Violation, ...]:
    """The object that a parsed YAML or JSON tree describes, or everything that is wrong with it. Never raises."""
    if not isinstance(document, Mapping):
        return (
            Violation(
                path="", reason=f"expected a resource (a mapping with apiVersion and kind), not {shown(document)}"
            ),
        )
    head = tuple(_head(document))
    if head:
        return head
    kind, version = str(document["kind"]), str(document["apiVersion"])
    if mapping := corev1.MAPPINGS.get((version, kind)):
        foreign = convert_strict(mapping.struct, document)
        return foreign if isinstance(foreign, tuple) else mapping.convert(foreign)
    row = KINDS[kind]
    # What a reader added: an object that was got can be applied as it is.
    plain = {key: value for key, value in document.items() if key != "status"}
    if row.kubernetes:
        plain = _without_bookkeeping(plain)
    return convert_strict(row.struct, {**plain, "apiVersion": row.api_version})


_BOOKKEEPING = frozenset({"managedFields", "ownerReferences", "finalizers", "selfLink", "deletionTimestamp"})


def _without_bookkeeping(document: dict[Any, Any]) -> dict[Any, Any]:
    """Without what a cluster wrote into an object besides what people did."""
    if isinstance(meta := document.get("metadata"), Mapping):
        kept = {key: value for key, value in meta.items() if key not in _BOOKKEEPING}
        return {**document, "metadata": kept}
    return document


def convert_strict(struct: type[T], tree: object, path: str = "") -> T | tuple[Violation, ...]:
    """Any Struct type from a tree (settings, definitions), or all violations. Never raises."""
    info: i.Type = _info(struct)  # type: ignore[arg-type]
    faults = tuple(islice(_walk(info, tree, path), MAX_VIOLATIONS))
    if faults:
        return faults
    try:
        return msgspec.convert(tree, struct)
    except (msgspec.ValidationError, RecursionError, OverflowError) as exc:
        # The walk knows no constraints (Meta): none of our types has any today.
        return (Violation(path=path, reason=str(exc)[:200]),)


def _head(document: Mapping[Any, Any]) -> Iterator[Violation]:
    """What apiVersion and kind say, everything else should be, so their faults hide all others."""
    kind, version = document.get("kind"), document.get("apiVersion")
    for name, value in (("apiVersion", version), ("kind", kind)):
        if name not in document:
            yield Violation(path=name, reason="is missing")
        elif not isinstance(value, str):
            yield Violation(path=name, reason=f"expected text, not {shown(value)}")
    if not isinstance(kind, str) or not isinstance(version, str):
        return
    if kind not in KINDS:
        yield Violation(path="kind", reason=f"no such kind: {shown(kind)}{nearest(kind, KINDS)}")
        if version not in API_VERSIONS:
            yield Violation(
                path="apiVersion", reason=f"no such apiVersion: {shown(version)}{nearest(version, API_VERSIONS)}"
            )
        return
    accepted = [KINDS[kind].api_version, *KINDS[kind].also, *(v for v, k in corev1.MAPPINGS if k == kind)]
    if version not in accepted:
        wanted = " or ".join(dict.fromkeys(accepted))
        yield Violation(path="apiVersion", reason=f"{shown(version)} is not that of a {kind}: write {wanted}")


@cache
def _info(struct: Any) -> i.Type:
    return i.type_info(struct)


def _walk(info: i.Type, value: object, path: str) -> Iterator[Violation]:
    match info:
        case i.StructType():
            yield from _struct(info, value, path)
        case i.DictType():
            yield from _mapping(info, value, path)
        case i.VarTupleType() | i.ListType() | i.SetType() | i.FrozenSetType():
            if not isinstance(value, list | tuple):
                yield _expected("a list", value, path)
                return
            for index, item in enumerate(value):
                yield from _walk(info.item_type, item, f"{path}[{index}]")
        case i.UnionType():
            yield from _union(info, value, path)
        case i.LiteralType():
            if value not in info.values or type(value) not in {type(v) for v in info.values}:
                near = nearest(value, [v for v in info.values if isinstance(v, str)]) if isinstance(value, str) else ""
                yield _expected(" or ".join(str(v) for v in info.values), value, path, near)
        case _:
            yield from _plain(info, value, path)


def _plain(info: i.Type, value: object, path: str) -> Iterator[Violation]:
    """Values without parts."""
    takes = _PLAIN.get(type(info))
    if takes is None:
        raise NotImplementedError(f"{path}: teach mesh.codec.strict the type {type(info).__name__}")
    if not takes(value):
        quote = isinstance(info, i.StrType) and isinstance(value, int | float)
        yield _expected(_name(info), value, path, "; put it in quotes" if quote else "")


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_whole(value: object) -> bool:
    # 64 bits, signed: what JSON readers everywhere take.
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


_PLAIN: dict[type[i.Type], Callable[[object], bool]] = {
    i.StrType: _is_text,
    i.BoolType: lambda value: isinstance(value, bool),
    i.IntType: _is_whole,
    i.FloatType: _is_number,
    i.NoneType: lambda value: value is None,
    i.AnyType: lambda _: True,
}

_NAMES: dict[type[i.Type], str] = {
    i.StrType: "text",
    i.BoolType: "true or false",
    i.IntType: "a whole number",
    i.FloatType: "a number",
    i.NoneType: "nothing",
    i.StructType: "a mapping",
    i.DictType: "a mapping",
}


def _struct(info: i.StructType, value: object, path: str) -> Iterator[Violation]:
    if not isinstance(value, Mapping):
        yield _expected("a mapping", value, path)
        return
    fields = {field.encode_name: field for field in info.fields}
    for key, item in value.items():
        where = entry(path, key)
        if not isinstance(key, str):
            yield Violation(path=where, reason="the key is not text: put it in quotes")
        elif field := fields.get(key):
            yield from _walk(field.type, item, where)
        else:
            yield Violation(path=where, reason=f"unknown field{nearest(key, fields)}")
    for name, field in fields.items():
        if field.required and name not in value:
            yield Violation(path=entry(path, name), reason="is missing")


def _mapping(info: i.DictType, value: object, path: str) -> Iterator[Violation]:
    if not isinstance(value, Mapping):
        yield _expected("a mapping", value, path)
        return
    for key, item in value.items():
        where = entry(path, key)
        if not _is_text(key):
            yield Violation(path=where, reason="the key is not text: put it in quotes")
        else:
            yield from _walk(info.value_type, item, where)


def _union(info: i.UnionType, value: object, path: str) -> Iterator[Violation]:
    """No fault if one member takes it; else the faults of the only member whose shape it has, or what was expected."""
    tried = {_name(member): tuple(islice(_walk(member, value, path), MAX_VIOLATIONS)) for member in info.types}
    if not all(tried.values()):
        return
    inside = [faults for faults in tried.values() if any(fault.path != path for fault in faults)]
    if len(inside) == 1:
        yield from inside[0]
    else:
        yield _expected(" or ".join(sorted(tried)), value, path)


def _name(info: i.Type) -> str:
    return _NAMES.get(type(info), "a list")


def _expected(what: str, value: object, path: str, hint: str = "") -> Violation:
    return Violation(path=path, reason=f"expected {what}, not {shown(value)}{hint}")
