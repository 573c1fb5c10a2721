"""What doctor makes of other people's rules, as a real nft prints them."""

import os
import shutil
import subprocess

import pytest

from agent.doctor import systems

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="nftables are root's"),
]

FIREWALL = """
table inet fw {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    tcp dport { 22, 80 } accept
    tcp dport 15000-16000 accept
  }
  chain early {
    type nat hook output priority -150; policy accept;
  }
  chain usual {
    type nat hook output priority -100; policy accept;
  }
}
"""
OURS = """
table inet holdfast {
  chain names {
    type nat hook output priority -100; policy accept;
  }
}
"""


def listed(rules: str) -> str:
    """In a network of its own, which ends with the command."""
    command = ["unshare", "-n", "sh", "-c", "nft -f - && nft -j list ruleset"]
    done = subprocess.run(command, input=rules, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rules_of_others_are_judged_as_nft_prints_them():
    text = listed(FIREWALL)
    assert not systems.has_table(text)
    (early,) = systems.rivals(text, 15443)
    assert "chain early redirects before ours" in early
    closed, _ = systems.rivals(text, 443)
    assert "inet fw, chain input drops what it does not name" in closed
    assert len(systems.rivals(text, 80)) == 1, "it is in a set"


# As firewalld's: it accepts by policy, and its last rule refuses.
REFUSING = """
table inet firewalld {
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname "lo" accept
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT_ZONES {
    tcp dport 22 accept
  }
}
"""


def test_a_chain_whose_last_rule_refuses_closes_what_it_does_not_name():
    (closed,) = systems.rivals(listed(REFUSING), 15443)
    assert "inet firewalld, chain filter_INPUT drops what it does not name, and names no TCP port 15443" in closed
    assert systems.rivals(listed(REFUSING.replace("dport 22", "dport 15443")), 15443) == ()
    open_ = REFUSING.replace("    reject with icmpx admin-prohibited\n", "    tcp dport 23 reject\n")
    assert systems.rivals(listed(open_), 15443) == ()


def test_our_own_are_known():
    text = listed(OURS)
    assert systems.has_table(text)
    assert systems.rivals(text, 15443) == ()
