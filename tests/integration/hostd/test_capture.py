"""Opt-in capture against a real kernel: armed, confirmed, lapsing by itself, and never in an operator's way."""

import os
from contextlib import ExitStack
from dataclasses import replace

import pytest

from agent.hostd.client import HostError
from agent.hostd.wanted import Caller, Inbound, Name, Outbound, Wanted
from tests.integration.hostd.hosts import Host, can_make_namespaces, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root, nftables and network namespaces"),
]

API, WEB = Name("api.shop.mesh", "127.64.3.7"), Caller("shop/web", 15101, users=("daemon",))
HERE, FAR, SPARED = "198.51.100.1", "198.51.100.7", "198.51.100.9"
RANGES, EXEMPT = ("198.51.100.0/24", "198.51.100.0/28"), (f"{SPARED}/32",)
CAPTURED = "127.0.0.1:15101"
HERE6, FAR6, SPARED6 = "2001:db8::1", "2001:db8::7", "2001:db8::9"


def outbound(on_failure="open"):
    return Wanted((API,), (WEB,), Outbound(RANGES, EXEMPT, on_failure))


def outbound6(on_failure="open"):
    ranges, exempt = (*RANGES, "2001:db8::/32", "2001:db8::/64"), (*EXEMPT, f"{SPARED6}/128")
    return Wanted((API,), (WEB,), Outbound(ranges, exempt, on_failure))


@pytest.fixture
def pair(tmp_path):
    """A host with the helper, and another at the end of a wire."""
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    with ExitStack() as stack:
        hosts = []
        for name in ("here", "far"):
            (tmp_path / name).mkdir()
            hosts.append(Host(tmp_path / name, stack))
        host, far = hosts
        host.cable(far, HERE, (FAR, SPARED))
        far.peers("tcp:0.0.0.0:22", "tcp:0.0.0.0:8080", "tcp:0.0.0.0:9000")
        yield host, far


def test_armed_capture_reverts_by_itself_and_stays_so(pair):
    host, _ = pair
    host.mesh(15101)
    host.start_helper("--confirm-seconds=4")
    assert host.apply(outbound())["capture"] == "armed"
    assert host.call(FAR, 8080, user="daemon") == CAPTURED
    until(lambda: host.call(FAR, 8080, user="daemon") == "0.0.0.0:8080", "capture is undone")
    until(lambda: host.ask("status")["capture"] == "reverted", "the helper knows")
    assert host.apply(outbound())["capture"] == "reverted"  # the agent says it again
    host.helper.kill()
    host.helper.wait()
    host.start_helper("--confirm-seconds=4")
    assert host.ask("status")["capture"] == "reverted"
    assert host.call(FAR, 8080, user="daemon") == "0.0.0.0:8080"
    assert host.call("127.64.3.7", 80, user="daemon") == CAPTURED  # what cannot cut anybody off stays


def test_armed_capture_reverts_even_if_the_helper_is_killed(pair):
    host, _ = pair
    host.mesh(15101)
    host.start_helper("--confirm-seconds=4")
    host.apply(outbound("closed"))
    assert host.call(FAR, 8080, user="daemon") == CAPTURED
    host.helper.kill()
    until(lambda: host.call(FAR, 8080, user="daemon") == "0.0.0.0:8080", "the kernel lets go")


def test_only_listed_callers_are_captured_and_what_is_exempt_is_not(pair):
    host, _ = pair
    host.mesh(15101)
    host.start_helper()
    host.apply(outbound())
    assert host.call(FAR, 8080, user="daemon") == CAPTURED
    assert host.call(FAR, 8080, user="nobody") == "0.0.0.0:8080"
    assert host.call(SPARED, 8080, user="daemon") == "0.0.0.0:8080"
    assert host.call(FAR, 22, user="daemon") == "0.0.0.0:22"


def test_a_control_plane_that_moves_is_left_alone_where_it_is_and_nobody_has_to_confirm_that(pair6):
    host, _ = pair6
    host.mesh(15101)
    host.peers("tcp:[::1]:15101")
    host.start_helper("--confirm-seconds=30")
    host.apply(outbound6())
    assert host.over_ssh("confirm")["capture"] == "confirmed"
    assert host.call(FAR, 8080, user="daemon") == CAPTURED
    moved = replace(outbound6(), lifelines=(FAR, FAR6))
    assert host.apply(moved)["capture"] == "confirmed"
    assert host.call(FAR, 8080, user="daemon") == "0.0.0.0:8080"
    assert host.call(FAR6, 8081, user="daemon") == "[2001:db8::7]:8081"
    assert host.apply(replace(moved, lifelines=(FAR,)))["capture"] == "confirmed"
    assert host.call(FAR6, 8081, user="daemon") == "[::1]:15101"
    assert host.call(FAR, 8080, user="daemon") == "0.0.0.0:8080"


