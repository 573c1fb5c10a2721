"""Endpoints of a Service that is in several clusters: who comes first, and who is called by which name."""

from hypothesis import given
from hypothesis import strategies as st

from mesh import pb
from mesh.compile.endpoints import Fragments, encoded, straightforward
from mesh.compile.rules import Target
from mesh.compile.spread import Spread
from mesh.compile.view import Assignment, Part
from mesh.model import GATEWAY, Endpoint, EndpointSpec, Metadata, ServiceRef
from tests.unit.compile.test_endpoints import spreads, worlds

API = ServiceRef("shop", "api")
WEST, NORTH = ServiceRef("shop", "api.west"), ServiceRef("shop", "api.north")


def beyond(service: ServiceRef, via: ServiceRef | None = None) -> Part:
    return Part(Target(service, 80), far=True, via=via)


@given(
    st.lists(st.tuples(worlds, worlds, worlds, worlds), min_size=1, max_size=4),
    st.none() | spreads,
    st.sampled_from([0, 3]),
)
def test_spliced_bytes_are_those_of_protobuf(states, spread, weight):
    part = Part(Target(API, 80), weight, spread=spread, beyond=(beyond(WEST), beyond(NORTH, GATEWAY)))
    assignment = Assignment("x", (part,))
    assert assignment.services == {API, WEST, NORTH, GATEWAY}
    fragments = {service: Fragments() for service in assignment.services}
    for state in states:
        known = dict(zip((API, WEST, NORTH, GATEWAY), state, strict=True))
        for service, endpoints in known.items():
            fragments[service].update(endpoints)
        spliced = pb.ClusterLoadAssignment.FromString(encoded(assignment, fragments))
        assert spliced == straightforward(assignment, known)
        if not weight:
            # Envoy would take one of two at the same place, and nobody says which.
            places = [e.endpoint.address.socket_address for g in spliced.endpoints for e in g.lb_endpoints if socket(e)]
            assert len({(p.address, p.port_value) for p in places}) == len(places)
            priorities = {g.priority for g in spliced.endpoints}
            assert sorted(priorities) == list(range(len(priorities)))


def socket(found: pb.LbEndpoint) -> str:
    said = found.metadata.filter_metadata
    return said["envoy.transport_socket_match"]["socket"] if "envoy.transport_socket_match" in said else ""


def at(
    address: str, health: str = "healthy", *, locality: str = "", weight: int = 1, ports=(80,)
) -> dict[str, Endpoint]:
    spec = EndpointSpec(
        service="x", node="n", address=address, service_account="x", ports=ports, health=health, locality=locality,
        weight=weight,
    )  # fmt: skip
    return {f"x-{address}": Endpoint(metadata=Metadata(name=f"x-{address}", namespace="shop"), spec=spec)}


def tiers(part: Part, **known: dict[str, Endpoint]) -> list[list[str]]:
    """Healthy addresses, by priority."""
    services = {"api": API, "west": WEST, "north": NORTH, "gateway": GATEWAY}
    found = straightforward(Assignment("x", (part,)), {services[name]: those for name, those in known.items()})
    out: list[list[str]] = [[] for _ in range(1 + max((g.priority for g in found.endpoints), default=-1))]
    for group in found.endpoints:
        out[group.priority] += [
            e.endpoint.address.socket_address.address
            for e in group.lb_endpoints
            if e.health_status == pb.HealthStatus.HEALTHY
        ]
    return out


def test_this_cluster_comes_first_and_a_policys_order_after_it():
    here = at("10.0.0.1", locality="us/a") | at("10.0.0.2", locality="eu/a")
    west, north = at("10.1.0.1", locality="eu/a"), at("10.2.0.1", locality="asia/a")
    both = (beyond(WEST), beyond(NORTH))
    plain = Part(Target(API, 80), beyond=both)
    assert tiers(plain, api=here, west=west, north=north) == [["10.0.0.1", "10.0.0.2"], ["10.1.0.1", "10.2.0.1"]]
    near = Part(Target(API, 80), beyond=both, spread=Spread("eu/a", failover=("asia",)))
    assert tiers(near, api=here, west=west, north=north) == [["10.0.0.2"], ["10.0.0.1"], ["10.1.0.1"], ["10.2.0.1"]]
    weighed = Part(Target(API, 80), beyond=both, spread=Spread("eu/a", prefer=False, weights=(("eu", 8), ("asia", 2))))
    assert sorted(tiers(weighed, api=here, west=west, north=north)[0]) == [
        "10.0.0.1",
        "10.0.0.2",
        "10.1.0.1",
        "10.2.0.1",
    ]
    strict = Part(Target(API, 80), beyond=both, spread=Spread("eu/a", strict=True))
    assert tiers(strict, api=here, west=west, north=north) == [["10.0.0.2"], ["10.1.0.1"]]


def test_who_is_lost_here_is_called_only_if_nobody_is_well_anywhere():
    part = Part(Target(API, 80), beyond=(beyond(WEST),))
    lost = at("10.0.0.1", "lost")
    assert tiers(part, api=lost, west=at("10.1.0.1")) == [[], ["10.1.0.1"]]
    assert tiers(part, api=lost, west=at("10.1.0.1", "draining")) == [["10.0.0.1"], []]
    assert tiers(part, west=at("10.1.0.1")) == [["10.1.0.1"]]


def test_gateways_of_this_cluster_are_called_for_those_who_are_there():
    part = Part(Target(API, 80), beyond=(beyond(WEST, GATEWAY), beyond(NORTH, GATEWAY)))
    gateways = at("10.0.9.1", ports=(15444,)) | at("10.0.9.2", "draining", ports=(15444,))
    nobody = at("10.1.0.1", "unhealthy")
    assert tiers(part, api=at("10.0.0.1"), west=nobody, north=nobody, gateway=gateways) == [["10.0.0.1"]]
    there = at("10.1.0.1", weight=7)
    known = {API: at("10.0.0.1"), WEST: nobody, NORTH: there, GATEWAY: gateways}
    found = straightforward(Assignment("x", (part,)), known).endpoints[1].lb_endpoints
    assert {socket(e) for e in found} == {"80|api.shop.north"}
    assert [e.load_balancing_weight.value for e in found] == [7, 7]
    assert all(e.endpoint.health_check_config.disable_active_health_check for e in found)
    alone = Part(Target(WEST, 80), via=GATEWAY)
    assert tiers(alone, west=there, gateway=gateways) == [["10.0.9.1"]]
