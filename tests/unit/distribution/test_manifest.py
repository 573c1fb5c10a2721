import msgspec
import pytest

from controlplane import manifest
from controlplane.manifest import Entry

WHEEL = Entry(path="wheels/a-1-py3-none-any.whl", sha256="a" * 64, size=3, kind="wheel", name="a", version="1")
ENVOY = Entry(
    path="bin/x86_64/envoy", sha256="b" * 64, size=5, kind="binary", arch="x86_64", name="envoy", version="1.40.0"
)


def test_what_is_written_is_read_and_the_order_of_entries_does_not_matter():
    one, other = manifest.build("0.1.0", [WHEEL, ENVOY]), manifest.build("0.1.0", [ENVOY, WHEEL])
    assert manifest.encode(one) == manifest.encode(other)
    assert manifest.parse(manifest.encode(one)) == one


def test_each_entry_spells_out_architecture_and_python():
    tree = msgspec.json.decode(manifest.encode(manifest.build("0.1.0", [WHEEL])))
    assert (tree["format"], tree["files"][0]["arch"], tree["files"][0]["python"]) == (1, "any", "any")


def changed(**fields: object) -> bytes:
    tree = msgspec.json.decode(manifest.encode(manifest.build("0.1.0", [WHEEL])))
    tree["files"][0] |= fields
    return msgspec.json.encode(tree)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "wheels/../x", "wheels//x", "wheels/.x", "a/b/c/d/e", "wheels/a b", "x\n", "a\\b", "."],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str):
    faults = manifest.parse(changed(path=path))
    assert isinstance(faults, tuple)
    assert "files[0].path" in faults[0]


def test_all_faults_are_told_at_once():
    faults = manifest.parse(changed(path="../x", sha256="no", size=-1))
    assert isinstance(faults, tuple)
    assert [fault.split(":")[0] for fault in faults] == ["files[0].path", "files[0].sha256", "files[0].size"]


def test_a_file_listed_twice_is_refused():
    tree = msgspec.json.decode(manifest.encode(manifest.build("0.1.0", [WHEEL])))
    tree["files"] *= 2
    faults = manifest.parse(msgspec.json.encode(tree))
    assert isinstance(faults, tuple)
    assert "listed twice" in faults[0]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_manifest_is_a_fault_and_no_exception(raw: bytes):
    assert isinstance(manifest.parse(raw), tuple)


def test_a_later_format_is_named():
    tree = msgspec.json.decode(manifest.encode(manifest.build("0.1.0", [WHEEL])))
    faults = manifest.parse(msgspec.json.encode(tree | {"format": 2}))
    assert isinstance(faults, tuple)
    assert "format 2" in faults[0]
