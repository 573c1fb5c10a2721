"""The certificates of etcd and OpenBao on a host with a whole control plane: whose they are, and who reads new ones."""

import re

import pytest

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from tests.vm.controller import Controller
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.versions import HERE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CONFIG = "/etc/holdfast"
ENVOY = "curl -sS --unix-socket /run/holdfast-envoy/envoy.sock http://envoy"


@pytest.fixture(scope="module")
def plane(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Controller, Host]:
    dist = tmp_path_factory.mktemp("dist") / "dist"
    build_dist(dist, Order(**HERE), lambda _: None)
    controller = Controller(tmp_path_factory.mktemp("controller"), dist)
    [host] = fleet.up("cp")
    groups = {name: [host] for name in ("holdfast_etcd", "holdfast_openbao", "holdfast_controlplane")}
    controller.write(groups, {})
    controller.play("site")
    return controller, host


def serial(host: Host, file: str) -> str:
    return host.run(f"openssl x509 -noout -serial -in {CONFIG}/{file}").out.partition("=")[2].strip().lower()


def shown(host: Host, port: int) -> str:
    """What a server there shows."""
    ask = f"openssl s_client -connect {host.address}:{port} </dev/null 2>/dev/null"
    return host.run(f"{ask} | openssl x509 -noout -serial").out.partition("=")[2].strip().lower()


def subject(host: Host, file: str) -> str:
    return host.run(f"openssl x509 -noout -subject -issuer -in {CONFIG}/{file}").out


def process(host: Host, unit: str) -> str:
    return host.run(f"systemctl show -p MainPID --value {unit}").out.strip()


def gate(host: Host) -> set[str]:
    """Serial numbers of the certificates that the gate's Envoy has."""
    return set(re.findall(r'"serial_number": "([0-9a-f]+)"', host.run(f"{ENVOY}/certs").out))


def test_certificates_say_whose_they_are_and_no_key_is_left_behind(plane: tuple[Controller, Host]):
    _, host = plane
    assert "CN = etcd-member-cp" in subject(host, "etcd/member.pem")
    assert "CN = holdfast etcd CA" in subject(host, "etcd/member.pem")
    assert "CN = openbao-member-cp" in subject(host, "openbao/server.pem")
    assert "CN = holdfast OpenBao CA" in subject(host, "openbao/server.pem")
    keys = "find /etc/holdfast /run /tmp /var/tmp /root /home -xdev -name '*key*.pem*' -printf '%p %u %m\\n'"
    assert sorted(host.run(keys).out.splitlines()) == [
        "/etc/holdfast/controlplane/etcd-key.pem holdfast-controlplane 400",
        "/etc/holdfast/controlplane/gate-key.pem holdfast-envoy 400",
        "/etc/holdfast/etcd/member-key.pem holdfast-etcd 400",
        "/etc/holdfast/etcd/root-key.pem root 400",
        "/etc/holdfast/openbao/server-key.pem holdfast-openbao 400",
    ]


def test_a_second_run_changes_nothing(plane: tuple[Controller, Host]):
    controller, host = plane
    assert controller.play("site").changed == {host.name: 0}


def test_renewed_certificates_are_used_by_all_that_have_them(plane: tuple[Controller, Host]):
    controller, host = plane
    bao, before = process(host, "holdfast-openbao"), gate(host)
    old = {file: serial(host, file) for file in ("etcd/member.pem", "openbao/server.pem", "controlplane/gate.pem")}
    assert old["controlplane/gate.pem"] in before
    controller.play("site", "-e", "holdfast_renew_certificates=true")
    new = {file: serial(host, file) for file in old}
    assert all(new[file] != old[file] for file in old)
    assert shown(host, 2379) == new["etcd/member.pem"]
    host.wait(lambda: shown(host, 8200) == new["openbao/server.pem"], what="OpenBao shows its new one")
    assert process(host, "holdfast-openbao") == bao, "a restart seals it"
    host.wait(lambda: new["controlplane/gate.pem"] in gate(host), what="the gate's Envoy has its new one")
    assert old["controlplane/gate.pem"] not in gate(host)
    assert controller.play("site").changed == {host.name: 0}
