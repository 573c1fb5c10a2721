"""`holdfast demo` as a newcomer runs it: it comes up, can be used, and leaves nothing behind, however it ends."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from controlplane.demo.machine import program
from controlplane.demo.reaper import MARK, marked
from tests.support.waiting import eventually

UP_SECONDS = 150
GONE_SECONDS = 40

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen([program("holdfast"), "demo", "--keep", str(folder)], stdout=out, stderr=out)


def mark_of(folder: Path) -> str:
    """The mark in the environment of whatever belongs to the demo in this folder."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found = re.search(rb"(?:^|\0)" + MARK.encode() + rb"=([0-9a-f]+)\0", (entry / "environ").read_bytes())
                if found:
                    return found[1].decode()
        except OSError:
            continue
    raise AssertionError(f"nothing of a demo runs in {folder}")


def environment(folder: Path) -> dict[str, str]:
    lines = (folder / "env.sh").read_text().splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))


def holdfast(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("holdfast"), *arguments],
        env={**os.environ, **environment(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_demo_serves_and_leaves_nothing_behind_when_it_is_killed(tmp_path_factory):
    """The worst end: kill -9 of the demo itself. Launchers and Envoys have sessions of their own."""
    folder = Path(f"/tmp/hf-test-{os.getpid()}")  # short: unix sockets lie deep in it
    log = tmp_path_factory.mktemp("demo") / "log"
    demo = start(folder, log)
    mark = ""
    try:
        eventually(lambda: "Ctrl-C stops all of it" in log.read_text() or demo.poll() is not None, timeout=UP_SECONDS)
        assert demo.poll() is None, log.read_text()
        mark = mark_of(folder)
        assert len(marked(mark)) > 30

        proxies = json.loads(holdfast(folder, "proxy", "status", "-o", "json").stdout)["items"]
        assert {p["report"]["phase"] for p in proxies} == {"serving"}
        assert len(proxies) == 7
        doctor = holdfast(folder, "doctor", "-o", "json")
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr
        web = next(m for m in log.read_text().splitlines() if "/api/hello" in m).split()[-1]
        said = json.loads(subprocess.run(["curl", "-s", web], capture_output=True, timeout=20, check=True).stdout)
        assert said["api"]["caller"] == "spiffe://demo.holdfast/ns/shop/sa/web"
        configuration = holdfast(folder, "proxy", "config", "api-1")
        assert "configs" in json.loads(configuration.stdout), configuration.stderr

        demo.send_signal(signal.SIGKILL)
        demo.wait(10)
        eventually(lambda: not marked(mark), timeout=GONE_SECONDS, what="everything that the demo started has ended")
    finally:
        demo.kill()
        demo.wait(10)
        if mark:
            eventually(lambda: not marked(mark), timeout=GONE_SECONDS)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_ctrl_c_while_it_starts_ends_it_at_once(tmp_path_factory):
    folder = Path(f"/tmp/hf-int-{os.getpid()}")
    log = tmp_path_factory.mktemp("demo") / "log"
    demo = start(folder, log)
    try:
        eventually(lambda: "control plane, 2 nodes" in log.read_text() or demo.poll() is not None, timeout=UP_SECONDS)
        mark = mark_of(folder)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(GONE_SECONDS) == 130
        assert marked(mark) == []
    finally:
        demo.kill()
        demo.wait(10)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_server_that_is_not_there_is_told(tmp_path):
    done = subprocess.run(
        [program("holdfast"), "demo"],
        env={**os.environ, "HOLDFAST_ETCD_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"HOLDFAST_ETCD_DIR={tmp_path} does not hold etcd" in done.stderr
    assert done.stdout == ""


def test_a_directory_that_holds_something_is_not_touched(tmp_path):
    (tmp_path / "precious").write_text("data")
    done = subprocess.run(
        [program("holdfast"), "demo", "--keep", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert "not an empty directory" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
