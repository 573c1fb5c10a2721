"""The collection's plays over a mesh that is there: back up and restore, upgrade under load, remove. On real hosts."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from mesh.keys import EPOCH
from tests.vm.controller import Controller
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.manifest import difference, manifest
from tests.vm.shop import APP, NAMESPACE, UNIT, allowed, service
from tests.vm.versions import HERE, build_version

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

LOAD = APP.with_name("load.py")
API = "http://api.shop.mesh:8080/"
AS_WEB = "setpriv --reuid web --clear-groups"


def of_host(name: str) -> dict[str, Any]:
    """A host's variables: `api` on api-1 and api-2, and `web` on web, which calls it."""
    what, calls = (("api", []), ("web", [{"service": "api", "port": 8080}]))[name == "web"]
    definition = {
        "name": what,
        "namespace": "shop",
        "serviceAccount": what,
        "ports": [{"port": 8081, "protocol": "http"}],
        "callers": {"users": [what]},
        "upstreams": calls,
    }
    return {"holdfast_services": [definition]}


class Rolled:
    """One control-plane node with etcd, and hosts: rolled out by site.yml."""

    def __init__(self, fleet: Fleet, folder: Path, dist: Path) -> None:
        self.fleet, self.controller = fleet, Controller(folder, dist)
        self.cp, self.web, *self.apis = fleet.up("cp", "web", "api-1", "api-2", variant="bare")
        self.before: dict[str, list[str]] = {}

    def roll_out(self) -> None:
        for host in (self.web, *self.apis):
            self._application(host)
            self.before[host.name] = manifest(host)
        objects = self.controller.folder / "shop.yml"
        documents = [NAMESPACE, *(service(name, 8081) for name in ("api", "web")), allowed("api", "web")]
        objects.write_text(yaml.safe_dump_all(documents))
        agents = [self.web, *self.apis]
        self.controller.write(
            {"holdfast_etcd": [self.cp], "holdfast_controlplane": [self.cp], "holdfast_agent": agents},
            {host.name: of_host(host.name) for host in agents},
            holdfast_objects=[str(objects)],
        )
        self.controller.play("site")

    def _application(self, host: Host) -> None:
        name = "web" if host is self.web else "api"
        host.put(APP, "/srv/app.py")
        host.put(LOAD, "/srv/load.py")
        host.write(f"/etc/systemd/system/{name}.service", UNIT.format(name=name, port=8081))
        host.run(f"useradd -r {name}; chmod 755 /srv /srv/app.py /srv/load.py; systemctl enable --now {name}")

    def holdfast(self, *words: str, check: bool = True) -> str:
        """As the administrator, on the control-plane node."""
        options = f"--addr {self.cp.address}:8443 --ca /etc/holdfast/ca.pem --token-file /dev/stdin"
        done = self.cp.run(
            f"/opt/holdfast/current/bin/holdfast {' '.join(words)} {options}", stdin=self.token, check=check
        )
        return done.out + done.err

    @property
    def token(self) -> str:
        """As the plays read it."""
        import base64

        from ansible.constants import DEFAULT_VAULT_ID_MATCH
        from ansible.parsing.vault import VaultLib, VaultSecret

        from tests.vm.controller import PASSWORD

        kept = (self.controller.folder / "secrets/admin-token.vault").read_text()
        vault = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(PASSWORD.encode()))])
        return vault.decrypt(base64.b64decode(kept)).decode()

    def versions(self) -> dict[str, str]:
        """Node -> what its agent says; and the control-plane node's own, as `plane`."""
        found = json.loads(self.holdfast("status", "-o", "json"))
        said = {item["node"]: (item["report"] or {}).get("version", "") for item in found["proxies"]["items"]}
        return {**said, "plane": found["replicas"][0]["version"]}

    def epoch(self) -> str:
        """By which agents know a restored store."""
        etcdctl = (
            f"ETCDCTL_ENDPOINTS=https://{self.cp.address}:2379 ETCDCTL_CACERT=/etc/holdfast/etcd/ca.pem "
            "ETCDCTL_CERT=/etc/holdfast/etcd/root.pem ETCDCTL_KEY=/etc/holdfast/etcd/root-key.pem "
            "/opt/holdfast/etcd/current/etcdctl"
        )
        return self.cp.run(f"{etcdctl} get --print-value-only {EPOCH}").out

    @contextmanager
    def load(self) -> Iterator[dict[str, Any]]:
        """web calls api by name, in four threads; how many answers came from which host, and every fault."""
        found: dict[str, Any] = {}

        def run() -> None:
            found.update(
                json.loads(self.web.run(f"{AS_WEB} python3 /srv/load.py {API} 4 /run/enough", timeout=1200).out)
            )

        self.web.run("rm -f /run/enough")
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield found
        finally:
            self.web.run("touch /run/enough")
            thread.join()

    def answers(self) -> None:
        """web calls api, as itself."""
        ask = f"import urllib.request as r; print(r.urlopen('{API}', timeout=5).read().decode())"
        self.web.wait(lambda: "sa/web" in self.web.run(f'{AS_WEB} python3 -c "{ask}"').out, timeout=60, what="it calls")


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


