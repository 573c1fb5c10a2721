"""Hosts that reach each other, and their control plane, by IPv6 alone: joined, called, captured, killed, left.

The hosts have an address of IPv4 each, too, as hosts have: that is how it is seen that nothing goes there.
"""

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from mesh.model.checks import place
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.manifest import difference, manifest
from tests.vm.plane import Plane
from tests.vm.shop import PORTS, Shop, calls, reachable, spiffe
from tests.vm.test_capture import old_connection, over, sent_out, state
from tests.vm.test_install import AS_BEFORE
from tests.vm.test_kills import BACK_SECONDS, pid_of, serves

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

IPV6 = True
"""Of this module's fleet."""
PROXY = "http://127.0.0.1:9"
"""In every host's environment, and nobody is there: what asks it for an address in brackets does not come back."""
MTLS_PORT = 15443


@pytest.fixture(scope="module")
def bare(fleet: Fleet, plane: Plane) -> Shop:
    """Two hosts with their applications, and a mesh that they do not belong to yet."""
    shop = Shop(fleet, plane)
    shop.declare()
    for host in (shop.api, shop.web):
        shop.prepare(host)
    return shop


def like(host: Host) -> list[str]:
    """What it is like, with its routes of IPv6."""
    return [*manifest(host), *host.run("ip -6 route show table all").out.splitlines()]


@pytest.fixture(scope="module")
def before(bare: Shop) -> dict[str, list[str]]:
    return {host.name: like(host) for host in (bare.api, bare.web)}


@pytest.fixture(scope="module")
def shop(bare: Shop, before: dict[str, list[str]]) -> Shop:
    def join(host: Host) -> None:
        line = bare.plane.line(host.name, "-i", f"shop/{host.name}")
        assert f" 'https://{place(bare.plane.plane.address, 8443)}' " in line, "a shell takes brackets for a pattern"
        done = host.run(f"export https_proxy={PROXY} all_proxy={PROXY}\n{line}", timeout=240)
        assert "ready after" in done.out
        bare.define(host, host.name)

    with ThreadPoolExecutor() as pool:
        list(pool.map(join, (bare.api, bare.web)))
    bare.answers(timeout=90)
    return bare


def from_here(address: str, port: int) -> str:
    """What we are answered, who are not in the mesh; or why not."""
    try:
        with urllib.request.urlopen(f"http://{place(address, port)}/", timeout=6) as answer:
            return answer.read().decode()
    except OSError as exc:
        return f"not answered: {exc}"


def peers(host: Host, port: int) -> set[str]:
    """The other ends of what this host has open to or from this port."""
    said = host.run(f"ss -Htn state established '( sport = :{port} or dport = :{port} )'").out
    return {line.split()[-1].rpartition(":")[0].strip("[]") for line in said.splitlines()}


def test_another_mesh_s_control_plane_is_refused_and_nothing_is_changed(
    bare: Shop, before: dict[str, list[str]]
) -> None:
    line = bare.plane.line("web", "-i", "shop/web")
    pin = line.split(" | ")[0].rsplit(".", 1)[1]
    done = bare.web.run(line.replace(pin, "0" * 32), check=False, timeout=60)
    assert done.code == 1
    assert f"whoever answers at {bare.plane.url} is not the mesh that this token is for" in done.err
    assert difference(before["web"], like(bare.web)) == []


def test_the_pasted_line_makes_hosts_that_call_each_other_by_ipv6(shop: Shop) -> None:
    for host in (shop.api, shop.web):
        assert f'address: "{host.address}"' in host.run("cat /etc/holdfast/agent.yaml").out
    assert spiffe("web") in shop.call(shop.web)["caller"]
    assert peers(shop.api, MTLS_PORT) == {shop.web.address}
    assert peers(shop.web, MTLS_PORT) == {shop.api.address}
    # To the control plane and the gate as well.
    assert peers(shop.web, 8443) | peers(shop.web, 2390) == {shop.plane.plane.address}


def test_what_is_told_of_it_is_true(shop: Shop) -> None:
    plane = shop.plane
    for host in (shop.api, shop.web):
        said = host.run("holdfast-agent status").out
        for words in ("store: connected", "control plane: connected", "healthy, registered: yes"):
            assert words in said, said
        done = host.run("holdfast-agent doctor", check=False)
        assert f"control plane: {plane.url} answers" in done.out
        assert "FAULT" not in done.out, done.out
    listed = plane.holdfast("get", "endpoints", "-n", "shop")
    for host in (shop.api, shop.web):
        assert place(host.address, MTLS_PORT) in listed
    told = plane.holdfast("explain", "web.shop", "api.shop:8080")
    assert place(shop.api.address, MTLS_PORT) in told
    status, examined = plane.holdfast("status"), plane.holdfast("doctor")
    assert plane.url in status
    assert "3 of 3 connected, 0 lost" in status  # with the gate's
    assert f"reach {plane.url} " in examined
    assert " fail " not in examined, examined
    assert f"{place(shop.api.address, MTLS_PORT)}: not there -> healthy" in shop.web.run("holdfast-agent history").out


