"""What of a peer's offer is taken. The peer is hostile until shown otherwise."""

import msgspec
import pytest

from mesh import keys
from mesh.codec import changes
from mesh.model import ServiceRef
from mesh.model.reach import Reach
from mesh.model.world import Upserted
from multicluster import imports, wire
from tests.unit.multicluster.pieces import EAST

SERVICE = {"ports": [{"port": 80, "name": "http", "protocol": "http"}], "accounts": ["api"]}
ENDPOINT = {
    "node": "gw1",
    "address": "10.0.0.1",
    "port": 15444,
    "account": "api",
    "ports": [80],
    "health": "healthy",
    "weight": 3,
}


def put(**items):
    return [(key, msgspec.json.encode(value)) for key, value in items.items()]


def offer(*pairs):
    return [(key, msgspec.json.encode(value)) for key, value in pairs]


BOTH = offer(("services/shop/api", SERVICE), ("endpoints/shop/api/gw1", ENDPOINT))


def test_an_offer_becomes_objects_under_the_peers_own_place():
    plan = imports.plan(imports.Holding(), EAST, reversed(BOTH), ())
    assert plan.rejected == {}
    assert set(plan.create) == {
        "/holdfast/v1/mesh/imports/east/services/shop/api",
        "/holdfast/v1/mesh/imports/east/endpoints/shop/api/gw1",
    }
    held = plan.create["/holdfast/v1/mesh/imports/east/services/shop/api"]
    assert (held.metadata.name, held.spec.trust_domain, held.spec.service_accounts) == (
        "api.east",
        "east.test",
        ("api",),
    )
    for key, obj in plan.create.items():
        # As agents read it back.
        from mesh import codec
        from mesh.store.protocol import Event

        assert [Upserted] == [type(change) for change in changes([Event(key, codec.encode(obj), 3)])]


def test_the_same_again_changes_nothing():
    holding = imports.Holding()
    imports.plan(holding, EAST, BOTH, ())
    again = imports.plan(holding, EAST, BOTH, ())
    assert (again.create, again.update, again.delete, again.rejected) == ({}, {}, (), {})


def test_changes_and_deletions_are_told_apart():
    holding = imports.Holding()
    imports.plan(holding, EAST, BOTH, ())
    plan = imports.plan(holding, EAST, offer(("endpoints/shop/api/gw1", {**ENDPOINT, "weight": 1})), ())
    assert [len(part) for part in (plan.create, plan.update, plan.delete)] == [0, 1, 0]
    plan = imports.plan(holding, EAST, (), ["endpoints/shop/api/gw1"])
    assert plan.delete == ("/holdfast/v1/mesh/imports/east/endpoints/shop/api/gw1",)
    assert list(holding.objects) == ["/holdfast/v1/mesh/imports/east/services/shop/api"]


def test_with_a_service_its_endpoints_go():
    holding = imports.Holding()
    imports.plan(holding, EAST, BOTH, ())
    assert len(imports.plan(holding, EAST, (), ["services/shop/api"]).delete) == 2
    assert holding == imports.Holding()


BAD = [
    ("services/shop/api.west", SERVICE, "a-z"),
    ("services/shop/../../objects", SERVICE, "neither"),
    ("services/../api", SERVICE, "a-z"),
    ("services/shop/" + "x" * 64, SERVICE, "63"),
    ("services/shop/" + "x" * 5000, SERVICE, "too long"),
    ("objects/Service/shop/api", SERVICE, "neither"),
    ("endpoints/shop/api/", ENDPOINT, "neither"),
    ("services/shop/new", {}, "port"),
    ("services/shop/new", {"ports": [{"port": 0}]}, "port"),
    ("services/shop/new", {"ports": [{"port": "80"}]}, "read"),
    ("services/shop/new", {"ports": [{"port": n} for n in range(1, 40)]}, "32"),
    ("services/shop/new", {**SERVICE, "accounts": ["a/b"]}, "serviceAccounts"),
    ("services/shop/new", {**SERVICE, "accounts": [f"a{n}" for n in range(100)]}, "64"),
    ("services/shop/new", {**SERVICE, "filler": "x" * 20_000}, "bytes"),
    ("services/shop/new", [], "read"),
    ("endpoints/shop/api/new", {**ENDPOINT, "address": "controlplane.holdfast"}, "address"),
    ("endpoints/shop/api/new", {**ENDPOINT, "port": 99999}, "port"),
    ("endpoints/shop/api/new", {**ENDPOINT, "weight": 0}, "weight"),
    ("endpoints/shop/api/new", {**ENDPOINT, "weight": 10**9}, "weight"),
    ("endpoints/shop/api/new", {**ENDPOINT, "weight": 2**70}, "weight"),
    ("endpoints/shop/api/new", {**ENDPOINT, "health": "lost"}, "read"),
    ("endpoints/shop/api/new", {**ENDPOINT, "locality": "a/b/c/d"}, "locality"),
    ("endpoints/shop/other/new", ENDPOINT, "not imported"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "reason"), BAD)
def test_a_bad_item_is_refused_by_itself(key, value, reason):
    plan = imports.plan(imports.Holding(), EAST, [*offer((key, value)), *BOTH], ())
    assert len(plan.create) == 2
    assert set(plan.rejected) == {key}
    assert reason in plan.rejected[key]
    assert len(plan.rejected[key]) < 500


