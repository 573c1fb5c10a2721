"""What a run makes, what a killed one leaves to the next, and what is not taken away."""

import ensurepip
import grp
import hashlib
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from agent import unithook
from agent.installer import facts, life, system, work
from agent.installer.model import InstallError, Thing
from agent.installer.offer import Item, Offer
from agent.installer.record import Made
from agent.installer.source import FolderSource


def item(path: Path, folder: Path, kind: str = "wheel") -> Item:
    raw = path.read_bytes()
    inner = str(path.relative_to(folder))
    return Item(inner, hashlib.sha256(raw).hexdigest(), len(raw), kind, "any", "any", path.name, "1.0")


def wheel(folder: Path, version: str) -> Path:
    path = folder / f"holdfast-{version}-py3-none-any.whl"
    about = f"holdfast-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("says.py", f"print({version!r})\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: holdfast\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    dist = tmp_path / "dist"
    (dist / "wheels").mkdir(parents=True)
    (bundled,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    pip = dist / "wheels" / bundled.name
    pip.write_bytes(bundled.read_bytes())
    (dist / "install.py").touch()
    script = item(dist / "install.py", dist, "script")
    return Offer("1.0", "0" * 64, (item(wheel(dist / "wheels", "1.0"), dist), item(pip, dist)), script, (), script)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(tmp_path / "home")
    made.begin()
    return made


def a_run(made: Made, offer: Offer, tmp_path: Path) -> work.Work:
    run = work.Work(Made(made.home).load(), FolderSource(tmp_path / "dist"), offer)
    run.downloads = made.home / "downloads"
    return run


@pytest.mark.slow
def test_what_an_earlier_run_fetched_of_another_version_is_not_installed(made: Made, offer: Offer, tmp_path: Path):
    left = made.home / "downloads/wheels"
    left.mkdir(parents=True)
    wheel(left, "2.0")
    tree = tmp_path / "opt/1.0"
    tree.parent.mkdir()
    a_run(made, offer, tmp_path).one(Thing("tree", str(tree), stamp=offer.stamp))
    assert (
        subprocess.run([tree / "bin/python", "-c", "import says"], capture_output=True, check=True).stdout == b"1.0\n"
    )


def test_a_slow_host_is_given_time_for_what_it_does_by_itself(
    made: Made, offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Five minutes were not enough for one that an emulator ran; and the next run would begin anew."""
    given, call = {}, system.call

    def watched(*command, seconds=system.SECONDS_FOR_A_COMMAND, **more):
        given.update({word: seconds for word in command if word in {"install", "compileall"}})
        return call(*command, seconds=seconds, **more)

    monkeypatch.setattr(system, "call", watched)
    tree = tmp_path / "opt/1.0"
    tree.parent.mkdir()
    a_run(made, offer, tmp_path).one(Thing("tree", str(tree), stamp=offer.stamp))
    assert given == {"install": 1800, "compileall": 1800}


def test_what_a_killed_run_switched_is_restarted_by_the_next_one(
    made: Made, offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    current, envoys = tmp_path / "current", tmp_path / "envoy"
    envoys.mkdir()
    for link in (current, envoys / "current"):
        link.symlink_to("0.9")
    monkeypatch.setattr(work, "CURRENT", str(current))
    monkeypatch.setattr(work, "ENVOYS", str(envoys))
    killed = a_run(made, offer, tmp_path)
    for link in (current, envoys / "current"):
        killed.one(Thing("link", str(link), target="1.0"))

    following = a_run(made, offer, tmp_path)
    assert system.is_there(Thing("link", str(current), target="1.0"), {})  # nothing is to be made
    assert following.restarts == {"holdfast-agent.service", "holdfast-host.service"}
    assert following.new_envoy
    following.done()
    last = a_run(made, offer, tmp_path)
    assert (last.restarts, last.new_envoy) == (set(), False)


def test_what_others_put_into_a_shared_folder_is_seen(tmp_path: Path):
    assert system.left_in(str(tmp_path / "gone")) == []
    (tmp_path / ".agent.yaml.new").touch()
    assert system.left_in(str(tmp_path)) == []
    (tmp_path / "etcd").mkdir()
    assert system.left_in(str(tmp_path)) == ["etcd"]


def test_drop_ins_that_tie_units_to_the_mesh_are_found_and_no_others(tmp_path: Path):
    text = unithook.render("web", "web.service", 30, (), Path("/etc/holdfast/agent.yaml"))
    for unit, content in (("web", text), ("api", text), ("mine", "[Service]\n")):
        (tmp_path / f"{unit}.service.d").mkdir()
        (tmp_path / f"{unit}.service.d/holdfast.conf").write_text(content)
    (tmp_path / "api.service.d/own.conf").touch()
    found = system.hooks(tmp_path)
    assert [path.parent.name for path in found] == ["api.service.d", "web.service.d"]
    for path in found:
        system.take_hook(path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.conf"))
    assert left == ["api.service.d/own.conf", "mine.service.d/holdfast.conf"]
    assert not (tmp_path / "web.service.d").exists()


def test_a_control_plane_that_takes_the_join_and_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    agent = tmp_path / "holdfast-agent"
    agent.write_text("#!/bin/sh\nexec sleep 60\n")
    agent.chmod(0o755)
    monkeypatch.setattr(life, "AGENT", str(agent))
    monkeypatch.setattr(life, "JOIN_SECONDS", 0.2)
    monkeypatch.setattr(life, "as_agent", dict)
    with pytest.raises(InstallError, match=r"did not answer within 0\.2 s"):
        life.join("token")


def test_a_group_without_its_user_and_a_user_without_its_group_are_seen():
    assert list(facts.halves(("root", "no-such-name"))) == []
    lonely = next(e.gr_name for e in grp.getgrall() if not facts.has_user(e.gr_name))
    assert list(facts.halves((lonely,))) == [(lonely, "group")]


def test_an_agent_that_hangs_is_no_answer_yet_and_holds_no_leave_up(tmp_path, monkeypatch):
    agent = tmp_path / "holdfast-agent"
    agent.write_text("#!/bin/sh\nexec sleep 60\n")
    agent.chmod(0o755)
    monkeypatch.setattr(life, "AGENT", str(agent))
    monkeypatch.setattr(life, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(life, "is_active", lambda _: True)
    assert life.status() is None
    assert "did not end within" in life.drain(0.1)
    assert "did not end within" in life.clean_names()


WRITES_ON = """
import itertools, pathlib, sys
place = pathlib.Path(sys.argv[1], "lib/site-packages")
for number in itertools.count():
    place.mkdir(parents=True, exist_ok=True)
    (place / str(number)).touch()
    if not number:
        print("begun", flush=True)
"""


def test_what_a_killed_run_still_has_building_is_ended_before_its_tree_is_taken_away(tmp_path: Path):
    """pip outlives an installer that is killed, and writes on into what the next one removes."""
    tree, other = tmp_path / "1.0", tmp_path / "1.0.1"
    running = []
    for place in (tree, other):
        (place / "bin").mkdir(parents=True)
        (place / "bin/python").symlink_to(sys.executable)
        command = [str(place / "bin/python"), "-I", "-c", WRITES_ON, str(place)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    pip, stranger = running
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
        reaping = threading.Thread(target=pip.wait)  # as init does
        reaping.start()
        system.take_away("tree", str(tree))
        reaping.join(10)
        assert pip.poll() == -signal.SIGKILL
        assert not tree.exists()
        assert stranger.poll() is None
    finally:
        for process in running:
            process.kill()
            process.communicate()
