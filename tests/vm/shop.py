"""A small shop on real hosts: api on one, web on the other, each calls the other by name. Units: a boot starts them.

Applications hold their ports at all addresses: what they are asked is asked from here, without the mesh, and what they
then ask by name goes through it.
"""

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mesh.model.checks import place
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.plane import Plane
from tests.vm.shell import VmError

APP = Path(__file__).with_name("app.py")
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
PORTS = {"web": 8081, "api": 8080}
CALLS = {"web": "api", "api": "web"}
HEALTH = "health: {type: http, path: /healthz, intervalSeconds: 0.5}\n"
UNIT = """[Unit]
Description=Application {name}
[Service]
User={name}
ExecStart=/usr/bin/python3 /srv/app.py {name} 0.0.0.0:{port}
Restart=always
[Install]
WantedBy=multi-user.target
"""


def service(name: str, port: int) -> dict[str, object]:
    """Its port in the mesh is 8080, wherever its application listens."""
    ports = [{"port": 8080, "protocol": "http", "targetPort": port}]
    return {
        "apiVersion": "holdfast.dev/v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"ports": ports, "serviceAccounts": [name]},
    }  # fmt: skip


def allowed(name: str, *who: str) -> dict[str, object]:
    rule = {"name": "callers", "from": [{"principals": [f"shop/{caller}" for caller in who]}]}
    return {
        "apiVersion": "holdfast.dev/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": f"to-{name}", "namespace": "shop"},
        "spec": {"target": {"service": name}, "action": "Allow", "rules": [rule]},
    }  # fmt: skip


def definition(name: str, port: int, callers: str, calls: str) -> str:
    return (
        f"name: {name}\nnamespace: shop\ncallers: {callers}\n"
        f"ports: [{{port: {port}, protocol: http}}]\n"
        f"upstreams: [{{service: {calls}, port: 8080}}]\n"
    )


def spiffe(name: str) -> str:
    return f"spiffe://vm.holdfast/ns/shop/sa/{name}"


class Shop:
    """`api` and `web` are hosts, named after the one service that each of them runs."""

    def __init__(self, fleet: Fleet, plane: Plane, *, api: str = "bare") -> None:
        """`api` is the image of that one's host."""
        self.plane = plane
        if api == "bare":
            self.api, self.web = fleet.up("api", "web", variant="bare")
        else:
            self.api, self.web = *fleet.up("api", variant=api), *fleet.up("web", variant="bare")

    def open(self) -> None:
        self.declare()
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._install, (self.api, self.web)))
        self.answers(timeout=90)

    def declare(self) -> None:
        """To the mesh: both services, and who may call whom."""
        self.plane.apply(
            NAMESPACE, *(service(*both) for both in PORTS.items()), allowed("api", "web"), allowed("web", "api")
        )

    def _install(self, host: Host) -> None:
        self.prepare(host)
        self.join(host)

    def prepare(self, host: Host) -> None:
        """Its application runs, without a mesh."""
        host.put(APP, "/srv/app.py")
        unit = UNIT.format(name=host.name, port=PORTS[host.name])
        if ":" in host.address:
            unit = unit.replace("0.0.0.0", "[::]")  # for both families
        host.write(f"/etc/systemd/system/{host.name}.service", unit)
        host.run(f"useradd -r {host.name}; chmod 755 /srv /srv/app.py; systemctl enable --now {host.name}")

    def join(self, host: Host) -> None:
        """By the one pasted line; its service is defined."""
        # web's host may run api as well.
        identities = [word for name in PORTS if host.name in {name, "web"} for word in ("-i", f"shop/{name}")]
        host.run(self.plane.line(host.name, *identities), timeout=240)
        self.define(host, host.name)

    def define(self, host: Host, name: str) -> None:
        text = definition(name, PORTS[name], f"{{users: [{name}]}}", CALLS[name])
        host.write(f"/etc/holdfast/services.d/{name}.yaml", text + HEALTH)

    def call(self, host: Host, path: str = "", *, timeout: float = 6) -> dict[str, str]:
        """This host's service calls the other by name: what the callee says. Fails as an assertion."""
        url = quote(f"http://{CALLS[host.name]}.shop.mesh:8080/{path}")
        answer = json.loads(plain(host, PORTS[host.name], f"call?{url}", timeout=timeout))
        assert answer["status"] == 200, f"{answer}"
        return json.loads(answer["text"])

    def caller(self, host: Host, path: str = "", *, timeout: float = 6) -> str:
        """Whom the callee saw; else why it was not called."""
        try:
            return self.call(host, path, timeout=timeout)["caller"]
        except (AssertionError, OSError, ValueError) as exc:
            return f"not called: {exc}"

    def answers(self, *, timeout: float = 30) -> None:
        """Each calls the other, as itself."""
        for host in (self.web, self.api):
            host.wait(
                lambda host=host: spiffe(host.name) in self.caller(host), timeout=timeout, what=f"{host.name} calls"
            )


def plain(host: Host, port: int, path: str = "", *, timeout: float = 6) -> str:
    """What a port of the host answers to us, who are not in the mesh. Fails as an assertion, to be waited for."""
    try:
        with urllib.request.urlopen(f"http://{place(host.address, port)}/{path}", timeout=timeout) as answer:
            return answer.read().decode()
    except OSError as exc:
        raise AssertionError(f"{host.name}:{port}: {exc}") from exc


class Calls:
    """One call after another, from the moment of `with` to its end."""

    def __init__(self, shop: Shop, host: Host) -> None:
        self._shop, self._host = shop, host
        self.good: list[float] = []
        self.failures: list[str] = []

    def one(self) -> None:
        found = self._shop.caller(self._host)
        if spiffe(self._host.name) in found:
            self.good.append(time.monotonic())
        else:
            self.failures.append(found)

    def gap(self) -> float:
        """Seconds: the longest time without an answer."""
        return max((b - a for a, b in zip(self.good, self.good[1:], strict=False)), default=0.0)


@contextmanager
def calls(shop: Shop, host: Host) -> Iterator[Calls]:
    calling, done = Calls(shop, host), threading.Event()

    def run() -> None:
        while not done.wait(0.02):
            calling.one()

    with _thread(run, done):
        yield calling
    assert calling.good


@contextmanager
def reachable(*hosts: Host) -> Iterator[None]:
    """An operator's new SSH connection is let in, all the time."""
    done, refused = threading.Event(), []

    def run() -> None:
        while not done.wait(0.3):
            for host in hosts:
                try:
                    said = host.run("true", check=False, timeout=15)
                    refused.extend([f"{host.name}: {said.err}"] if said.code else [])
                except (VmError, OSError, subprocess.SubprocessError) as exc:
                    refused.append(f"{host.name}: {exc}")

    with _thread(run, done):
        yield
    assert refused == []


@contextmanager
def _thread(run, done: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
