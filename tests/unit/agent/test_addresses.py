"""The address that a host tells others of, and where its Envoy listens."""

import pytest

from agent import addresses
from agent.addresses import fault
from agent.settings import Settings, SettingsError, load

OWN = ("10.0.0.7", "192.168.1.7", "fd00::7")

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 10.0.0.0/24 2 0 2
           |-- 10.0.0.0
              /24 link UNICAST
           |-- 10.0.0.7
              /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
Local:
           |-- 10.0.0.7
              /32 host LOCAL
           |-- 192.168.1.7
              /32 host LOCAL
"""

INET6 = """00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000007 02 40 00 82     eth0
fe8000000000000000fc00fffe000001 02 40 20 80     eth0
"""


def settings(address, bind=""):
    return Settings(node="vm1", address=address, bind=bind)


def has(address):
    return address in {*OWN, "0.0.0.0", "::", "127.0.0.1", "::1"}


def test_an_address_of_one_of_its_networks_is_right():
    for address in OWN:
        assert not fault(settings(address), OWN, has)


def test_another_is_told_with_those_that_it_has_and_what_to_do():
    said = fault(settings("203.0.113.9"), OWN, has)
    assert "203.0.113.9 is not an address of this host" in said
    assert "10.0.0.7, 192.168.1.7, fd00::7" in said
    assert "`bind`" in said


def test_behind_nat_it_is_the_one_to_listen_at_that_counts():
    assert not fault(settings("203.0.113.9", "0.0.0.0"), OWN, has)
    assert not fault(settings("203.0.113.9", "10.0.0.7"), OWN, has)
    assert "bind 10.0.0.8 is not an address of this host" in fault(settings("203.0.113.9", "10.0.0.8"), OWN, has)


def test_one_of_ipv6_is_served_for_both_families():
    assert settings("fd00::7").listens_at == "::"
    assert settings("fd00::7", "fd00::7").listens_at == "fd00::7"
    assert settings("10.0.0.7").listens_at == "10.0.0.7"
    assert "nobody reaches it there" in fault(settings("fd00::8"), OWN, has)


def test_the_kernels_tables_are_read():
    assert addresses.ipv4(TRIE) == ["10.0.0.7", "192.168.1.7"]
    assert addresses.ipv6(INET6) == ["fd00::7"]


def test_this_host_knows_itself():
    assert addresses.here("127.0.0.1")
    assert not addresses.here("192.0.2.200")
    assert all(addresses.here(address) for address in addresses.own())


@pytest.mark.parametrize("address", ["vm1.example.com", "0.0.0.0", "::", "224.0.0.1", ""])
def test_what_nobody_can_reach_is_refused_in_the_settings(tmp_path, address):
    path = tmp_path / "agent.yaml"
    path.write_text(f"node: vm1\naddress: '{address}'\n")
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert [f.path for f in caught.value.faults] == ["address"]


def test_a_name_is_no_place_to_listen_at(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("node: vm1\naddress: 10.0.0.7\nbind: eth0\nenvoy: {maxHeapMib: 1, maxConnections: 0}\n")
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert {f.path for f in caught.value.faults} == {"bind", "envoy.maxHeapMib", "envoy.maxConnections"}
