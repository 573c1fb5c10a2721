"""The collection's plays over a mesh that is there: upgrade under load, back up and restore, remove. On real hosts."""

import re
from pathlib import Path

import pytest

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from tests.vm.fleet import Fleet
from tests.vm.manifest import difference, manifest
from tests.vm.rolled import Rolled, ready
from tests.vm.versions import HERE, build_version

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONFIRMED = ("-e", "holdfast_restore_confirm=vm.holdfast")
NEW_OPENBAO = ("-e", "holdfast_restore_openbao=vm.holdfast")


@pytest.fixture(scope="module")
def rolled(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Rolled:
    dist = tmp_path_factory.mktemp("dist") / "0.1.0"
    build_dist(dist, Order(**HERE), lambda _: None)
    made = Rolled(fleet, tmp_path_factory.mktemp("controller"), dist)
    made.roll_out()
    made.answers()
    return made


def spoil_agent(source: Path) -> None:
    """An agent that ends as soon as it is started as one."""
    path = source / "agent/daemon.py"
    path.write_text(path.read_text() + "\nraise SystemExit('spoiled')\n")


def switched(host: str) -> re.Pattern[str]:
    """In a play's output: the installer has switched the link there. The control-plane node is restarted after that."""
    return re.compile(rf"^TASK \[holdfast.mesh.agent : Upgrade agent and Envoy\].*\nchanged: \[{host}\]", re.MULTILINE)


def test_an_upgrade_under_load_fails_no_request_also_when_its_controller_is_killed(rolled: Rolled, tmp_path: Path):
    # Its Envoy has another version, too: it takes over by hot restart.
    envoy = {"envoys": {"x86_64": rolled.controller.dist / "bin/x86_64/envoy"}, "envoy_version": "1.40.1"}
    newer = build_version(tmp_path, "0.2.0", **envoy)
    bad = build_version(tmp_path, "0.3.0", change=spoil_agent, **envoy)
    play = rolled.controller.play
    assert set(rolled.versions().values()) == {"0.1.0"}
    with rolled.load() as found, rolled.watched() as away:
        play("upgrade", dist=newer, until=switched("cp-1"))
        assert rolled.cp.run("readlink /opt/holdfast/current").out.strip() == "0.2.0"
        assert rolled.versions()["plane cp-1"] == "0.1.0"
        play("upgrade", dist=newer, until=switched("api-2"))
        planes = {name: version for name, version in rolled.versions().items() if name.startswith("plane ")}
        assert planes == {"plane cp-1": "0.2.0", "plane cp-2": "0.2.0"}
        assert "maintenance" in rolled.holdfast("proxy", "status")
        played = play("upgrade", dist=newer)
        assert set(rolled.versions().values()) == {"0.2.0"}
        assert "maintenance" not in rolled.holdfast("proxy", "status")
        rolled.controller.dist = newer
        again = play("upgrade")
        assert set(again.changed.values()) == {0}, again.text[-6000:]
        failed = play("upgrade", "--tags", "agent", dist=bad, check=False)
        first = play("upgrade", dist=bad, check=False)
    assert found["faults"] == {}, (found, played.text[-3000:])
    assert away == []
    assert set(found["answers"]) == {"web", "api-2"}
    assert sum(found["answers"].values()) > 1000
    assert failed.code != 0
    assert "is back at 0.2.0, and no other host was upgraded after it" in failed.words
    assert "systemctl restart holdfast-agent.service failed" in failed.words
    # The agent beside the control-plane node is as bad: that goes back, and what it hands out; no host has its turn.
    assert "cp-1 is back at 0.2.0, and nothing else was upgraded after it" in first.words
    assert "The hosts that run services" not in first.text
    assert set(rolled.versions().values()) == {"0.2.0"}
    for host in rolled.planes:
        assert '"version": "0.2.0"' in host.run("cat /var/lib/holdfast-controlplane/dist/manifest.json").out
        assert host.run("ls /var/lib/holdfast-controlplane").out.split() == ["data", "dist"]
    assert "maintenance" not in rolled.holdfast("proxy", "status")
    for host in (*rolled.planes, *rolled.agents):
        assert host.run("readlink /opt/holdfast/envoy/current").out.strip() == "1.40.1"
        assert len(host.run("pgrep -x envoy").out.split()) == 1
        assert host.run("ls /var/lib/holdfast-install/upgrade.json", check=False).code != 0


def test_a_backup_is_restored_and_a_living_mesh_is_not_overwritten_unasked(rolled: Rolled):
    controller = rolled.controller
    backup = rolled.backup()
    # Nothing in it is in clear but the CAs' certificates, and what it is.
    clear = {path.name for path in backup.iterdir() if path.suffix != ".vault"}
    assert clear == {"backup.json", "ca.pem", "etcd-ca.pem", "openbao-ca.pem"}
    assert [path for path in backup.iterdir() if b"shop" in path.read_bytes()] == []
    rolled.holdfast("delete", "service", "web", "-n", "shop")
    epoch = rolled.epoch()

    assert "has no backup.json" in controller.play("restore", check=False).words
    named = ("-e", f"holdfast_backup={backup}")
    refused = controller.play("restore", *named, check=False)
    assert refused.code != 0
    assert "say -e holdfast_restore_confirm=vm.holdfast" in refused.words
    wrong = controller.play("restore", *named, "-e", "holdfast_restore_confirm=other", check=False)
    assert wrong.code != 0
    assert rolled.epoch() == epoch
    assert "web" not in rolled.holdfast("get", "services", "-n", "shop")

    with rolled.load() as found:
        played = controller.play("restore", *named, *CONFIRMED)
        assert rolled.epoch() != epoch
        assert "web" in rolled.holdfast("get", "services", "-n", "shop")
    assert found["faults"] == {}
    assert sum(found["answers"].values()) > 100
    # OpenBao has what it had: nothing is done there.
    assert played.changed["cp-2"] <= 2, played.text[-6000:]
    rolled.answers()

    damaged = backup / "store.ndjson.vault"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    again = controller.play("restore", *named, *CONFIRMED, check=False)
    assert again.code != 0
    assert {"plane cp-1", "plane cp-2"} <= set(rolled.versions())  # they were not even stopped


def test_all_data_of_etcd_and_openbao_is_lost_and_restored_into_empty_ones(rolled: Rolled):
    """OpenBao's keys come back with its snapshot: what was trusted is trusted, on hosts that are not touched."""
    controller, backup, epoch = rolled.controller, rolled.backup(), rolled.epoch()
    named = ("-e", f"holdfast_backup={backup}")
    root, versions = rolled.root(), rolled.versions()
    with rolled.load() as found:
        rolled.cp.run("systemctl stop holdfast-etcd holdfast-openbao")
        rolled.cp.run("rm -rf /var/lib/holdfast-etcd/data /var/lib/holdfast-openbao/*")
        early = controller.play("restore", *named, check=False)
        assert early.code != 0
        assert "holdfast.mesh.site --tags etcd,openbao makes an empty one" in early.words
        controller.play("site", "--tags", "etcd,openbao")
        assert rolled.root() != root
        refused = controller.play("restore", *named, *CONFIRMED, check=False)
        assert "OpenBao has another root than the backup's" in refused.words
        controller.play("restore", *named, *CONFIRMED, *NEW_OPENBAO)
        assert rolled.root() == root
        assert rolled.epoch() not in {"", epoch}
        assert "web" in rolled.holdfast("get", "services", "-n", "shop")
    assert found["faults"] == {}
    assert rolled.sequence() > 1_700_000_000
    rolled.back_at(versions)
    rolled.answers()


def test_all_hosts_of_the_control_plane_are_lost_and_the_mesh_keeps_its_root(rolled: Rolled):
    """New ones come up with OpenBao's keys and the store of the backup; hosts that run services are not touched."""
    controller, backup = rolled.controller, rolled.backup()
    roots, sequence, versions = rolled.cp.run("cat /etc/holdfast/ca.pem").out, rolled.sequence(), rolled.versions()
    with rolled.load() as found:
        rolled.lose_planes()
        controller.play("site", "--tags", "etcd,openbao")
        named = ("-e", f"holdfast_backup={backup}")
        refused = controller.play("restore", *named, check=False)
        assert "OpenBao has another root than the backup's" in refused.words
        controller.play("restore", *named, *NEW_OPENBAO)
    assert found["faults"] == {}
    assert rolled.cp.run("cat /etc/holdfast/ca.pem").out == roots
    assert rolled.sequence() > sequence
    rolled.back_at(versions)
    rolled.answers()
    again = controller.play("site")
    assert set(again.changed.values()) == {0}, again.text[-6000:]


def test_a_host_that_is_removed_is_as_before_and_unknown_to_the_mesh(rolled: Rolled):
    plain = rolled.controller.play("remove_hosts", check=False)
    assert plain.code != 0
    assert "Say which hosts leave" in plain.words
    kept = rolled.controller.play("remove_hosts", "--limit", "web", check=False)
    assert "is the only host with healthy instances of shop/web" in kept.words
    # The first control-plane node is away: another one is asked, and told so.
    rolled.cp.run("systemctl stop holdfast-controlplane")
    with rolled.load() as found:
        removed = rolled.controller.play("remove_hosts", "--limit", "api-2")
        kept_safe = rolled.controller.play("backup")
    rolled.cp.run("systemctl start holdfast-controlplane")
    for played in (removed, kept_safe):
        assert "cp-2 is asked: cp-1 cannot be reached, or has a node that is not ready" in played.words
    assert found["faults"] == {}, found
    assert "web" in found["answers"]
    assert difference(rolled.before["api-2"], manifest(rolled.api)) == []
    rolled.cp.wait(lambda: ready(rolled.cp), timeout=60, what="its node is ready again")
    assert "api-2" not in rolled.holdfast("get", "nodes")
    assert "api-2" not in rolled.holdfast("get", "endpoints", "-A")
    again = rolled.controller.play("remove_hosts", "--limit", "api-2")
    assert "ok=" in again.text
    # And it may come back: with a certificate of the root that was restored, for callers that have never known another.
    rolled.controller.play("add_hosts", "--limit", "api-2")
    with rolled.load() as found:
        rolled.called("api-2")
    assert found["faults"] == {}, found
