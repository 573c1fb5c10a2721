"""The pasted line against a server that lies: what is run is what the line was made for, or nothing."""

import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agent.installer.main import parse
from controlplane.cli.paste import FETCH, line
from tests.support.lying import certificate, server

TOKEN = "hf1.0123456789abcdef." + "A" * 43 + "." + "0" * 32


def program(marker: Path, text: str = "ran") -> bytes:
    """What stands for the installer: it says what it was given."""
    return (
        f"import sys\nopen({str(marker)!r}, 'w').write({text!r} + ' '.join(sys.argv[1:]) + sys.stdin.read())\n".encode()
    )


def folder(installer: bytes) -> tuple[bytes, str]:
    files = [{"path": "install.py", "sha256": hashlib.sha256(installer).hexdigest(), "size": len(installer)}]
    raw = json.dumps({"version": "1", "files": files}).encode()
    return raw, hashlib.sha256(raw).hexdigest()


def paste(url: str, sha256: str, where: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """In a shell, with the Python of this test as python3."""
    (where / "bin").mkdir(exist_ok=True)
    (where / "bin/python3").symlink_to(sys.executable)
    text = line(
        token=TOKEN, url=url, manifest_sha256=sha256, node="web-1", services=["web:80"], identities=["shop/web"]
    )
    assert "\n" not in text
    env = {"PATH": f"{where}/bin:/usr/bin:/bin", "HOME": str(where), "https_proxy": "http://127.0.0.1:9"}
    env |= {"PYTHONPATH": str(cwd)} if cwd else {}
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=60, check=False, env=env, cwd=cwd)


def test_an_honest_server_has_its_installer_run_with_the_token_on_stdin(tmp_path: Path):
    pem, _ = certificate(tmp_path)
    installer = program(tmp_path / "marker")
    raw, sha256 = folder(installer)
    files = {"/v1/dist/manifest.json": raw, "/v1/dist/install.py": installer}
    with server(pem, lambda path: (200, {}, files[path])) as (url, asked):
        done = paste(url, sha256, tmp_path)
    assert done.returncode == 0, done.stderr
    assert asked == list(files)
    said = (tmp_path / "marker").read_text()
    assert said == f"ran{url} {sha256} --node web-1 --identity shop/web --service web:80{TOKEN}\n"


def lies(evil: bytes, raw: bytes, installer: bytes) -> dict[str, dict[str, tuple[int, dict[str, str], bytes]]]:
    manifest, script = "/v1/dist/manifest.json", "/v1/dist/install.py"
    good = {manifest: (200, {}, raw), script: (200, {}, installer)}
    other, _ = folder(evil)
    return {
        "another manifest": {**good, manifest: (200, {}, other), script: (200, {}, evil)},
        "an altered installer": {**good, script: (200, {}, evil)},
        "a cut installer": {**good, script: (200, {"Content-Length": str(len(installer))}, installer[:-9])},
        "an installer that ends early": {**good, script: (200, {}, installer[: len(installer) // 2])},
        "one that goes on": {**good, script: (200, {}, installer + b"\n" + evil)},
        "a redirect to other content": {**good, script: (302, {"Location": "/evil"}, b""), "/evil": (200, {}, evil)},
        "a redirect to a file": {**good, script: (302, {"Location": "file:///etc/passwd"}, b"")},
        "an error": {**good, manifest: (500, {}, b"no")},
        "nothing": {**good, manifest: (200, {}, b"")},
        "no end": {**good, manifest: (200, {}, b"{" * 9**7 + b"x")},
    }


@pytest.mark.parametrize("lie", list(lies(b"", b"", b"")))
def test_a_lie_gets_nothing_run_and_is_told(tmp_path: Path, lie: str):
    pem, _ = certificate(tmp_path)
    installer, evil = program(tmp_path / "marker"), program(tmp_path / "marker", "evil")
    raw, sha256 = folder(installer)
    files = lies(evil, raw, installer)[lie]
    with server(pem, lambda path: files[path]) as (url, asked):
        done = paste(url, sha256, tmp_path)
    assert done.returncode == 1
    assert "holdfast: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "marker").exists()
    assert TOKEN not in "".join(asked)


def test_what_lies_where_the_line_is_pasted_is_not_run(tmp_path: Path):
    """It is pasted as root, perhaps into a folder where others write, and with what others say in the environment."""
    pem, _ = certificate(tmp_path)
    installer = program(tmp_path / "marker")
    raw, sha256 = folder(installer)
    here = tmp_path / "here"
    here.mkdir()
    (here / "ssl.py").write_text(f"open({str(tmp_path / 'evil')!r}, 'w')\n")
    files = {"/v1/dist/manifest.json": raw, "/v1/dist/install.py": installer}
    with server(pem, lambda path: (200, {}, files[path])) as (url, _):
        done = paste(url, sha256, tmp_path, cwd=here)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "marker").exists()
    assert not (tmp_path / "evil").exists()


def test_a_control_plane_that_is_not_there_is_told(tmp_path: Path):
    done = paste("https://127.0.0.1:9", "0" * 64, tmp_path)
    assert done.returncode == 1
    assert "nothing was installed from https://127.0.0.1:9" in done.stderr
    assert "Connection refused" in done.stderr


def test_an_old_python_is_told_before_anything_is_fetched(tmp_path: Path):
    old = "import sys;sys.version_info=(3,9);sys.version='3.9.2 x';" + FETCH
    done = subprocess.run(
        [sys.executable, "-c", old, "https://127.0.0.1:9", "0" * 64],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed, and this is 3.9.2" in done.stderr


def test_no_argument_of_any_process_holds_the_token(tmp_path: Path):
    """`echo` is the shell's own; what is started is Python, with its arguments."""
    text = line(token=TOKEN, url="https://cp:8443", manifest_sha256="0" * 64, node="web-1")
    before, after = text.split(" | ", 1)
    assert shlex.split(before) == ["echo", TOKEN]
    python = shlex.split(after)
    assert python[:3] == ["python3", "-I", "-c"]
    assert not [word for word in python if TOKEN.split(".")[2] in word]


def test_a_gateway_s_line_says_that_it_is_one_and_where_it_is():
    text = line(
        token=TOKEN, url="https://cp:8443", manifest_sha256="0" * 64, node="gw-1", gateway=True, address="2001:db8::9",
        bind="::",
    )  # fmt: skip
    given = parse(shlex.split(text.split(" | ", 1)[1])[4:])
    assert (given.node, given.gateway, given.address, given.bind) == ("gw-1", True, "2001:db8::9", "::")


def test_odd_words_reach_the_installer_as_they_are(tmp_path: Path):
    text = line(token=TOKEN, url="https://cp:8443", manifest_sha256="0" * 64, node="a'b; touch x")
    assert shlex.split(text)[-1] == "a'b; touch x"
