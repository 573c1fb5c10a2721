"""What a peer may know, and what it is told to dial."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model import ServiceRef
from multicluster import exports, imports, wire
from tests.unit.multicluster.pieces import API, EAST, Cluster, endpoint, gateway, items, peering, policy, service


def test_without_a_policy_a_peer_knows_nothing():
    assert items(Cluster([service()], [endpoint("a")])) == {}


@pytest.mark.parametrize(
    ("rule", "known"),
    [
        (policy("api"), True),
        (policy("web"), False),
        (policy("*", to=("west",)), True),
        (policy("*", to=("north",)), False),
        (policy("*", namespace="other"), False),
        (policy("*", selector={"tier": "front"}), True),
        (policy("*", selector={"tier": "back"}), False),
    ],
)
def test_a_policy_names_services_and_peers(rule, known):
    cluster = Cluster([service(labels={"tier": "front"})], policies=[rule])
    assert bool(items(cluster)) is known


def test_a_gateway_weighs_as_many_healthy_instances_as_are_behind_it():
    behind = [endpoint("a"), endpoint("b"), endpoint("c", health="unhealthy"), endpoint("d", health="lost")]
    gateways = [gateway("gw1", locality="r1/z1", address="10.0.9.1"), gateway("gw2", health="draining")]
    found = items(Cluster([service()], [*behind, *gateways], [policy()]))
    assert found["services/shop/api"] == {
        "ports": [{"port": 80, "name": "http", "protocol": "http"}],
        "accounts": ["api"],
    }
    one, two = found["endpoints/shop/api/gw1"], found["endpoints/shop/api/gw2"]
    assert one == {
        "node": "gw1", "address": "10.0.9.1", "port": 15444, "account": "api", "ports": [80],
        "health": "healthy", "weight": 2, "locality": "r1/z1",
    }  # fmt: skip
    assert two["health"] == "draining"
    assert len(found) == 3


@pytest.mark.parametrize(
    ("healths", "told"), [((), "unhealthy"), (("lost", "unhealthy"), "unhealthy"), (("draining",), "draining")]
)
def test_a_gateway_with_nothing_healthy_behind_it_is_no_way(healths, told):
    behind = [endpoint(f"i{n}", health=health) for n, health in enumerate(healths)]
    found = items(Cluster([service()], [*behind, gateway("gw1")], [policy()]))
    # omitted fields have their defaults, and unhealthy is one
    assert found["endpoints/shop/api/gw1"].get("health", "unhealthy") == told
    assert found["endpoints/shop/api/gw1"].get("weight", 1) == 1


def test_a_flat_network_is_told_each_instance():
    found = items(
        Cluster([service()], [endpoint("a"), endpoint("b"), gateway("gw1")], [policy()]), peering(exposes="Instances")
    )
    assert set(found) == {"services/shop/api", "endpoints/shop/api/a", "endpoints/shop/api/b"}
    assert found["endpoints/shop/api/a"].get("port", 15443) == 15443


def test_without_a_gateway_there_is_a_service_and_no_way_to_it():
    assert set(items(Cluster([service()], [endpoint("a")], [policy()]))) == {"services/shop/api"}


def test_what_was_imported_is_never_told_on():
    """Even with the most generous policy, and an endpoint that lies about its place."""
    foreign = endpoint("gw9", "api.north")
    found = items(Cluster([service("web")], [foreign], [policy("*")]))
    assert set(found) == {"services/shop/web"}
    assert (
        exports.of_service(
            Cluster([service("web")], [foreign], [policy("*")]), ServiceRef("shop", "api.north"), peering()
        )
        == {}
    )


def test_what_goes_out_comes_in_and_out_again_the_same():
    """An importer names what it holds as its exporter does, or a resume would send all of it again."""
    cluster = Cluster(
        [service()], [endpoint("a", locality="r/z"), endpoint("b", health="draining"), gateway("gw1")], [policy()]
    )
    for exposes in ("Gateway", "Instances"):
        offered = exports.select(cluster, peering(exposes=exposes))[API]
        plan = imports.plan(imports.Holding(), EAST, offered.items(), ())
        assert plan.rejected == {}
        again = {
            imports.item_key(obj): msgspec.json.encode(imports.offered(obj), order="deterministic")
            for obj in plan.create.values()
        }
        assert again == offered


DIRECT = peering(exposes="Instances")


def told(*endpoints):
    """Of one service on a flat network: names of the endpoints that are offered, and its own item."""
    found = items(Cluster([service()], endpoints, [policy()]), DIRECT)
    own = found.pop("services/shop/api")
    return {key.removeprefix("endpoints/shop/api/") for key in found}, own


def test_no_more_endpoints_are_told_than_are_taken_the_healthy_first():
    ill = [endpoint(f"a{n}", health="unhealthy") for n in range(300)]
    leaving = [endpoint(f"b{n}", health="draining") for n in range(300)]
    well = [endpoint(f"c{n}") for n in range(400)]
    names, own = told(*ill, *leaving, *well)
    assert len(names) == wire.MAX_ENDPOINTS_EACH
    assert {e.metadata.name for e in well} < names
    assert not names & {e.metadata.name for e in leaving}
    assert own["cut"] is True
    names, own = told(*well)
    assert len(names) == 400
    assert "cut" not in own
    assert len(told(*(endpoint(f"c{n}") for n in range(500)))[0]) == 500


@given(st.integers(0, 2**32), st.sampled_from(["healthy", "unhealthy", "draining", "gone", "new"]))
@settings(max_examples=20, deadline=None)
def test_one_change_moves_one_other_at_most(seed, change):
    """Whoever else is told of is told of as before, in whatever order they are listed."""
    rng = random.Random(seed)
    healths = ("healthy", "healthy", "healthy", "unhealthy", "draining")
    known = [endpoint(f"i{n}", health=rng.choice(healths)) for n in range(700)]
    before, _ = told(*known)
    place = rng.randrange(len(known))
    name = "fresh" if change == "new" else known[place].metadata.name
    after = [each for each in known if each.metadata.name != name]
    if change != "gone":
        after.append(endpoint(name, health="healthy" if change == "new" else change))
    rng.shuffle(after)
    names, _ = told(*after)
    assert len((before ^ names) - {name}) <= 1


def test_what_is_told_of_a_large_service_is_all_taken():
    """Also when one takes another's place: the importer has no more room than what is told fills."""
    known = [endpoint(f"i{n}") for n in range(501)]
    cluster = Cluster([service()], known, [policy()])
    offered = exports.select(cluster, DIRECT)[API]
    holding = imports.Holding()
    plan = imports.plan(holding, EAST, offered.items(), ())
    assert plan.rejected == {}
    assert len(plan.create) == 1 + wire.MAX_ENDPOINTS_EACH
    (held,) = (obj for obj in holding.objects.values() if obj.kind == "ImportedService")
    assert held.spec.cut
    assert holding.digests() == {key: wire.digest(value) for key, value in offered.items()}
    out = next(e.metadata.name for e in known if f"endpoints/shop/api/{e.metadata.name}" in offered)
    ill = [endpoint(out, health="unhealthy") if e.metadata.name == out else e for e in known]
    after = exports.select(Cluster([service()], ill, [policy()]), DIRECT)[API]
    gone = tuple(offered.keys() - after.keys())
    assert gone == (f"endpoints/shop/api/{out}",)
    assert (
        imports.plan(holding, EAST, [(key, after[key]) for key in after.keys() - offered.keys()], gone).rejected == {}
    )
