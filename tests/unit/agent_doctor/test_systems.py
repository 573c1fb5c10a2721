"""What systemd, nft and /etc/hosts print, as values."""

import json

import pytest

from agent.doctor import systems
from agent.hostd.block import rewrite
from agent.hostd.wanted import Name

SHOWN = """Id=holdfast-agent.service
LoadState=loaded
ActiveState=active
SubState=running
Result=success
NRestarts=7
UnitFileState=enabled

Id=holdfast-envoy.service
LoadState=not-found
ActiveState=inactive
SubState=dead
Result=success
NRestarts=
UnitFileState=
"""


def test_units_are_read():
    agent, envoy = systems.units(SHOWN)
    assert (agent.name, agent.loaded, agent.active, agent.restarts, agent.enabled) == (
        "holdfast-agent.service", True, "active", 7, True,
    )  # fmt: skip
    assert (envoy.loaded, envoy.restarts) == (False, 0)
    assert systems.units("") == ()


NAMES = (Name("api.shop.mesh", "127.64.0.1"), Name("db.shop.mesh", "127.64.0.2"))


def test_a_block_as_written_misses_nothing():
    text = rewrite("127.0.0.1 localhost\n", NAMES)
    assert systems.missing_names(text, NAMES) == ()
    assert systems.missing_names("127.0.0.1 localhost\n", ()) == ()


def test_an_edited_block_names_what_is_gone():
    text = rewrite("127.0.0.1 localhost\n", NAMES)
    assert systems.missing_names(text.replace("127.64.0.2", "127.64.0.9"), NAMES) == ("db.shop.mesh",)
    assert systems.missing_names("127.0.0.1 localhost\n", NAMES) == ("api.shop.mesh", "db.shop.mesh")


def ruleset(*objects):
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]})


def table(family, name):
    return {"table": {"family": family, "name": name, "handle": 1}}


def chain(family, table, name, **more):
    return {"chain": {"family": family, "table": table, "name": name, **more}}


def rule(family, table, *expr):
    return {"rule": {"family": family, "table": table, "chain": "x", "expr": list(expr)}}


CLOSED = chain("inet", "filter", "input", type="filter", hook="input", prio=0, policy="drop")


def test_our_own_table_is_seen_and_is_nobodys_rival():
    own = ruleset(table("inet", "holdfast"), chain("inet", "holdfast", "names", type="nat", hook="output", prio=-150))
    assert systems.has_table(own)
    assert not systems.has_table(ruleset(table("ip", "holdfast")))
    assert systems.rivals(own, 15443) == ()


def test_a_firewall_that_does_not_name_the_port_is_in_the_way():
    (said,) = systems.rivals(ruleset(CLOSED), 15443)
    assert "inet filter, chain input drops" in said
    for right in (15443, {"set": [22, 15443]}, {"range": [15000, 16000]}):
        expr = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}}
        assert systems.rivals(ruleset(CLOSED, rule("inet", "filter", expr)), 15443) == ()
    other = {"match": {"op": "==", "right": {"range": [1, 1024]}}}
    assert systems.rivals(ruleset(CLOSED, rule("inet", "filter", other)), 15443)


def test_a_firewall_by_iptables_is_asked_in_its_own_words():
    for line in ("-p tcp --dport 15443 -j ACCEPT", "-m multiport --dports 22,15443", "--dport 15443:15450"):
        assert systems.rivals(ruleset(CLOSED), 15443, f"*filter\n-A INPUT {line}\n") == ()
    assert systems.rivals(ruleset(CLOSED), 15443, "-A INPUT -p tcp --dport 154430 -j ACCEPT\n-A x --dport 22\n")


def test_who_redirects_before_us_is_in_the_way():
    early = chain("ip", "nat", "OUTPUT", type="nat", hook="output", prio=-200)
    late = chain("ip", "nat", "OUTPUT", type="nat", hook="output", prio=-100)
    assert "redirects before" in systems.rivals(ruleset(early), 15443)[0]
    assert systems.rivals(ruleset(late), 15443) == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"nftables": null}'])
def test_what_nft_does_not_print_is_nothing(text):
    assert not systems.has_table(text)
    assert systems.rivals(text, 1) == ()