@pytest.fixture
def pair6(pair):
    """Both have addresses of IPv6 besides, and it is there that they are called."""
    host, far = pair
    for one, addresses in ((host, (HERE6,)), (far, (FAR6, SPARED6))):
        for address in addresses:
            one.run("ip", "address", "add", f"{address}/64", "dev", "wire", "nodad")
    far.peers("tcp:[2001:db8::7]:22", "tcp:[2001:db8::7]:8081", "tcp:[2001:db8::9]:8081")
    host.peers("tcp:[::1]:8081", f"tcp:[{HERE6}]:8081")
    return host, far


def test_addresses_of_ipv6_are_captured_where_that_is_asked_for(pair6):
    host, _ = pair6
    host.mesh(15101)
    host.peers("tcp:[::1]:15101")
    host.start_helper()
    host.apply(outbound())
    assert host.call(FAR6, 8081, user="daemon") == "[2001:db8::7]:8081"  # nothing of IPv6 was
    assert host.apply(outbound6())["capture"] == "armed"
    assert host.call(FAR6, 8081, user="daemon") == "[::1]:15101"
    assert host.call(FAR, 8080, user="daemon") == CAPTURED
    assert host.call(FAR6, 8081, user="nobody") == "[2001:db8::7]:8081"
    assert host.call(SPARED6, 8081, user="daemon") == "[2001:db8::9]:8081"
    assert host.call(FAR6, 22, user="daemon") == "[2001:db8::7]:22"
    for own in ("::1", HERE6):
        assert host.call(own, 8081, user="daemon") == f"[{own}]:8081"
    assert host.call("::1", 15101, user="daemon") == "ConnectionRefusedError"  # not having been redirected


@pytest.mark.parametrize(("on_failure", "then"), [("open", "[2001:db8::7]:8081"), ("closed", "ConnectionRefusedError")])
def test_capture_of_ipv6_lapses_with_the_mesh_too(pair6, on_failure, then):
    host, _ = pair6
    mesh = host.mesh(15101)
    host.peers("tcp:[::1]:15101")
    host.start_helper("--confirm-seconds=30")
    host.apply(outbound6(on_failure))
    assert host.over_ssh("confirm")["capture"] == "confirmed"
    mesh.kill()
    mesh.wait()
    until(lambda: host.call(FAR6, 8081, user="daemon") == then, "capture lapsed", 30)
    assert host.call(FAR6, 22, user="daemon") == "[2001:db8::7]:22"
    assert host.call(SPARED6, 8081, user="daemon") == "[2001:db8::9]:8081"
    assert host.call(FAR6, 8081, user="nobody") == "[2001:db8::7]:8081"


@pytest.mark.parametrize(("on_failure", "then"), [("open", "0.0.0.0:8080"), ("closed", "ConnectionRefusedError")])
def test_confirmed_capture_lapses_with_the_mesh_and_comes_back_with_it(pair, on_failure, then):
    host, _ = pair
    mesh = host.mesh(15101)
    host.start_helper("--confirm-seconds=8")
    host.apply(outbound(on_failure))
    assert host.over_ssh("confirm")["capture"] == "confirmed"
    mesh.kill()
    mesh.wait()
    until(lambda: host.call(FAR, 8080, user="daemon") == then, "capture lapsed", 30)
    assert host.call(FAR, 22, user="daemon") == "0.0.0.0:22"
    assert host.call(SPARED, 8080, user="daemon") == "0.0.0.0:8080"
    assert host.call(FAR, 8080, user="nobody") == "0.0.0.0:8080"
    for name in ("agent.sock", "envoy.sock"):
        (host.tmp / name).unlink()
    host.mesh(15101)
    until(lambda: host.call(FAR, 8080, user="daemon") == CAPTURED, "captured again", 30)
    host.helper.kill()  # nobody is left who could renew
    until(lambda: host.call(FAR, 8080, user="daemon") == then, "the kernel lets go", 30)


