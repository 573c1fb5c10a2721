"""The tables in docs/traffic.md: each field is honoured, as a test shows, or refused, in the words of the refusal."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.conformance import evidence, listed
from tests.conformance.evidence import Evidence
from tests.conformance.expectations import TESTS
from tests.conformance.schema import Field

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "traffic.md"
HONOURED = Path(__file__).parent / "honoured.yaml"
SUITE = "tests/conformance/test_mesh.py::test_published"

_HEAD = "<!-- Made by `python -m tests.conformance`; what is written here by hand is lost. -->"
_TAIL = "<!-- End of what is made. -->"

Tests = Mapping[str, Mapping[str, str]]
"""Kind -> path of a field, or of what holds it -> test."""


class Row(NamedTuple):
    field: Field
    value: str
    """One value of the field, where it alone is refused."""
    test: str
    refused: str
    """Words of the violation; empty: honoured."""


def honoured() -> Tests:
    return {kind: found or {} for kind, found in yaml.safe_load(HONOURED.read_text()).items()}


def test_of(tests: Tests, field: Field) -> str:
    """The test of the field itself, or else of the nearest part that holds it; empty: none yet."""
    known, path = tests.get(field.kind, {}), field.path
    while path not in known:
        shorter = re.sub(r"(\[\]|\.?[^.\[\]]+)$", "", path)
        if shorter in {path, ""}:
            return ""
        path = shorter
    return known[path]


def rows(fields: Iterable[Field], found: Mapping[tuple[str, str], Evidence], tests: Tests) -> Iterator[Row]:
    for field in fields:
        seen = found[field.kind, field.path]
        if not seen.taken and not seen.refused:
            raise AssertionError(f"{field.kind} {field.path} is in none of the specimens")
        if not seen.taken:
            yield Row(field, "", "", next(iter(seen.refused.values())))
            continue
        if unknown := set(field.values) - seen.taken - seen.refused.keys():
            raise AssertionError(f"{field.kind} {field.path}: {unknown} are in none of the specimens")
        yield Row(field, "", test_of(tests, field), "")
        for value, words in seen.refused.items():
            yield Row(field, value, "", words)


def current() -> list[Row]:
    fields = listed.fields()
    return list(rows(fields, evidence.gather(fields, evidence.documents()), honoured()))


# --- as text ---------------------------------------------------------------------------------------------------------


def markdown(found: Iterable[Row]) -> str:
    """A table for each kind."""
    by_kind: dict[str, list[Row]] = {}
    for row in found:
        by_kind.setdefault(row.field.kind, []).append(row)
    return "\n\n".join("\n".join(_lines(kind, listing)) for kind, listing in by_kind.items())


def _lines(kind: str, listing: list[Row]) -> Iterator[str]:
    channels = any(row.field.channel for row in listing)
    yield f"### {kind}\n"
    yield "| field | channel | |" if channels else "| field | |"
    yield "|---|---|---|" if channels else "|---|---|"
    for row in listing:
        value = f" = `{row.value}`" if row.value else ""
        channel = f" {_channel(row)} |" if channels else ""
        yield f"| `{row.field.path}`{value} |{channel} {_outcome(row)} |"


def _channel(row: Row) -> str:
    return "experimental" if row.value in row.field.experimental else row.field.channel


def _outcome(row: Row) -> str:
    if row.refused:
        return f"refused: `{row.refused.replace('|', chr(92) + '|')}`"
    if not row.test:
        return "no test yet"
    file, _, name = row.test.partition("::")
    return f"honoured: [`{name}`](../{file})"


_PLACES = {
    "on ports of protocol tcp": {"kind": "Service", "spec": {"ports": [{"port": 80, "protocol": "tcp"}]}},
    "for an ExternalService": {
        "kind": "ExternalService", "spec": {"hosts": ["api.example"], "ports": [{"port": 80, "protocol": "http"}]}
    },
}  # fmt: skip
"""Where a TrafficPolicy can have less than elsewhere, as what it is for."""


def places() -> str:
    """A table of what is refused there though it is honoured elsewhere, by the specimens that are taken."""
    policies = [d for d in evidence.documents() if d["kind"] == listed.POLICY and not evidence.violations(d)]
    lines = ["### TrafficPolicy, by what it is for", "", "| field | where | |", "|---|---|---|"]
    for where, tree in _PLACES.items():
        there = {"apiVersion": "holdfast.dev/v1", "metadata": {"name": "api", "namespace": "shop"}, **tree}
        found = {fault.path: fault for policy in policies for fault in evidence.violations(policy, there)}
        lines += [f"| `{path}` | {where} | refused: `{path}: {found[path].reason}` |" for path in sorted(found)]
    return "\n".join(lines)


def tables() -> str:
    return f"{markdown(current())}\n\n{places()}"


def put(page: str, tables: str) -> str:
    """The page with these tables in place of those that it has."""
    before, _, rest = page.partition(_HEAD)
    _, _, after = rest.partition(_TAIL)
    if not rest or not after:
        raise AssertionError("the page has no place for the tables")
    return f"{before}{_HEAD}\n\n{tables}\n\n{_TAIL}{after}"


# --- do the tests exist? ---------------------------------------------------------------------------------------------


def test_fault(test: str, paths: Iterable[str]) -> str:
    """What is wrong with naming this test for these fields; empty if nothing is."""
    file, _, name = test.partition("::")
    function, _, case = name.partition("[")
    if not (ROOT / file).is_file():
        return f"{test}: there is no such file"
    if function not in _functions(ROOT / file):
        return f"{test}: there is no such test in the file"
    if f"{file}::{function}" == SUITE:
        known = {published.name for published in TESTS}
        return "" if case.removesuffix("]") in known else f"{test}: no such test is published"
    text = (ROOT / file).read_text()
    for path in paths:
        last = path.rpartition(".")[2].removesuffix("[]")
        snake = re.sub(r"([A-Z])", r"_\1", last).lower()
        if last not in text and snake not in text:
            return f"{test}: {last} of {path} does not occur in the file"
    return ""


@cache
def _functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
