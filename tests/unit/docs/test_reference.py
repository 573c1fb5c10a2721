"""docs/reference.md has every field with its default, every metric, and nothing else."""

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import metrics as agent_metrics
from agent.settings import Settings as AgentSettings
from controlplane.metrics import Metrics as NodeMetrics
from controlplane.settings import Settings as NodeSettings
from mesh.model import KINDS, ServiceDefinition

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"
KIND_NAMES = ("Service", "AuthorizationPolicy", "ExternalService", "MeshConfig", "Node", "Peering", "ExportPolicy")
STRUCTS = {
    "agent.yaml": AgentSettings,
    "services.d": ServiceDefinition,
    "controlplane.yaml": NodeSettings,
    **{kind: KINDS[kind].struct for kind in KIND_NAMES},
}


def inner(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct in a type, alone, optional or one of many."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for part in typing.get_args(kind) if (found := inner(part))), None)


def many(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return origin is tuple or (origin in {typing.Union, types.UnionType} and any(map(many, typing.get_args(kind))))


def text(field: msgspec.structs.FieldInfo, kind: Any) -> str:
    """The column `default`."""
    if field.required:
        return "**required**"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if typing.get_origin(kind) is typing.Literal:
        return " \\| ".join(f"**{word}**" if word == default else word for word in typing.get_args(kind))
    if inner(kind) or default in ("", None, (), {}):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(f"`{part}`" for part in default)
    return f"`{default}`" if isinstance(default, str) else str(default).removesuffix(".0")


def fields(struct: type[msgspec.Struct], at: str = "") -> Iterator[tuple[str, str]]:
    kinds = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        kind = kinds[field.name]
        path = f"{at}{field.encode_name}" + ("[]" if many(kind) else "")
        yield path, text(field, kind)
        if found := inner(kind):
            yield from fields(found, f"{path}.")


def rows(section: str) -> dict[str, str]:
    """Field -> default, as the page has them."""
    after = re.split(rf"^##+ {re.escape(section)}\n", PAGE.read_text(), flags=re.MULTILINE)[1]
    table = re.split(r"^##", after, flags=re.MULTILINE)[0]
    found = re.findall(r"^\| `([^`]+)` \|((?:\\\||[^|])*)\|", table, re.MULTILINE)
    return {path: default.strip() for path, default in found}


@pytest.mark.parametrize("section", STRUCTS)
def test_fields_and_defaults_are_those_of_the_code(section):
    common = ("apiVersion", "kind", "metadata", "spec", "status") if section in KIND_NAMES else ()
    wanted = {
        path: default
        for path, default in fields(STRUCTS[section])
        if not path.startswith("metadata.") and path not in common
    }
    assert rows(section) == wanted


def test_kinds_that_operators_write_are_all_somewhere():
    elsewhere = {"HTTPRoute", "GRPCRoute", "TCPRoute", "ReferenceGrant", "TrafficPolicy", "Namespace"}
    assert {name for name, kind in KINDS.items() if kind.operator} == {*KIND_NAMES, *elsewhere}


def test_metrics_are_those_of_the_code():
    agents = {row.name for row in vars(agent_metrics).values() if isinstance(row, agent_metrics.Metric)}
    nodes = re.findall(
        r"^# TYPE (holdfast_\w+) (?:counter|gauge|histogram)$", NodeMetrics().page().decode(), re.MULTILINE
    )
    named = re.findall(r"^\| `(holdfast_\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted({*agents, *nodes})


def test_kinds_have_the_words_that_holdfast_get_takes():
    for name, kind in KINDS.items():
        words = ", ".join(f"`{word}`" for word in (kind.plural, *kind.short))
        scope = "namespace" if kind.namespaced else "cluster"
        author = "operators" if kind.operator else "the control plane"
        assert f"| `{name}` | {scope} | {words} | {author} |\n" in PAGE.read_text()
