"""A host with packet rules of its own, that are flushed and loaded anew: theirs stay theirs, ours come back."""

import time
from collections.abc import Iterator

import pytest

from tests.vm.faults import stopped
from tests.vm.host import Host
from tests.vm.shop import Shop, calls, reachable

pytestmark = pytest.mark.timeout(300)

# As Debian's nftables.service loads it. The second and third table are like those that Docker makes.
CONF = """#!/usr/sbin/nft -f
flush ruleset
table inet firewall {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    icmp type echo-request accept
    tcp dport { 22, 8080, 15443 } accept
  }
  chain output { type filter hook output priority 0; policy accept; }
}
table ip nat {
  chain DOCKER { tcp dport 5000 dnat to 172.17.0.2:80; }
  chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
  chain OUTPUT {
    type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER
  }
  chain POSTROUTING {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 172.17.0.0/16 masquerade
  }
}
table ip filter {
  chain DOCKER-USER { return; }
  chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
"""
BACK_SECONDS = 2
"""Two busy cores; usual are tenths."""


@pytest.fixture
def host(shop: Shop) -> Iterator[Host]:
    """api's, with the firewall above as its own."""
    host = shop.api
    host.run("cp /etc/nftables.conf /root/nftables.conf")
    host.write("/etc/nftables.conf", CONF.replace("; }", "\n  }"))
    host.run("systemctl enable --now nftables")
    try:
        yield host
    finally:
        host.run("systemctl disable --now nftables; mv /root/nftables.conf /etc/nftables.conf")
        shop.answers()


def theirs(host: Host) -> str:
    """All rules but those of our table."""
    tables = [line for line in host.run("nft list tables").out.splitlines() if "holdfast" not in line]
    return host.run("; ".join(f"nft -s list {table}" for table in tables)).out


def is_ours(host: Host) -> bool:
    return (
        "names and redirection: in force" in host.run("nft list table inet holdfast && holdfast-agent host status").out
    )


def loaded_alone(host: Host) -> str:
    """What their file makes of a kernel without any rules, in a network of its own."""
    return host.run("unshare -n sh -c 'nft -f /etc/nftables.conf && nft -s list ruleset'").out


def test_a_firewall_that_flushes_everything_and_ours_live_together(shop: Shop, host: Host) -> None:
    alone = loaded_alone(host)
    assert "policy drop" in alone
    host.wait(lambda: is_ours(host), what="ours are there besides theirs")
    shop.answers()
    with reachable(host), calls(shop, shop.web) as there, calls(shop, host) as here:
        for _ in range(3):
            began = time.monotonic()
            took = host.run(
                "systemctl reload nftables; began=$(date +%s%N); "
                "until nft list chain inet holdfast virtual >/dev/null 2>&1; do sleep 0.01; done; "
                "echo $((($(date +%s%N) - began) / 1000000))"
            ).out.strip()
            print(f"ours are back {took} ms after the reload")
            assert time.monotonic() - began < BACK_SECONDS + 3
            assert int(took) < BACK_SECONDS * 1000
            assert theirs(host) == alone
    print(
        f"calls from there: {len(there.good)} good, {there.failures}; from here: {len(here.good)} good, {here.failures}"
    )
    assert there.failures == []  # who is called needs no rules of ours
    # Never the application here, which holds 0.0.0.0:8080 and would have seen no caller: a call waits or is refused.
    assert [said for said in here.failures if not said.startswith("not called")] == []
    assert here.gap() < BACK_SECONDS + 1  # TCP tries again after a second
    assert "is missing or is not as it was loaded; it is loaded again" in host.journal("holdfast-host")
    shop.answers()


def test_while_rules_are_away_a_call_by_name_reaches_nobody(shop: Shop, host: Host) -> None:
    """The helper stands still, so that nobody brings them back: api's own application holds the port on 0.0.0.0."""
    assert "while the rules are away: go nowhere" in host.run("holdfast-agent host status").out
    with reachable(host), stopped(host, "holdfast-host"):
        host.run("nft flush ruleset")
        for _ in range(3):
            assert "not called: " in shop.caller(host)
    shop.answers()


@pytest.mark.slow
def test_both_are_there_after_a_boot_and_theirs_alone_after_a_clean(shop: Shop, host: Host) -> None:
    alone = loaded_alone(host)
    host.reboot()
    shop.answers(timeout=60)
    assert is_ours(host)
    assert theirs(host) == alone
    assert "nothing of Holdfast is left" in host.run("holdfast-agent host clean").out
    assert host.run("nft -s list ruleset").out == alone
    assert "holdfast0" not in host.run("ip link; ip route show table all").out
    host.run("systemctl restart holdfast-agent")
    shop.answers(timeout=60)
