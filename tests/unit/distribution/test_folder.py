"""Folders on disk: what is whole, what is not, and that a failed build leaves what was there."""

import zipfile
from pathlib import Path

import pytest

from controlplane import manifest
from controlplane.distribution import folder
from controlplane.distribution.wheels import DistributionError
from controlplane.manifest import Entry


def make(place: Path) -> Path:
    (place / "wheels").mkdir(parents=True)
    wheel = place / "wheels/a-1-py3-none-any.whl"
    wheel.write_bytes(b"abc")
    digest, size = folder.file_hash(wheel)
    entry = Entry(path="wheels/a-1-py3-none-any.whl", sha256=digest, size=size, kind="wheel", name="a", version="1")
    (place / manifest.NAME).write_bytes(manifest.encode(manifest.build("1", [entry])))
    return place


def test_a_whole_folder_is_whole(tmp_path: Path):
    assert isinstance(folder.verify(make(tmp_path / "d")), manifest.Manifest)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("wheels/a-1-py3-none-any.whl", b"abd", "its SHA-256 is"),
        ("wheels/a-1-py3-none-any.whl", b"ab", "has 2 bytes instead of 3"),
        ("wheels/a-1-py3-none-any.whl", None, "cannot be read"),
        ("wheels/more.whl", b"x", "is not in manifest.json"),
        ("manifest.json", b"{}", "manifest.json: cannot be read"),
        ("manifest.json", None, "manifest.json cannot be read"),
    ],
)
def test_what_differs_is_told(tmp_path: Path, name: str, content: bytes | None, fault: str):
    path = make(tmp_path / "d") / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    faults = folder.verify(tmp_path / "d")
    assert isinstance(faults, tuple)
    assert fault in faults[0]


def test_a_failed_build_leaves_the_old_folder_and_nothing_beside_it(tmp_path: Path):
    place = make(tmp_path / "d")
    before = (place / manifest.NAME).read_bytes()
    wrong = tmp_path / "other-1-py3-none-any.whl"
    with zipfile.ZipFile(wrong, "w") as archive:
        archive.writestr("other-1.dist-info/METADATA", "Name: other\nVersion: 1\n")
    with pytest.raises(DistributionError, match="not holdfast's wheel"):
        folder.build(place, folder.Order(wheel=wrong), lambda _: None)
    assert (place / manifest.NAME).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", wrong.name]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_cannot_be_put_into_its_place_leaves_the_old_one_there(tmp_path: Path, there: bool):
    place = tmp_path / "d"
    if there:
        make(place)
    with pytest.raises(DistributionError, match="cannot be replaced: No such file"):
        folder._swap(tmp_path / "gone", place, tmp_path / ".before")
    assert [path.name for path in tmp_path.iterdir()] == (["d"] if there else [])
    assert not there or isinstance(folder.verify(place), manifest.Manifest)


def test_what_was_there_is_kept_where_it_cannot_be_put_back(tmp_path: Path):
    aside = make(tmp_path / ".before")
    (tmp_path / "d").write_text("somebody else's")
    assert f"what was there is in {aside} now" in folder._put_back(aside, tmp_path / "d")
    assert isinstance(folder.verify(aside), manifest.Manifest)


def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_text("dear")
    with pytest.raises(DistributionError, match="no distribution folder"):
        folder.build(tmp_path / "home", folder.Order(), lambda _: None)
    assert (tmp_path / "home/letter").read_text() == "dear"
