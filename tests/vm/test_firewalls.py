"""Firewalls as they come in Debian's packages: the mesh works beside each, and `leave` leaves each as it was.

Docker's daemon is the real one. A container does not start on these hosts (a host here may not load BPF programs), so a
network namespace on Docker's bridge takes its place, published by the rule that Docker would have added.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.vm.fleet import Fleet
from tests.vm.host import Done, Host
from tests.vm.manifest import difference, manifest
from tests.vm.plane import Plane
from tests.vm.shop import Shop, calls, plain, reachable
from tests.vm.test_foreign import theirs
from tests.vm.test_install import AS_BEFORE

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

GAP_SECONDS = 5
"""The longest time without an answer while a firewall loads its rules anew, which is its own doing."""


class Wall(NamedTuple):
    start: str
    """With SSH let in, and 8080: there the tests ask the application itself, without the mesh."""
    reloads: tuple[str, ...]
    stop: str
    open: str = "true"
    """The mesh's port, as docs/capture.md says."""
    close: str = ""
    own: tuple[str, ...] = ()
    """What of the file system it keeps changing by itself."""


PUBLISHED = 5000
PUBLISH = """
set -e
ip netns add inside
ip link add inside0 type veth peer name eth0 netns inside
ip link set inside0 master docker0 up
ip -n inside address add 172.17.0.2/16 dev eth0
ip -n inside link set eth0 up
ip -n inside route add default via 172.17.0.1
systemd-run --unit=inside ip netns exec inside python3 /srv/app.py inside 0.0.0.0:80
"""
RULES = (
    f"iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport {PUBLISHED} -j DNAT --to-destination 172.17.0.2:80; "
    "iptables -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT"
)
WALLS = {
    "firewalld": Wall(
        start="systemctl enable --now firewalld && firewall-cmd -q --permanent --add-port=8080/tcp",
        open="firewall-cmd -q --permanent --add-port=15443/tcp && firewall-cmd -q --reload",
        close="firewall-cmd -q --remove-port=15443/tcp",
        reloads=("firewall-cmd --reload", "firewall-cmd --complete-reload", "systemctl restart firewalld"),
        stop="systemctl disable --now firewalld; rm -f /etc/firewalld/zones/*",
    ),
    "ufw": Wall(
        start="systemctl enable ufw; ufw allow 22/tcp && ufw allow 8080/tcp && ufw --force enable",
        open="ufw allow 15443/tcp",
        close="ufw delete allow 15443/tcp",
        reloads=("ufw reload", "ufw disable && ufw --force enable", "systemctl restart ufw"),
        stop="ufw --force reset; systemctl disable --now ufw",
    ),
    "docker": Wall(
        start=f"systemctl enable --now docker; {PUBLISH}{RULES}",
        reloads=(f"systemctl restart docker; {RULES}",),
        stop="systemctl disable --now docker docker.socket containerd; systemctl stop inside; ip netns delete inside; "
        "ip link delete docker0",
        own=("/var/lib/docker", "/var/lib/containerd", "/etc/docker"),
    ),
}


@pytest.fixture(scope="module")
def shop(fleet: Fleet, plane: Plane) -> Shop:
    """web is in the mesh; api's application runs on a host with firewalls to choose from."""
    shop = Shop(fleet, plane, api="firewalls")
    shop.declare()
    for host in (shop.api, shop.web):
        shop.prepare(host)
    shop.join(shop.web)
    return shop


@pytest.fixture(params=WALLS)
def wall(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Wall]:
    """Up on api's host, which is not in the mesh yet."""
    wall, host = WALLS[request.param], shop.api
    host.run(wall.start)
    host.run(wall.open)
    try:
        yield wall
    finally:
        host.wait(lambda: leave(host).code == 0, timeout=180, what="not in the mesh")
        host.run(wall.stop, check=False)
        host.run("nft flush ruleset")


def leave(host: Host) -> Done:
    words = "test ! -e /usr/local/bin/holdfast-agent || holdfast-agent leave --drain-seconds 0"
    return host.run(words, timeout=120, check=False)


def rules_of(host: Host) -> list[str]:
    """All but ours, chain by chain: a daemon that starts anew makes its chains in another order."""
    chains = re.sub(r"(?m)^(table .*|})$", "", theirs(host)).split("\n\n")
    return sorted(filter(None, (chain.strip() for chain in chains)))


def ours(host: Host) -> str:
    """Its first line has the table's number: another one, if it was gone meanwhile."""
    return host.run("nft -a list table inet holdfast | head -1").out


def test_the_mesh_lives_beside_a_firewall_and_leaves_it_as_it_was(shop: Shop, wall: Wall) -> None:
    host = shop.api
    before, rules = manifest(host), rules_of(host)
    shop.join(host)
    shop.answers(timeout=90)
    table = ours(host)
    with reachable(host), calls(shop, shop.web) as there, calls(shop, host) as here:
        for reload in wall.reloads:
            host.run(reload)
            shop.answers()
            assert rules_of(host) == rules, reload
    print(f"{len(there.good)} calls from there, {len(there.failures)} failed, {there.gap():.1f} s without; ", end="")
    print(f"from here {len(here.good)}, {len(here.failures)} failed, {here.gap():.1f} s without", there.failures[:2])
    assert ours(host) == table, "the table was gone meanwhile"
    assert "is missing" not in host.journal("holdfast-host")
    assert max(there.gap(), here.gap()) < GAP_SECONDS
    if wall.close:
        assert host.run("holdfast-agent doctor", check=False).out.count("names no TCP port 15443") == 0
        host.run(wall.close)
        assert "names no TCP port 15443" in host.run("holdfast-agent doctor", check=False).out
        host.run(wall.open)
        host.reboot()
        shop.answers(timeout=60)
        assert rules_of(host) == rules
    else:
        assert '"service": "inside"' in plain(host, PUBLISHED)
    assert AS_BEFORE in leave(host).out
    left = [line for line in difference(before, manifest(host)) if not any(own in line for own in wall.own)]
    assert left == []
