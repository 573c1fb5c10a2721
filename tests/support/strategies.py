"""Hypothesis strategies for the model: any value that a Struct's types allow, trees that resemble them, and others."""

from typing import Any

from hypothesis import strategies as st
from msgspec import inspect as i

from mesh.model import KINDS, Object

texts = st.text(st.characters(codec="utf-8"), max_size=12)
whole = st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)

scalars = st.none() | st.booleans() | whole | floats | texts | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=20,
)
"""What a parser may hand over, and some that none does."""


def values(info: i.Type) -> st.SearchStrategy[Any]:
    """Plain values (dict, list, ...) that a type takes."""
    match info:
        case i.StructType():
            required = {f.encode_name: values(f.type) for f in info.fields if f.required}
            optional = {f.encode_name: values(f.type) for f in info.fields if not f.required}
            return st.fixed_dictionaries(required, optional=optional)
        case i.DictType():
            return st.dictionaries(texts, values(info.value_type), max_size=3)
        case i.VarTupleType():
            return st.lists(values(info.item_type), max_size=3)
        case i.LiteralType():
            return st.sampled_from(info.values)
        case i.UnionType():
            return st.one_of([values(member) for member in info.types])
        case i.StrType():
            return texts
        case i.IntType():
            return whole
        case i.FloatType():
            return floats
        case i.BoolType():
            return st.booleans()
        case i.NoneType():
            return st.none()
        case i.AnyType():
            return st.none() | st.booleans() | texts
    raise NotImplementedError(info)


def document(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """A document of this kind that the types allow, its head filled in."""
    row = KINDS[kind]
    head = {"apiVersion": "holdfast.dev/v1" if kind == "Namespace" else row.api_version, "kind": kind}
    return values(i.type_info(row.struct)).map(lambda tree: tree | head)


documents = st.sampled_from(sorted(KINDS)).flatmap(document)


def objects(kind: str) -> st.SearchStrategy[Object]:
    import msgspec

    return document(kind).map(lambda tree: msgspec.convert(tree, KINDS[kind].struct))


any_object = st.sampled_from(sorted(KINDS)).flatmap(objects)


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """A document with one random part replaced by a random tree."""
    whole_tree = draw(documents)
    place: Any = whole_tree
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            place[key] = draw(trees)
            return whole_tree
        place = inner