def test_an_item_that_became_bad_is_not_kept_as_it_was():
    holding = imports.Holding()
    imports.plan(holding, EAST, BOTH, ())
    plan = imports.plan(holding, EAST, offer(("services/shop/api", {})), ())
    assert len(plan.delete) == 2
    assert holding.objects == {}


def test_no_more_services_than_the_peering_allows():
    few = EAST._replace(max_services=3)
    plan = imports.plan(imports.Holding(), few, offer(*((f"services/shop/s{n}", SERVICE) for n in range(5))), ())
    assert len(plan.create) == 3
    assert all("maxServices" in reason for reason in plan.rejected.values())


def test_no_more_endpoints_than_a_service_may_have():
    many = offer(*((f"endpoints/shop/api/e{n}", ENDPOINT) for n in range(wire.MAX_ENDPOINTS_EACH + 2)))
    plan = imports.plan(imports.Holding(), EAST, [*BOTH[:1], *many], ())
    assert len(plan.create) == wire.MAX_ENDPOINTS_EACH + 1
    assert len(plan.rejected) == 2


def test_garbage_is_refused_whatever_it_is():
    for raw in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"ports":' + b"9" * 10_000 + b"}", b"null"):
        assert isinstance(imports.read(EAST, "services/shop/api", raw), str)


def test_fields_of_a_newer_version_are_ignored():
    found = imports.read(EAST, "services/shop/api", msgspec.json.encode({**SERVICE, "tomorrow": {"a": 1}}))
    assert not isinstance(found, str)


def test_what_is_held_is_named_as_the_exporter_names_it():
    holding = imports.Holding()
    imports.plan(holding, EAST, BOTH, ())
    assert set(holding.digests()) == {"services/shop/api", "endpoints/shop/api/gw1"}
    assert holding.services == {ServiceRef("shop", "api.east")}
    assert keys.imports_of("east") == "/holdfast/v1/mesh/imports/east/"
    assert wire.service_key(ServiceRef("shop", "api.east")) == "services/shop/api"


def test_endpoints_of_all_services_together_are_bounded(monkeypatch):
    monkeypatch.setattr(imports, "MAX_ENDPOINTS", 2)
    holding = imports.Holding()
    services = offer(("services/shop/api", SERVICE), ("services/shop/db", SERVICE))
    first = offer(("endpoints/shop/api/a", ENDPOINT), ("endpoints/shop/db/b", ENDPOINT))
    assert imports.plan(holding, EAST, services + first, ()).rejected == {}
    more = offer(("endpoints/shop/db/c", ENDPOINT), ("endpoints/shop/db/b", ENDPOINT | {"weight": 4}))
    assert "2 endpoints of this peer" in imports.plan(holding, EAST, more, ()).rejected["endpoints/shop/db/c"]
    assert imports.plan(holding, EAST, more[:1], ("services/shop/api",)).rejected == {}


@pytest.mark.parametrize("address", ["fe80::1%eth0", "fe80::1%no such\nthing"])
def test_an_address_with_a_zone_is_refused(address):
    """Envoy would refuse the whole assignment, with this cluster's own endpoints in it."""
    pairs = offer(("services/shop/api", SERVICE), ("endpoints/shop/api/a", ENDPOINT | {"address": address}))
    assert "zone" in imports.plan(imports.Holding(), EAST, pairs, ()).rejected["endpoints/shop/api/a"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("169.254.169.254", "link-local"),
        ("127.0.0.1", "loopback"),
        ("10.0.0.9", "own"),
        ("203.0.113.1", "spec.networks"),
    ],
)
def test_an_address_to_which_no_peer_may_lead_is_refused_alone(address, reason):
    holding = imports.Holding()
    east = EAST._replace(reach=Reach(frozenset({"10.0.0.9"}), ("198.51.100.0/24", "10.0.0.0/8")))
    good = {**ENDPOINT, "address": "198.51.100.1"}
    items = (
        ("services/shop/api", SERVICE),
        ("endpoints/shop/api/gw1", good),
        ("endpoints/shop/api/gw2", {**good, "address": address}),
    )
    plan = imports.plan(holding, east, offer(*items), ())
    assert list(plan.rejected) == ["endpoints/shop/api/gw2"]
    assert plan.rejected["endpoints/shop/api/gw2"].startswith("address: ")
    assert reason in plan.rejected["endpoints/shop/api/gw2"]
    assert sorted(key.rpartition("/")[2] for key in plan.create) == ["api", "gw1"]
    # What was taken when another rule held is offered anew, for it is told as nothing that is held.
    elsewhere = Reach(frozenset(), ("192.0.2.0/24",))
    assert (set(holding.digests(east.reach)), set(holding.digests(elsewhere))) == (
        {"services/shop/api", "endpoints/shop/api/gw1"},
        {"services/shop/api"},
    )
    # Nor is an old value kept of what leads astray now.
    moved = imports.plan(holding, east, offer(("endpoints/shop/api/gw1", {**good, "address": address})), ())
    assert [key.rpartition("/")[2] for key in moved.delete] == ["gw1"]
