"""A mesh that plays make of hosts whose `ansible_host` is of IPv6: etcd, OpenBao, control plane, an agent."""

import json

import pytest
import yaml

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from mesh.model.checks import place
from tests.vm.controller import Controller
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.rolled import API, AS_WEB, PORTS, definition
from tests.vm.shop import APP, NAMESPACE, UNIT, allowed, service, spiffe
from tests.vm.versions import HERE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

IPV6 = True
"""Of this module's fleet."""


def application(host: Host, name: str) -> None:
    host.put(APP, "/srv/app.py")
    host.write(f"/etc/systemd/system/{name}.service", UNIT.format(name=name, port=PORTS[name]))
    host.run(f"useradd -r {name}; chmod 755 /srv /srv/app.py; systemctl enable --now {name}")


def listening(host: Host, port: int) -> set[str]:
    """At which addresses somebody does at this port."""
    said = host.run(f"ss -Hltn 'sport = :{port}'").out
    return {line.split()[3].rpartition(":")[0].strip("[]") for line in said.splitlines()}


def test_site_makes_a_mesh_of_hosts_that_are_reached_by_ipv6(
    fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dist = tmp_path_factory.mktemp("dist") / "0.1.0"
    build_dist(dist, Order(**HERE), lambda _: None)
    controller = Controller(tmp_path_factory.mktemp("controller"), dist)
    planes = fleet.up("cp-1", "cp-2", variant="bare")
    (web,) = fleet.up("web", variant="bare")
    for name in PORTS:
        application(web, name)
    objects = controller.folder / "shop.yml"
    documents = [NAMESPACE, *(service(*both) for both in PORTS.items()), allowed("api", "web")]
    objects.write_text(yaml.safe_dump_all(documents))
    controller.write(
        {
            "holdfast_etcd": [*planes, web],  # three, so that members reach each other
            "holdfast_openbao": planes[:1],
            "holdfast_controlplane": planes,
            "holdfast_agent": [web],
        },
        {"web": {"holdfast_services": [definition(name) for name in PORTS]}},
        holdfast_objects=[str(objects)],
    )
    controller.play("site")

    ask = f"import urllib.request as r; print(r.urlopen('{API}', timeout=5).read().decode())"
    web.wait(lambda: spiffe("web") in web.run(f'{AS_WEB} python3 -c "{ask}"').out, timeout=60, what="it calls")
    for host in (*planes, web):
        assert listening(host, 2379) == listening(host, 2380) == {host.address}
    for host in planes:
        assert listening(host, 8443) == {host.address}
    assert listening(planes[0], 8200) == {planes[0].address}
    urls = [f"https://{place(host.address, 8443)}" for host in planes]
    settings = yaml.safe_load(web.run("cat /etc/holdfast/agent.yaml").out)
    assert (settings["address"], settings["controlplanes"]) == (web.address, urls)
    assert '"phase": "serving"' in web.run("holdfast-agent status -o json").out

    again = controller.play("site")
    assert again.changed == dict.fromkeys(("cp-1", "cp-2", "web"), 0)
    controller.play("backup")
    (made,) = (controller.folder / "backups").glob("*/backup.json")
    assert json.loads(made.read_text())
