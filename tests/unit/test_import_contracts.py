"""The import contracts hold, and each of them fails on a violation planted in a copy of the tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("mesh", "ca", "multicluster", "controlplane", "agent")
WIDE = os.environ | {"COLUMNS": "200"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120, check=False, env=WIDE)


def test_the_contracts_hold(tree: Path):
    done = lint(tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("mesh/spiffe.py", "import ca.policy", "mesh"),
        ("agent/machine.py", "import controlplane.view", "controlplane and agent"),
        ("agent/tls.py", "from ca import policy", "only its client"),
        ("mesh/keys.py", "import time", "pure modules"),
        ("mesh/codec/wire.py", "from mesh import obs", "pure modules"),
        ("agent/machine.py", "from mesh.store import memory", "pure modules"),
        ("agent/uplink.py", "import grpc", "gRPC"),
        ("controlplane/mirror.py", "import aetcd.rpc", "etcd's stubs"),
        ("ca/signer/builtin.py", "import hvac", "Vault"),
        ("agent/quarantine.py", "from envoy.config.core.v3 import base_pb2", "Envoy's protos"),
        ("agent/status.py", "import prometheus_client", "metrics"),
        ("mesh/model/base.py", "from mesh import keys", "inside mesh"),
        ("mesh/store/protocol.py", "from mesh.store import follow", "inside mesh.store"),
        ("ca/policy.py", "from ca import api", "inside ca"),
        ("mesh/compile/names.py", "from mesh.compile import compiler", "inside mesh.compile"),
        ("controlplane/settings.py", "from controlplane import daemon", "inside controlplane"),
        ("agent/pipeline.py", "from agent import runtime", "inside agent"),
        ("agent/envoy/record.py", "import msgspec", "launcher"),
        ("agent/settings.py", "import cryptography", "no X.509"),
        ("agent/installer/model.py", "import click", "the installer needs"),
        ("mesh/unplaced.py", '"""A module without a place."""', "inside mesh"),
    ],
    ids=lambda text: text.replace("/", ".") if "/" in text else None,
)
def test_a_planted_violation_is_caught(tree: Path, module: str, line: str, contract: str):
    path = tree / module
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{line}\n")
    done = lint(tree)
    assert done.returncode == 1, done.stdout
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]
    assert any(contract in text for text in broken), done.stdout
