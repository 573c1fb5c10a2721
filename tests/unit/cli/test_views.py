"""Tables and descriptions of objects."""

import pytest

from controlplane.cli.hosts import with_status
from controlplane.cli.views import COLUMNS, age, describe, rows, span
from mesh.model import KINDS

SERVICE = {
    "apiVersion": "holdfast.dev/v1",
    "kind": "Service",
    "metadata": {
        "name": "api",
        "namespace": "shop",
        "labels": {"b": "2", "a": "1"},
        "creationTimestamp": "2026-11-21T07:00:00Z",
        "resourceVersion": "8",
    },
    "spec": {"ports": [{"port": 80, "protocol": "http", "targetPort": "http"}], "serviceAccounts": ["api"]},
}
SEVEN = 1795244400.0  # 2026-11-21T07:00:00Z


def test_every_kind_has_columns():
    assert COLUMNS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("wide", [False, True])
def test_an_object_with_nothing_in_it_can_be_shown(kind, wide):
    titles, cells = rows(kind, [{"kind": kind, "metadata": {"name": "x"}}], wide=wide, now=0)
    assert len(titles) == len(cells[0])
    assert all(isinstance(cell, str) for cell in cells[0])


def test_a_service():
    titles, cells = rows("Service", [SERVICE], wide=False, now=SEVEN + 61)
    assert dict(zip(titles, cells[0], strict=True)) == {
        "NAMESPACE": "shop",
        "NAME": "api",
        "PORTS": "80->http/http",
        "ACCOUNTS": "api",
        "AGE": "1m1s",
    }
    titles, cells = rows("Service", [SERVICE], wide=True, now=SEVEN)
    assert dict(zip(titles, cells[0], strict=True))["LABELS"] == "a=1,b=2"


NODE = {
    "kind": "Node",
    "metadata": {"name": "vm-1", "creationTimestamp": "2026-11-21T07:00:00Z"},
    "spec": {"address": "fd00::1", "identities": ["shop/web"], "roles": ["agent"]},
}
REPORT = {
    "node": "vm-1", "phase": "serving", "version": "0.1.0", "envoy": "live", "envoyVersion": "1.40.0",
    "locality": "eu/a", "maintenance": 0.0,
    "svids": [{"notAfter": SEVEN + 90_000}, {"notAfter": SEVEN + 7260}],
}  # fmt: skip
PROXY = {"node": "vm-1", "replica": "cp-1", "connected": True, "silentSeconds": 1.2, "lost": False, "report": REPORT}


def node_row(proxy=PROXY, *, wide=False, **spec):
    (shown,) = with_status([NODE | {"spec": NODE["spec"] | spec}], [proxy] if proxy else [], SEVEN)
    titles, cells = rows("Node", [shown], wide=wide, now=SEVEN + 60)
    return dict(zip(titles, cells[0], strict=True))


def test_a_node_is_shown_with_what_its_agent_reports():
    assert node_row() == {
        "NAME": "vm-1", "STATE": "serving", "ADDRESS": "fd00::1", "LOCALITY": "eu/a", "AGENT": "0.1.0",
        "ENVOY": "1.40.0", "HEARD": "1s", "RUNWAY": "2h1m", "IDENTITIES": "shop/web", "AGE": "1m0s",
    }  # fmt: skip
    assert node_row(wide=True)["REPLICA"] == "cp-1"
    assert node_row(locality="eu/b")["LOCALITY"] == "eu/b", "the operator's word comes first"


@pytest.mark.parametrize(
    ("proxy", "spec", "state"),
    [
        (PROXY | {"report": REPORT | {"maintenance": 5.0}}, {}, "maintenance"),
        (PROXY | {"report": REPORT | {"phase": "stale"}}, {}, "stale"),
        (PROXY | {"report": None}, {}, "joining"),
        ({"node": "vm-1", "connected": False, "report": None, "lost": False}, {}, "away"),
        ({"node": "vm-1", "connected": False, "report": None, "lost": True}, {}, "lost"),
        (PROXY, {"evicted": True}, "evicted"),
        (None, {}, "-"),
    ],
)
def test_the_state_of_a_node(proxy, spec, state):
    found = node_row(proxy, **spec)
    assert found["STATE"] == state
    if state in {"away", "lost", "-"}:
        assert (found["HEARD"], found["RUNWAY"]) == ("-", "-")


def test_a_certificate_that_is_over_says_so():
    assert node_row(PROXY | {"report": REPORT | {"svids": [{"notAfter": SEVEN - 9}]}})["RUNWAY"] == "over"


def test_an_endpoint_of_ipv6_can_be_told_from_its_port():
    document = {"metadata": {"name": "e"}, "spec": {"service": "api", "address": "fd00::1", "port": 15443}}
    titles, cells = rows("Endpoint", [document], wide=False, now=0)
    assert dict(zip(titles, cells[0], strict=True))["ADDRESS"] == "[fd00::1]:15443"


def test_a_policy_says_who_may_call():
    policy = {
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "target": {"service": "api"},
            "rules": [{"from": [{"principals": ["shop/web"]}, {"namespaces": ["ops"]}], "ports": [80]}, {}],
        },
    }
    titles, cells = rows("AuthorizationPolicy", [policy], wide=False, now=0)
    found = dict(zip(titles, cells[0], strict=True))
    assert (found["ACTION"], found["SERVICE"], found["FROM"]) == ("Allow", "api", "shop/web,ops/*:80; anybody")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m"), (7260, "2h1m"), (86400 * 3 + 5, "3d")],
)
def test_span(seconds, text):
    assert span(seconds) == text


def test_age_of_nothing_and_of_nonsense():
    assert (age("", 0), age("yesterday", 0)) == ("-", "?")


def test_describe_shows_everything_and_no_whole_certificate():
    bundle = {
        "apiVersion": "holdfast.dev/v1",
        "kind": "TrustBundle",
        "metadata": {"name": "d"},
        "spec": {"trustDomain": "d", "roots": ["-----BEGIN CERTIFICATE-----\nabc\n"], "empty": [], "none": None},
    }
    text = "\n".join(describe(bundle))
    assert "trustDomain: d" in text
    assert "abc" not in text
    assert "(32 characters)" in text
    assert "    - port: 80" in "\n".join(describe(SERVICE))