def test_only_a_new_ssh_connection_confirms(pair):
    host, _ = pair
    host.mesh(15101)
    host.start_helper()
    with pytest.raises(HostError, match="not asked for"):
        host.over_ssh("confirm")
    host.apply(outbound())
    with pytest.raises(HostError, match=r"no SSH connection|older"):
        host.ask("confirm")
    with pytest.raises(HostError, match="console"):
        host.ask("console")
    assert host.over_ssh("confirm")["capture"] == "confirmed"
    host.helper.kill()
    host.helper.wait()
    host.run("nft", "flush", "ruleset")
    host.start_helper()  # a boot asks nobody again
    until(lambda: host.call(FAR, 8080, user="daemon") == CAPTURED, "in force after a boot")
    host.ask("off")
    assert host.call(FAR, 8080, user="daemon") == "0.0.0.0:8080"
    host.helper.kill()
    host.helper.wait()
    host.start_helper()  # the operator's word outlives a boot
    assert host.apply(outbound())["capture"] == "reverted"


def test_a_change_that_nobody_confirms_opens_no_port_that_was_closed(pair):
    host, far = pair
    host.mesh(15101, 15443)
    host.peers("tcp:0.0.0.0:8081", "tcp:0.0.0.0:8082")
    host.start_helper("--confirm-seconds=4")
    host.apply(Wanted(inbound=Inbound((8081,), "closed")))
    assert host.over_ssh("confirm")["capture"] == "confirmed"
    more = Wanted(inbound=Inbound((8081, 8082), "closed"))
    assert host.apply(more)["capture"] == "armed"
    assert far.call(HERE, 8082) == "ConnectionRefusedError"
    while host.ask("status")["capture"] == "armed":
        assert far.call(HERE, 8081) == "ConnectionRefusedError"  # at no moment open
    assert host.ask("status")["before"] is True
    assert far.call(HERE, 8082) == "0.0.0.0:8082"
    assert far.call(HERE, 8081) == "ConnectionRefusedError"
    host.helper.kill()
    host.helper.wait()
    host.run("nft", "flush", "ruleset")
    host.start_helper("--confirm-seconds=4")  # a boot knows it, too
    assert host.apply(more)["capture"] == "reverted"
    assert far.call(HERE, 8081) == "ConnectionRefusedError"
    assert far.call(HERE, 8082) == "0.0.0.0:8082"
    host.ask("off")
    assert far.call(HERE, 8081) == "0.0.0.0:8081"


def test_a_word_that_cannot_be_remembered_says_so_until_it_is(pair):
    """`capture off` is for good: with a full disk it is not."""
    host, _ = pair
    host.mesh(15101)
    host.state.touch()  # where the folder should be: nothing can be written
    host.start_helper()
    assert "cannot be written" in str(host.apply(outbound())["problems"])
    assert "cannot be written" in str(host.ask("off")["problems"])
    host.state.unlink()
    assert host.apply(outbound())["problems"] == []
    host.helper.kill()
    host.helper.wait()
    host.start_helper()
    assert host.apply(outbound())["capture"] == "reverted"


def test_a_closed_port_is_loopbacks_and_ssh_stays(pair):
    host, far = pair
    host.mesh(15101, 15443)
    host.peers("tcp:0.0.0.0:22", "tcp:0.0.0.0:8081", "tcp:0.0.0.0:8082")
    host.start_helper()
    host.apply(Wanted(inbound=Inbound((8081,), "closed")))
    assert far.call(HERE, 8081) == "ConnectionRefusedError"
    assert host.call("127.0.0.1", 8081) == "0.0.0.0:8081"
    assert far.call(HERE, 8082) == "0.0.0.0:8082"
    assert far.call(HERE, 22) == "0.0.0.0:22"
    host.ask("off")
    assert far.call(HERE, 8081) == "0.0.0.0:8081"


def test_a_neighbour_reaches_no_listener_though_the_kernel_routes_loopback_addresses(pair):
    host, far = pair
    for one in (host, far):
        one.run("sh", "-c", "echo 1 | tee /proc/sys/net/ipv4/conf/*/route_localnet")
    host.mesh(15101)
    host.peers("tcp:0.0.0.0:8081")
    far.run("ip", "route", "add", "127.64.0.0/10", "via", HERE, "dev", "wire")
    host.start_helper()
    host.apply(Wanted((API,), (WEB,)))
    assert far.call(HERE, 8081) == "0.0.0.0:8081"
    far.run("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
    assert far.call("127.64.3.7", 8081) != "0.0.0.0:8081"
