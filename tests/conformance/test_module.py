"""What is kept here of Gateway API is what the pinned module says. Needs the module: Go's cache, or its proxy."""

import re

import pytest
import yaml

from tests.conformance import evidence, listed, published, schema, table
from tests.conformance.expectations import TESTS

pytestmark = pytest.mark.real


def test_the_list_of_fields_is_that_of_the_module():
    assert listed.LIST.read_text() == listed.from_module(), "run `python -m tests.conformance --schema`"


def test_a_kind_has_nothing_on_top_that_the_page_does_not_name():
    for kind in schema.ROUTES:
        for channel in schema.CHANNELS:
            assert set(schema.frame(listed.crd(channel, kind))) <= set(schema.FRAME), kind


def test_no_published_test_is_left_out():
    """The list of expectations is that of the module: names, and the manifest of each."""
    found = {}
    for file in sorted((published.fetch(published.SUITE).folder / "tests/mesh").glob("*.go")):
        for part in re.split(r"(?=\bShortName:)", file.read_text())[1:]:
            name = re.match(r'ShortName:\s*"(\w+)"', part)
            manifests = re.search(r"Manifests:\s*\[\]string\{([^}]*)\}", part)
            assert name, file
            assert manifests, file
            found[name[1]] = [m.removeprefix("tests/mesh/") for m in re.findall(r'"([^"]+)"', manifests[1])]
    assert found == {test.name: [test.manifest] if test.manifest else [] for test in TESTS}


def test_a_published_test_is_named_only_for_fields_in_its_manifest():
    folder = published.fetch(published.SUITE).folder / "tests/mesh"
    manifests = {test.name: test.manifest for test in TESTS}
    for row in table.current():
        if row.test.startswith(f"{table.SUITE}["):
            name = row.test.partition("[")[2].removesuffix("]")
            documents = list(yaml.safe_load_all((folder / manifests[name]).read_text()))
            there = {
                evidence.pattern(place)
                for document in documents
                if document["kind"] == row.field.kind
                for place, _ in evidence.occurrences(document["spec"], "spec", document["kind"], set())
            }
            assert row.field.path in there, f"{row.test} has no {row.field.path}"
