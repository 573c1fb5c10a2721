"""What an agent may ask for: what is written is read, and every fault is told with its path."""

import json

import pytest

from agent.hostd.wanted import Caller, Inbound, Name, Outbound, RefusedError, Wanted, encode, parse

FULL = Wanted(
    names=(Name("api.shop.mesh", "127.64.3.7"), Name("api.shop.west.mesh", "127.64.3.7")),
    callers=(Caller("shop/web", 15101, users=("web",), units=("web.service", "web@1.service")),),
    outbound=Outbound(ranges=("10.0.0.0/8", "2001:db8::/32"), exempt=("10.0.0.1/32", "fd00::/8"), on_failure="closed"),
    inbound=Inbound(ports=(8080,)),
    lifelines=("192.0.2.1", "2001:db8::1"),
)


@pytest.mark.parametrize("wanted", [Wanted(), FULL])
def test_what_is_written_is_read(wanted: Wanted):
    assert parse(json.loads(json.dumps(encode(wanted)))) == wanted


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ([], ""),
        ({"more": 1}, "more"),
        ({"names": {}}, "names"),
        ({"names": [{"name": "bank.com", "address": "127.64.0.1"}]}, "names[0].name"),
        ({"names": [{"name": "a.b.mesh\n6.6.6.6 bank.com", "address": "127.64.0.1"}]}, "names[0].name"),
        ({"names": [{"name": "api.shop.mesh", "address": "10.0.0.1"}]}, "names[0].address"),
        ({"names": [{"name": "api.shop.mesh", "address": "127.0.0.1"}]}, "names[0].address"),
        ({"names": [{"name": "a.b.mesh", "address": f"127.64.0.{n}"} for n in (1, 2)]}, "names[1]"),
        ({"callers": [{"identity": "web", "port": 1}]}, "callers[0].identity"),
        ({"callers": [{"identity": "a/b", "port": 0}]}, "callers[0].port"),
        ({"callers": [{"identity": "a/b", "port": True}]}, "callers[0].port"),
        ({"callers": [{"identity": "a/b", "port": 1, "users": ["root"]}]}, "callers[0].users"),
        ({"callers": [{"identity": "a/b", "port": 1, "users": ['w" accept']}]}, "callers[0].users[0]"),
        ({"callers": [{"identity": "a/b", "port": 1, "units": ["../x.service"]}]}, "callers[0].units[0]"),
        ({"callers": [{"identity": "a/b", "port": 1, "units": ["holdfast-envoy.service"]}]}, "callers[0].units"),
        ({"callers": [{"identity": "a/b", "port": 1, "units": ["system.slice"]}]}, "callers[0].units"),
        (
            {"callers": [{"identity": f"a/{n}", "port": n, "users": ["web"]} for n in (1, 2)]},
            "callers[1].users",
        ),
        ({"callers": [{"identity": f"a/{n}", "port": 7} for n in (1, 2)]}, "callers[1].port"),
        ({"outbound": {"ranges": []}}, "outbound.ranges"),
        ({"outbound": {"ranges": ["fd00::1/8"]}}, "outbound.ranges[0]"),
        ({"outbound": {"ranges": ["2001:db8::%} accept; flush ruleset;/64"]}}, "outbound.ranges[0]"),
        ({"outbound": {"ranges": [7]}}, "outbound.ranges[0]"),
        ({"outbound": {"ranges": ["10.0.0.0/8"], "on_failure": "maybe"}}, "outbound.on_failure"),
        ({"outbound": {"ranges": ["10.0.0.0/8"], "exempt": ["10.0.0.1:80"]}}, "outbound.exempt[0]"),
        ({"lifelines": ["10.0.0.0/8"]}, "lifelines[0]"),
        ({"lifelines": ["fe80::1%} accept; flush ruleset;"]}, "lifelines[0]"),
        ({"lifelines": ["cp.example.com", 7]}, "lifelines[1]"),
        ({"lifelines": [f"10.0.0.{n}" for n in range(65)]}, "lifelines"),
        ({"inbound": {"ports": [22]}}, "inbound.ports"),
        ({"inbound": {"ports": ["8080"]}}, "inbound.ports[0]"),
    ],
)
def test_faults_have_a_path(raw: object, path: str):
    with pytest.raises(RefusedError) as caught:
        parse(raw)
    assert path in {fault.path for fault in caught.value.faults}


def test_all_faults_are_told_at_once():
    with pytest.raises(RefusedError) as caught:
        parse({"names": [{"name": "x", "address": "y"}], "inbound": {"ports": [0, 53]}})
    assert len(caught.value.faults) == 4
