"""Resource files are read whole, and every file that cannot be used is told."""

import pytest

from controlplane.cli.apply import located, name_of
from controlplane.cli.errors import CliError, Exit
from controlplane.cli.files import read

ONE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"


def test_a_directory_is_read_to_its_bottom_in_name_order(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.yaml").write_text(ONE + "---\n" + ONE.replace("shop", "ops"))
    (tmp_path / "sub" / "a.json").write_text('{"kind": "Namespace", "metadata": {"name": "json"}}')
    (tmp_path / "notes.txt").write_text("not a resource")
    found = read([str(tmp_path)])
    assert [s.document["metadata"]["name"] for s in found] == ["shop", "ops", "json"]
    assert found[1].origin.endswith("b.yaml (document 2)")


def test_a_list_is_its_items(tmp_path):
    path = tmp_path / "l.yaml"
    path.write_text(
        "kind: List\nitems:\n- {kind: Service, metadata: {name: a}}\n- {kind: Service, metadata: {name: b}}\n"
    )
    assert [s.document["metadata"]["name"] for s in read([str(path)])] == ["a", "b"]


def test_all_bad_files_are_told_at_once_and_nothing_is_sent(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.yaml").write_text("- a list\n")
    (tmp_path / "d.yaml").write_text(ONE)
    with pytest.raises(CliError) as caught:
        read([str(tmp_path), str(tmp_path / "missing.yaml")])
    assert caught.value.exit_code == Exit.REFUSED
    assert [any(name in d for d in caught.value.details) for name in ("a.yaml", "b.yaml", "c.yaml", "missing")] == [
        True
    ] * 4
    assert len(caught.value.details) == 4


def test_nothing_to_apply_is_a_usage_error(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(CliError) as caught:
        read([str(tmp_path)])
    assert caught.value.exit_code == Exit.USAGE


def test_violations_are_told_with_the_file_they_are_in():
    error = CliError("nothing was written", details=["Service shop/api spec.ports: wrong", "Service shop/apis: wrong"])
    document = {"kind": "Service", "metadata": {"name": "api", "namespace": "shop"}}
    assert located(error, {name_of(document): "api.yaml"}).details == (
        "api.yaml: Service shop/api spec.ports: wrong",
        "Service shop/apis: wrong",
    )


def test_name_of_a_document_with_nothing_in_it():
    assert name_of({}) == "? ?"
    assert name_of({"kind": "Node", "metadata": {"name": "n"}}) == "Node n"