def test_an_upgrade_under_load_fails_no_request_and_one_that_is_bad_goes_back(rolled: Rolled, tmp_path: Path):
    # Its Envoy has another version, too: it takes over by hot restart.
    envoy = {"envoys": {"x86_64": rolled.controller.dist / "bin/x86_64/envoy"}, "envoy_version": "1.40.1"}
    newer = build_version(tmp_path, "0.2.0", **envoy)
    bad = build_version(tmp_path, "0.3.0", change=spoil_agent, **envoy)
    assert set(rolled.versions().values()) == {"0.1.0"}
    with rolled.load() as found:
        played = rolled.controller.play("upgrade", dist=newer)
        assert set(rolled.versions().values()) == {"0.2.0"}
        rolled.controller.dist = newer
        again = rolled.controller.play("upgrade")
        assert set(again.changed.values()) == {0}, again.text[-6000:]
        failed = rolled.controller.play("upgrade", "--tags", "agent", dist=bad, check=False)
        first = rolled.controller.play("upgrade", dist=bad, check=False)
    assert found["faults"] == {}, (found, played.text[-3000:])
    assert set(found["answers"]) == {"api-1", "api-2"}
    assert sum(found["answers"].values()) > 1000
    assert failed.code != 0
    assert "is back at 0.2.0, and no other host was upgraded after it" in failed.words
    assert "systemctl restart holdfast-agent.service failed" in failed.words
    assert set(rolled.versions().values()) == {"0.2.0"}
    # The agent beside the control-plane node is as bad: that goes back, and what it hands out; no host has its turn.
    assert "cp is back at 0.2.0, and nothing else was upgraded after it" in first.words
    assert "The hosts that run services" not in first.text
    assert '"version": "0.2.0"' in rolled.cp.run("cat /var/lib/holdfast-controlplane/dist/manifest.json").out
    assert "maintenance" not in rolled.holdfast("proxy", "status")
    for host in (rolled.web, *rolled.apis):
        assert host.run("readlink /opt/holdfast/envoy/current").out.strip() == "1.40.1"
        assert len(host.run("pgrep -x envoy").out.split()) == 1


def test_a_backup_is_restored_and_a_living_mesh_is_not_overwritten_unasked(rolled: Rolled):
    controller = rolled.controller
    controller.play("backup")
    (backup,) = (controller.folder / "backups").iterdir()
    # Nothing in it is in clear but the CAs' certificates, and what it is.
    assert {path.name for path in backup.iterdir() if path.suffix != ".vault"} <= {
        "backup.json",
        "ca.pem",
        "etcd-ca.pem",
    }
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
        controller.play("restore", *named, "-e", "holdfast_restore_confirm=vm.holdfast")
        assert rolled.epoch() != epoch
        assert "web" in rolled.holdfast("get", "services", "-n", "shop")
    assert found["faults"] == {}
    assert sum(found["answers"].values()) > 100
    rolled.answers()

    damaged = backup / "store.ndjson.vault"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    again = controller.play("restore", *named, "-e", "holdfast_restore_confirm=vm.holdfast", check=False)
    assert again.code != 0
    assert rolled.versions()["plane"]  # it was not even stopped


def test_a_host_that_is_removed_is_as_before_and_unknown_to_the_mesh(rolled: Rolled):
    plain = rolled.controller.play("remove_hosts", check=False)
    assert plain.code != 0
    assert "Say which hosts leave" in plain.words
    kept = rolled.controller.play("remove_hosts", "--limit", "web", check=False)
    assert "is the only host with healthy instances of shop/web" in kept.words
    with rolled.load() as found:
        rolled.controller.play("remove_hosts", "--limit", "api-2")
    assert found["faults"] == {}, found
    assert "api-1" in found["answers"]
    assert difference(rolled.before["api-2"], manifest(rolled.apis[1])) == []
    assert "api-2" not in rolled.holdfast("get", "nodes")
    assert "api-2" not in rolled.holdfast("get", "endpoints", "-A")
    again = rolled.controller.play("remove_hosts", "--limit", "api-2")
    assert "ok=" in again.text
    # And it may come back.
    rolled.controller.play("add_hosts", "--limit", "api-2")
    rolled.holdfast("get", "node", "api-2")
