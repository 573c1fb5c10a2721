"""docs/traffic.md: its tables say what is so, and its examples are taken."""

import re

import pytest
import yaml

from tests.conformance import evidence, listed, schema, table
from tests.conformance.evidence import Evidence
from tests.conformance.schema import Field


def test_the_tables_are_those_that_are_made_now():
    made = table.put(table.PAGE.read_text(), table.tables())
    assert made == table.PAGE.read_text(), "run `python -m tests.conformance`"


def test_each_field_of_the_schema_and_of_our_structs_has_a_row():
    known = {(row.field.kind, row.field.path) for row in table.current()}
    assert {(field.kind, field.path) for field in listed.fields()} == known
    for kind in schema.ROUTES:
        paths = {path for named, path in known if named == kind}
        for ours in schema.of_struct(kind):
            # What is refused whole has a Struct without its inner fields.
            inner = {path for path in paths if path == ours.path or path.startswith(f"{ours.path}.")}
            assert inner, f"{kind} {ours.path} is no field of Gateway API"


def test_each_field_that_is_honoured_has_a_test_that_exists():
    missing, faults = [], []
    named: dict[str, list[str]] = {}
    for row in table.current():
        if row.test:
            named.setdefault(row.test, []).append(row.field.path)
        elif not row.refused:
            missing.append(f"{row.field.kind} {row.field.path}")
    for test, paths in named.items():
        faults += [fault] if (fault := table.test_fault(test, paths)) else []
    assert not faults
    assert not missing


def test_no_line_names_a_test_for_what_is_no_field():
    fields = listed.fields()
    for kind, lines in table.honoured().items():
        for path in lines:
            assert any(
                field.kind == kind and re.match(rf"{re.escape(path)}([.\[]|\Z)", field.path) for field in fields
            ), f"{kind} {path}"


def test_examples_are_taken():
    blocks = re.findall(r"^```yaml\n(.*?)^```", table.PAGE.read_text(), re.MULTILINE | re.DOTALL)
    documents = [document for block in blocks for document in yaml.safe_load_all(block)]
    assert len(documents) > 5
    for document in documents:
        assert evidence.violations(document) == (), document["metadata"]


POLICY = {"kind": "TrafficPolicy", "apiVersion": "holdfast.dev/v1", "metadata": {"name": "p", "namespace": "shop"}}


def policy(**spec):
    return {**POLICY, "spec": {"target": {"service": "api"}, **spec}}


def found(*documents):
    fields = listed.fields()
    return list(table.rows(fields, evidence.gather(fields, documents), {}))


def test_a_field_that_no_specimen_has_is_an_error():
    with pytest.raises(AssertionError, match=r"HTTPRoute spec\.hostnames\[\] is in none of the specimens"):
        found(policy())


def test_a_specimen_with_a_field_that_is_none_is_an_error():
    with pytest.raises(AssertionError, match=r"TrafficPolicy p: spec\.surprise is no field"):
        found(policy(surprise=1))


def test_only_what_a_violation_is_about_counts_as_refused():
    fields = schema.of_struct("TrafficPolicy")
    seen = evidence.gather(fields, [policy(timeouts={"connect": "0s", "idle": "5s"})])
    refused = seen["TrafficPolicy", "spec.timeouts.connect"]
    assert not refused.taken
    assert refused.refused["0s"].startswith("spec.timeouts.connect: ")
    assert seen["TrafficPolicy", "spec.timeouts.idle"] == Evidence()


def test_the_nearest_line_names_the_test():
    field = Field("HTTPRoute", "spec.rules[].matches[].path.value", "string", "standard")
    lines = {"spec.rules[].matches": "outer", "spec.rules[].matches[].path": "inner"}
    assert table.test_of({"HTTPRoute": lines}, field) == "inner"
    assert table.test_of({"HTTPRoute": {"spec.rules[].matches": "outer"}}, field) == "outer"
    assert table.test_of({"HTTPRoute": {"spec.rules[].match": "other"}}, field) == ""
    assert table.test_of({"GRPCRoute": lines}, field) == ""


@pytest.mark.parametrize(
    ("test", "path", "fault"),
    [
        ("tests/nowhere.py::test_a", "spec.x", "no such file"),
        ("tests/unit/mesh/test_routes.py::test_surprise", "spec.x", "no such test"),
        (
            "tests/unit/mesh/test_routes.py::test_durations",
            "spec.unheardOf",
            "unheardOf of spec.unheardOf does not occur",
        ),
        ("tests/unit/mesh/test_routes.py::test_durations", "spec.rules[].backendRefs[]", ""),
        ("tests/conformance/test_mesh.py::test_published[MeshPorts]", "spec.parentRefs[].port", ""),
        ("tests/conformance/test_mesh.py::test_published[MeshSurprise]", "spec.x", "no such test is published"),
        ("tests/conformance/test_mesh.py::test_published", "spec.x", "no such test is published"),
    ],
)
def test_a_test_must_exist_and_be_about_the_field(test, path, fault):
    assert (fault in table.test_fault(test, [path])) if fault else not table.test_fault(test, [path])


def test_the_list_of_fields_reads_as_it_was_written():
    fields = schema.read(listed.LIST.read_text())
    assert schema.read(schema.write("head", fields)) == fields
    assert any("*" in field.values for field in fields)
    assert any(field.experimental for field in fields)