def test_an_application_s_own_port_is_closed_to_both_families_and_confirmed_over_ipv6(shop: Shop) -> None:
    host, port = shop.api, PORTS["api"]
    ways = (host.address, host.ipv4)
    for way in ways:
        assert '"service": "api"' in from_here(way, port)
    host.run("cp /etc/holdfast/agent.yaml /root/agent.yaml")
    try:
        with reachable(host, shop.web), old_connection(host) as old, calls(shop, shop.web) as there:
            assert ":" in over(old, "echo $SSH_CONNECTION").out.split()[0]
            host.run("cat >>/etc/holdfast/agent.yaml", stdin="capture: {inbound: {}}\n")
            host.run("systemctl restart holdfast-agent")
            host.wait(lambda: "armed" in state(host), what="armed")
            for way in ways:
                assert "refused" in from_here(way, port)
            stale = over(old, "holdfast-agent capture confirm")
            assert stale.code == 1
            assert "older than the capture and proves nothing" in stale.err
            assert "capture: confirmed" in host.run("holdfast-agent capture confirm").out
            for way in ways:
                assert "refused" in from_here(way, port)
            assert over(old, "true").code == 0
        assert there.failures == []
        assert "FAULT" not in host.run("holdfast-agent doctor", check=False).out
        assert "capture: reverted" in host.run("holdfast-agent capture off").out
        for way in ways:
            assert '"service": "api"' in from_here(way, port)
    finally:
        host.run("mv /root/agent.yaml /etc/holdfast/agent.yaml; systemctl restart holdfast-agent")
        host.wait(lambda: state(host) == "capture: none", what="no capture")


def test_what_callers_connect_to_goes_through_their_proxy_over_both_families(shop: Shop) -> None:
    host, ways = shop.web, (shop.api.address, shop.api.ipv4)
    host.run("cp /etc/holdfast/agent.yaml /root/agent.yaml")
    shop.plane.egress("RegisteredOnly")
    try:
        assert [sent_out(shop, way) for way in ways] == ["let out"] * 2
        with reachable(host, shop.api), calls(shop, host) as here:
            host.run("cat >>/etc/holdfast/agent.yaml", stdin="capture: {outbound: {}}\n")
            host.run("systemctl restart holdfast-agent")
            host.wait(lambda: "armed" in state(host), what="armed")
            host.wait(lambda: "let out" not in [sent_out(shop, way) for way in ways], what="refused, both")
            assert "capture: confirmed" in host.run("holdfast-agent capture confirm").out
            shop.plane.egress("Allow")
            host.wait(lambda: [sent_out(shop, way) for way in ways] == ["let out"] * 2, what="let on, both")
            passed = partial(host.run, "grep passthrough /var/log/holdfast/access.log")
            host.wait(lambda: all(place(way, PORTS["api"]) in passed().out for way in ways), what="by way of Envoy")
            assert "FAULT" not in host.run("holdfast-agent doctor", check=False).out
        assert here.failures == []
    finally:
        shop.plane.egress("Allow")
        host.run("mv /root/agent.yaml /etc/holdfast/agent.yaml; systemctl restart holdfast-agent")
        host.wait(lambda: state(host) == "capture: none", what="no capture")


def test_a_killed_agent_costs_no_call(shop: Shop) -> None:
    host = shop.api
    killed = pid_of(host, "holdfast-agent")
    with reachable(host), calls(shop, shop.web) as there, calls(shop, host) as here:
        host.run("systemctl kill --signal=KILL holdfast-agent")
        host.wait(lambda: serves(host) and pid_of(host, "holdfast-agent") != killed, timeout=BACK_SECONDS)
    assert there.failures == here.failures == []


def test_a_host_that_boots_serves_and_says_nothing_false_of_its_address(shop: Shop) -> None:
    """The kernel looks for another one of the same address first, for a second or two: it is none to listen at then."""
    host = shop.api
    host.reboot()
    shop.answers(timeout=60)
    host.wait(lambda: serves(host), timeout=60, what="serves")
    host.wait(lambda: "address" not in host.run("holdfast-agent status").out, timeout=60, what="its address is its own")
    said = host.run("holdfast-agent doctor", check=False).out
    assert "ok       address: it is this host's" in said, said
    assert "FAULT" not in said, said
    assert peers(host, MTLS_PORT) == {shop.web.address}


def test_a_host_that_leaves_is_as_it_was(shop: Shop, before: dict[str, list[str]]) -> None:
    """The last one: the others need the hosts."""
    for host in (shop.api, shop.web):
        host.run(f"rm /etc/holdfast/services.d/{host.name}.yaml")
        assert AS_BEFORE in host.run("holdfast-agent leave --drain-seconds 1", timeout=120).out
        assert difference(before[host.name], like(host)) == []
        assert host.run("nft -s list ruleset").out == ""
