"""A mesh that `site.yml` has rolled out: control-plane nodes, the first of them with etcd and OpenBao; `web` and `api`
on one host, `api` on another. And its operator, with a load that shows every fault.
"""

import base64
import http.client
import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret

from mesh.keys import BUNDLES, EPOCH
from tests.vm.controller import PASSWORD, Controller
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.manifest import manifest
from tests.vm.shop import APP, NAMESPACE, UNIT, allowed, service

LOAD = APP.with_name("load.py")
API = "http://api.shop.mesh:8080/"
AS_WEB = "setpriv --reuid web --clear-groups"
RUNS = {"web": ("web", "api"), "api-2": ("api",)}
PORTS = {"web": 8081, "api": 8082}
CALLS: dict[str, list[dict[str, Any]]] = {"web": [{"service": "api", "port": 8080}], "api": []}


def definition(name: str) -> dict[str, Any]:
    """One of `holdfast_services`."""
    return {
        "name": name,
        "namespace": "shop",
        "serviceAccount": name,
        "ports": [{"port": PORTS[name], "protocol": "http"}],
        "callers": {"users": [name]},
        "upstreams": CALLS[name],
    }


class Rolled:
    def __init__(self, fleet: Fleet, folder: Path, dist: Path, *, planes: int = 2, members: int = 1) -> None:
        """So many control-plane nodes, and so many of them with a member of etcd and one of OpenBao."""
        self.fleet, self.controller = fleet, Controller(folder, dist)
        *made, self.web, self.api = fleet.up(*(f"cp-{n + 1}" for n in range(planes)), "web", "api-2", variant="bare")
        self.planes, self.agents, self._members = tuple(made), (self.web, self.api), members
        self.cp = self.planes[0]
        self.asked = self.cp
        """Where its operator works."""
        self.before: dict[str, list[str]] = {}

    def roll_out(self) -> None:
        for host in self.agents:
            for name in RUNS[host.name]:
                self._application(host, name)
            self.before[host.name] = manifest(host)
        objects = self.controller.folder / "shop.yml"
        documents = [NAMESPACE, *(service(*both) for both in PORTS.items()), allowed("api", "web")]
        objects.write_text(yaml.safe_dump_all(documents))
        self.write_inventory()
        self.controller.play("site")

    def write_inventory(self, *, without: Host | None = None) -> None:
        """All hosts, or all but this one."""
        there = [host for host in self.planes if host is not without]
        members = [host for host in self.planes[: self._members] if host is not without]
        self.controller.write(
            {
                "holdfast_etcd": members,
                "holdfast_openbao": members,
                "holdfast_controlplane": there,
                "holdfast_agent": self.agents,
            },
            {host.name: {"holdfast_services": [definition(n) for n in RUNS[host.name]]} for host in self.agents},
            holdfast_objects=[str(self.controller.folder / "shop.yml")],
        )

    def _application(self, host: Host, name: str) -> None:
        host.put(APP, "/srv/app.py")
        host.put(LOAD, "/srv/load.py")
        host.write(f"/etc/systemd/system/{name}.service", UNIT.format(name=name, port=PORTS[name]))
        host.run(f"useradd -r {name}; chmod 755 /srv /srv/app.py /srv/load.py; systemctl enable --now {name}")

    def lose_planes(self) -> None:
        """All hosts of the control plane, with their disks; others of their names and addresses come instead."""
        for host in self.planes:
            self.fleet.replace(host)
        self.controller.forget_connections()

    # -- its operator --

    def holdfast(self, *words: str) -> str:
        """As the administrator, on a control-plane node."""
        options = f"--addr {self.asked.address}:8443 --ca /etc/holdfast/ca.pem --token-file /dev/stdin"
        done = self.asked.run(f"/opt/holdfast/current/bin/holdfast {' '.join(words)} {options}", stdin=self.token)
        return done.out + done.err

    @property
    def token(self) -> str:
        return self.secret("admin-token")

    def secret(self, name: str) -> str:
        """As the plays read it."""
        kept = (self.controller.folder / f"secrets/{name}.vault").read_text()
        vault = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(PASSWORD.encode()))])
        return str(vault.decrypt(base64.b64decode(kept)).decode())

    def versions(self) -> dict[str, str]:
        """Node -> what its agent says; and `plane NODE`: what its control-plane node says."""
        found = json.loads(self.holdfast("status", "-o", "json"))
        said = {item["node"]: (item["report"] or {}).get("version", "") for item in found["proxies"]["items"]}
        return {**said, **{f"plane {item['replica']}": item["version"] for item in found["replicas"]}}

    def back_at(self, versions: dict[str, str]) -> None:
        """All agents are connected again, and say the same."""
        self.asked.wait(lambda: self.versions() == versions, timeout=60, what=f"all run {versions}")

    def backup(self) -> Path:
        """Another one, as the play makes it."""
        folder = self.controller.folder / "backups"
        before = set(folder.glob("*"))
        self.controller.play("backup")
        (made,) = set(folder.glob("*")) - before
        return made

    def stored(self, key: str) -> str:
        return self.etcdctl(f"get --print-value-only {key}")

    def etcdctl(self, words: str, host: Host | None = None) -> str:
        """On this member, or where the operator works."""
        member = host or self.asked
        etcdctl = (
            f"ETCDCTL_ENDPOINTS=https://{member.address}:2379 ETCDCTL_CACERT=/etc/holdfast/etcd/ca.pem "
            "ETCDCTL_CERT=/etc/holdfast/etcd/root.pem ETCDCTL_KEY=/etc/holdfast/etcd/root-key.pem "
            "/opt/holdfast/etcd/current/etcdctl"
        )
        return member.run(f"{etcdctl} {words}").out

    def bao(self, path: str, host: Host | None = None, *, method: str = "GET", token: str = "") -> str:
        """What this member of OpenBao answers, or the one where the operator works."""
        context = ssl.create_default_context(cafile=self.controller.folder / "secrets/openbao-ca.pem")
        url = f"https://{(host or self.asked).address}:8200/v1/{path}"
        request = urllib.request.Request(url, method=method, headers={"X-Vault-Token": token} if token else {})
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return str(answer.read().decode())

    def root(self) -> str:
        """OpenBao's."""
        return self.bao("pki/ca/pem")

    def epoch(self) -> str:
        """By which agents know a restored store."""
        return self.stored(EPOCH)

    def sequence(self) -> int:
        """Of the trust bundle."""
        return int(json.loads(self.stored(BUNDLES + "vm.holdfast"))["spec"]["sequence"])

    # -- what goes on meanwhile --

    @contextmanager
    def load(self) -> Iterator[dict[str, Any]]:
        """web calls api by name, in four threads; how many answers came from which host, and every fault."""
        found: dict[str, Any] = {}

        def run() -> None:
            found.update(
                json.loads(self.web.run(f"{AS_WEB} python3 /srv/load.py {API} 4 /run/enough", timeout=1500).out)
            )

        self.web.run("rm -f /run/enough")
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield found
        finally:
            self.web.run("touch /run/enough")
            thread.join()

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Each moment at which no control-plane node was ready."""
        away: list[str] = []
        enough = threading.Event()

        def watch() -> None:
            while not enough.wait(0.2):
                if not any(ready(host) for host in self.planes):
                    away.append(time.strftime("%H:%M:%S"))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield away
        finally:
            enough.set()
            thread.join()

    def answers(self) -> None:
        """web calls api, as itself."""
        self.web.wait(lambda: "sa/web" in self._answer(), timeout=60, what="it calls")

    def called(self, host: str) -> None:
        """web's calls reach this host."""
        self.web.wait(lambda: f'"host": "{host}"' in self._answer(), timeout=60, what=f"it reaches {host}")

    def _answer(self) -> str:
        ask = f"import urllib.request as r; print(r.urlopen('{API}', timeout=5).read().decode())"
        return self.web.run(f'{AS_WEB} python3 -c "{ask}"').out


def ready(host: Host) -> bool:
    """Does its control-plane node take calls? Nothing is sent, so whoever answers learns nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # Not urlopen: where a host dies as it is asked, that leaves its socket to the garbage collector.
    connection = http.client.HTTPSConnection(host.address, 8443, timeout=5, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
