"""The current Ubuntu LTS (24.04), from its own archive: Python 3.12 that is managed from outside, SSH by a socket unit,
systemd-resolved, and a cloud-init that writes /etc/hosts anew at every boot.

The kernel is that of the machine which runs the tests: what Ubuntu's own restricts is not seen here.
"""

import time
from pathlib import Path

import pytest

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.manifest import difference, manifest
from tests.vm.plane import Plane
from tests.vm.shop import APP, NAMESPACE, UNIT, allowed, definition, reachable, service, spiffe
from tests.vm.test_install import AS_BEFORE

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

CAPTURE = "capture: {inbound: {ports: [9090], onFailure: closed}}\n"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its wheels are for Python 3.12."""
    folder = tmp_path_factory.mktemp("dist") / "dist"
    build_dist(folder, Order(arches=("x86_64",), pythons=("3.12",), servers=False), lambda _: None)
    return folder


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> Host:
    return fleet.up("noble-1", variant="ubuntu")[0]


def calls_itself(host: Host) -> str:
    """web calls web by name: whom the callee saw."""
    ask = "import urllib.request as r; print(r.urlopen('http://web.shop.mesh:8080/', timeout=5).read().decode())"
    return host.run(f'setpriv --reuid web --clear-groups python3 -c "{ask}"', check=False).text


def test_it_is_the_layout_that_is_meant(host: Host) -> None:
    assert 'VERSION_ID="24.04"' in host.run("cat /etc/os-release").out
    assert host.run("python3 -c 'import sys; print(sys.version_info[:2])'").out.strip() == "(3, 12)"
    host.run("test -e /usr/lib/python3.12/EXTERNALLY-MANAGED")
    assert host.run("python3 -m ensurepip --version", check=False).code != 0
    assert host.run("systemctl is-active ssh.socket systemd-resolved").out.split() == ["active", "active"]
    assert "stub-resolv.conf" in host.run("readlink /etc/resolv.conf").out
    host.wait(
        lambda: "manage_etc_hosts" in host.run("cat /etc/hosts").out, timeout=60, what="cloud-init wrote /etc/hosts"
    )


def test_one_line_names_capture_a_boot_and_leave(plane: Plane, host: Host) -> None:
    plane.apply(NAMESPACE, service("web", 8081), allowed("web", "web"))
    host.run("id web >/dev/null 2>&1 || useradd -r web")
    host.put(APP, "/srv/app.py")
    host.write("/etc/systemd/system/web.service", UNIT.format(name="web", port=8081))
    host.run("chmod 755 /srv /srv/app.py; systemctl daemon-reload; systemctl enable --now web")
    host.wait(lambda: "done" in host.run("cloud-init status", check=False).out, timeout=90, what="cloud-init is done")
    before = manifest(host)

    began = time.monotonic()
    done = host.run(plane.line("noble-1", "-i", "shop/web"), timeout=400)
    print(f"one step, ready after {time.monotonic() - began:.1f} s")
    assert "node noble-1 serves" in done.out
    host.write("/etc/holdfast/services.d/web.yaml", definition("web", 8081, "{users: [web]}", "web"))
    host.wait(lambda: spiffe("web") in calls_itself(host), timeout=60, what="web calls by name")
    assert host.run("holdfast-agent doctor").code == 0

    with reachable(host):
        host.run("cp /etc/holdfast/agent.yaml /root/agent.yaml; cat >>/etc/holdfast/agent.yaml", stdin=CAPTURE)
        host.run("systemctl restart holdfast-agent")
        host.wait(lambda: "armed" in host.run("holdfast-agent capture status").out, what="armed")
        assert "capture: confirmed" in host.run("holdfast-agent capture confirm").out

    host.reboot()
    host.wait(lambda: "done" in host.run("cloud-init status", check=False).out, timeout=90, what="cloud-init is done")
    assert "manage_etc_hosts" in host.run("cat /etc/hosts").out
    host.wait(lambda: spiffe("web") in calls_itself(host), timeout=60, what="web calls by name after the boot")
    assert "capture: confirmed" in host.run("holdfast-agent capture status").out

    host.run("mv /root/agent.yaml /etc/holdfast/agent.yaml")
    assert AS_BEFORE in host.run("holdfast-agent leave --drain-seconds 0", timeout=120).out
    left = difference(before, manifest(host))
    assert [line for line in left if "/var/lib/cloud" not in line] == []
