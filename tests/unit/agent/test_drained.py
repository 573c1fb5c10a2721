"""What is out of service: kept on disk, service by service or the whole host; and the drop-in of a service's unit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent import drained, servicing, unithook
from agent.cli import main
from agent.drained import Drained

CONFIG = Path("/etc/holdfast/agent.yaml")


def test_it_survives_a_restart_and_ends_by_a_word(tmp_path):
    drained.save(tmp_path, Drained().begin("api.shop", 5).begin("", 7))
    found = drained.load(tmp_path)
    assert found == Drained(host=7, services={"api.shop": 5})
    assert found.has("other.shop"), "the host's word counts for all of its services"
    assert found.end("").has("api.shop"), "and each has its own besides"
    assert not found.end("").has("other.shop")
    assert found.end("").end("api.shop") == Drained()


def test_what_is_drained_already_stays_so_since_then():
    assert Drained().begin("", 1).begin("", 9).host == 1
    assert Drained().begin("a.b", 1).begin("a.b", 9).services == {"a.b": 1}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"host": "x"}', b"\xff"])
def test_what_cannot_be_read_drains_nothing(tmp_path, text):
    (tmp_path / drained.FILE).write_bytes(text)
    assert drained.load(tmp_path) == Drained()


def test_callers_leave_before_the_units_own_commands():
    text = unithook.render("web", "web.service", 30, ("/bin/web-stop --now",), CONFIG)
    lines = text.splitlines()
    stops = [line for line in lines if line.startswith("ExecStop=")]
    assert stops[0] == "ExecStop="
    assert "service stop --timeout 30 web" in stops[1]
    assert stops[2] == "ExecStop=/bin/web-stop --now"
    assert any(line.startswith("ExecStartPost=-+") and line.endswith("service start web") for line in lines)
    assert "TimeoutStopSec=120" in lines
    # At a shutdown it stops before those who tell callers; after a boot it starts when they can be asked.
    assert lines.index("After=holdfast-agent.service holdfast-envoy.service") < lines.index("[Service]")


def test_a_unit_without_commands_of_its_own_keeps_none():
    text = unithook.render("web", "web.service", 30, (), CONFIG)
    assert "ExecStop=\n" not in text


def test_the_units_own_commands_are_found_and_ours_are_not():
    text = "# /lib/systemd/system/web.service\n[Service]\nExecStop=/old\nExecStop=\nExecStop = /bin/a \\\n b\n"
    text += (
        f"# /etc/systemd/system/web.service.d/{unithook.NAME}\n[Service]\nExecStop=\nExecStop=-+/x service stop web\n"
    )
    assert unithook.stops_of(text) == ("/bin/a   b",)


def test_each_instance_of_a_template_is_a_service_of_its_own():
    """systemd puts the instance in; `web@2` goes on being called when `web@1` stops."""
    text = unithook.render("web-%i.shop", "web@.service", 30, (), CONFIG)
    ran = [line for line in text.splitlines() if line.startswith(("ExecStartPost=", "ExecStop="))]
    assert ran[0].endswith(" service start web-%i.shop")
    assert ran[1].endswith(" service stop --timeout 30 web-%i.shop")
    assert " service stop --timeout 30 web-1\n" in unithook.render("web-1", "web@1.service", 30, (), CONFIG)


@pytest.mark.parametrize(
    ("name", "unit", "said"),
    [
        ("web", "web@.service", "`service hook web-%i --unit web@.service`"),
        ("web.shop", "web@.service", "`service hook web-%i.shop --unit web@.service`"),
        ("web-%i", "web.service", "web.service is no template"),
        ("web-%n", "web@.service", "is not the name of a service"),
        ("web-%%i", "web@.service", "is not the name of a service"),
    ],
)
def test_a_template_that_would_take_all_its_instances_out_is_refused_with_what_to_do(name, unit, said):
    with pytest.raises(unithook.HookError) as caught:
        unithook.render(name, unit, 30, (), CONFIG)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "unit", "timeout", "config"),
    [
        ("web;rm", "web.service", 30, CONFIG),
        ("web", "web.timer", 30, CONFIG),
        ("web", "../web.service", 30, CONFIG),
        ("web", "web.service", 0, CONFIG),
        ("web", "web.service", 30, Path("/etc/a b.yaml")),
    ],
)
def test_what_would_break_a_unit_file_is_refused(name, unit, timeout, config):
    with pytest.raises(unithook.HookError):
        unithook.render(name, unit, timeout, (), config)


def test_a_unit_that_starts_while_no_agent_runs_is_not_drained_for_good(tmp_path, monkeypatch):
    """`systemctl stop` with an agent, `start` without one: the next agent has to find it in service."""
    monkeypatch.setattr(servicing, "LATE_SECONDS", 0.3)
    config = tmp_path / "agent.yaml"
    config.write_text(f"{{node: vm1, address: 127.0.0.1, runDir: {tmp_path / 'run'}, dataDir: {tmp_path / 'data'}}}\n")
    data = tmp_path / "data"
    drained.save(data, Drained().begin("api.shop", 5).begin("web.shop", 5).begin("", 7))
    done = CliRunner().invoke(main, ["service", "start", "web", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert "will find web in service" in done.output
    assert drained.load(data) == Drained(host=7, services={"api.shop": 5})


def test_units_that_start_together_without_an_agent_all_come_back(tmp_path):
    """`systemctl start web@1 web@2 …`: each takes back its own word, and no word of another's is put back."""
    held = Drained()
    for number in range(90):
        held = held.begin(f"web-{number}.shop", 5)
    drained.save(tmp_path, held)
    code = "import sys; from pathlib import Path; from agent import drained\n"
    code += "for n in range(int(sys.argv[1]), 90, 3): drained.end_kept(Path(sys.argv[2]), f'web-{n}')"
    runs = [subprocess.Popen([sys.executable, "-c", code, str(n), str(tmp_path)]) for n in range(3)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    assert drained.load(tmp_path) == Drained()


def test_a_lock_that_somebody_keeps_does_not_hold_up_a_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(drained, "LOCK_SECONDS", 0.05)
    drained.save(tmp_path, Drained().begin("web.shop", 5))
    with drained._alone(tmp_path):
        drained.end_kept(tmp_path, "web")
    assert drained.load(tmp_path) == Drained()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder to another user")
def test_what_root_takes_back_is_the_agents_and_follows_no_link(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)  # others look into it, too
    data, precious = tmp_path / "data", tmp_path / "precious"
    drained.save(data, Drained().begin("web.shop", 5))
    precious.write_text("precious")
    precious.chmod(0o600)
    (data / "drained.json.new").symlink_to(precious)
    os.chown(data, 65534, 65534)
    os.chown(data / drained.FILE, 65534, 65534)
    with pytest.raises(PermissionError):
        drained.end_kept(data, "web")
    assert precious.read_text() == "precious"
    assert os.geteuid() == 0
    (data / "drained.json.new").unlink()
    drained.end_kept(data, "web")
    assert drained.load(data) == Drained()
    assert (data / drained.FILE).stat().st_uid == 65534
