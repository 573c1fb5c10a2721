"""Where a peer may lead proxies of ours, and what an operator may say of its networks."""

import pytest

from mesh.model import Metadata, Peering, PeeringSpec
from mesh.model.reach import MAX_NETWORKS, PRIVATE, Reach, canonical, network_fault, sound
from mesh.validate import validate

OWN = frozenset({"10.0.0.1", "203.0.113.7", "2001:db8::7", ""})


@pytest.mark.parametrize("address", ["198.51.100.1", "10.9.9.9", "192.168.1.1", "2001:db8:1::1", "fd00:1::1"])
def test_a_peer_may_be_at_any_unicast_address(address):
    assert Reach(OWN).fault(address) == ""


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fd00:ec2::254", "EC2"),
        ("fd20:ce::254", "Google"),
        ("100.100.100.200", "Alibaba"),
        ("168.63.129.16", "Azure"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("64:ff9b::a9fe:a9fe", "reserved"),
        ("::169.254.169.254", "reserved"),
        ("2002:a9fe:a9fe::1", "tunnel"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "tunnel"),
        ("10.0.0.1", "own"),
        ("::ffff:10.0.0.1", "own"),
        ("2001:db8:0::7", "own"),
    ],
)
def test_no_proxy_connects_elsewhere_for_a_peer(address, what):
    fault = Reach(OWN).fault(address)
    assert what in fault, fault
    assert address in fault


def test_clusters_on_one_machine_reach_each_other_but_not_themselves():
    here = Reach(frozenset({"127.0.2.5"}))
    assert here.fault("127.0.2.6") == ""
    assert "own" in here.fault("127.0.2.5")
    assert "link-local" in here.fault("169.254.169.254")


def test_networks_bound_a_peer_and_open_nothing_that_is_closed():
    reach = Reach(OWN, ("198.51.100.0/24", "2001:db8:1::/48", "0.0.0.0/8", "10.0.0.0/8"))
    assert reach.fault("198.51.100.200") == ""
    assert reach.fault("2001:db8:1::5") == ""
    assert "spec.networks" in reach.fault("198.51.101.1")
    assert "own" in reach.fault("10.0.0.1")
    assert "unspecified" in reach.fault("0.0.0.1")


def test_what_is_no_address_is_not_its_matter():
    assert Reach().fault("gw.example") == Reach().fault("fe80::1%eth0") == ""


def test_a_network_is_written_as_one():
    for network in PRIVATE:
        assert network_fault(network) == ""
    for text in ("10.0.0.1/8", "10.0.0.0/33", "all", "", "::ffff:10.0.0.0/104", "fe80::%eth0/64"):
        assert network_fault(text), text
    assert sound(["10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/255.0.0.0", "2001:DB8::/32"]) == ("10.0.0.0/8", "2001:db8::/32")


def test_a_peering_says_all_that_is_wrong_with_its_networks():
    def peering(name, *networks):
        return Peering(
            metadata=Metadata(name=name), spec=PeeringSpec(trust_domain=f"{name}.example", networks=networks)
        )

    other = peering("north", "192.0.2.0/24")
    found = validate(peering("east", "10.0.0.1/8", "192.0.2.0/24", "198.51.100.0/24"), {other.ref: other})
    assert [(one.path, one.reason) for one in found] == [
        ("spec.networks[0]", "'10.0.0.1/8' is not a network, such as 10.1.0.0/16: 10.0.0.1/8 has host bits set"),
        ("spec.networks[1]", "Peering north has it already"),
    ]
    many = peering("east", *(f"10.{n}.0.0/16" for n in range(MAX_NETWORKS + 1)))
    assert [one.path for one in validate(many)] == ["spec.networks"]


def test_an_address_has_one_text():
    for text in ("2001:DB8::7", "2001:db8:0:0::7"):
        assert canonical(text) == "2001:db8::7"
    assert canonical("::ffff:10.0.0.1") == "10.0.0.1"
    assert canonical("a.name") == "a.name"
