"""install.py as hosts get it: one file, that any Python 3 can read as far as its own words about that."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.distribution.bundle import bundle

FOLDER = Path(__file__).parents[3] / "agent" / "installer"


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    sources = {path.stem: path.read_text() for path in FOLDER.glob("*.py") if path.name != "__init__.py"}
    path = tmp_path_factory.mktemp("installer") / "install.py"
    path.write_text(bundle(sources, package="agent.installer", entry="main"))
    return path


def run(script: Path, *words: str, stdin: str = "", **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(script), *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False, **more)


def test_it_runs_alone(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--upgrade" in done.stdout


def test_an_old_python_can_read_it_as_far_as_its_own_words(script):
    text = script.read_text()
    ast.parse(text, feature_version=(3, 8))
    assert text.index("sys.version_info < (3, 11)") < text.index("dataclass")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name a control plane and the manifest's SHA-256, or a folder with --dist"),
        (("https://cp:8443",), "whatever the URL says is not believed without"),
        (("https://cp:8443", "0" * 64), "--node is the host's name"),
        (("https://cp:8443", "0" * 64, "--node", "Web_1"), "--node is the host's name"),
        (("--dist", "x", "--node", "web-1"), "--controlplane URL is needed"),
    ],
)
def test_a_wrong_use_is_told(script, words, said):
    done = run(script, *words)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="it changes user, which root may")
def test_nobody_but_root_gets_anything_done(script):
    script.chmod(0o644)
    for folder in (script.parent, script.parent.parent, script.parent.parent.parent):
        folder.chmod(0o755)
    for words in (("--remove",), ("https://127.0.0.1:9", "0" * 64, "--node", "web-1")):
        with script.open() as source:
            done = subprocess.run(
                ["python3", "-I", "-", *words], stdin=source, capture_output=True, text=True, timeout=60, check=False,
                user="nobody", group="nogroup", extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin"},
            )  # fmt: skip
        assert "needs root" in done.stderr
        assert done.returncode == 1
