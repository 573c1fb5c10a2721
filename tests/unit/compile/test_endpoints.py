import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import pb
from mesh.compile.endpoints import Fragments, encoded, straightforward, usable
from mesh.compile.rules import Target
from mesh.compile.spread import Spread
from mesh.compile.view import Assignment, Part
from mesh.model import Endpoint, EndpointSpec, Metadata, ServiceRef

names = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
addresses = st.sampled_from(["10.0.0.1", "10.1.2.3", "::1", "not an address", ""])


@st.composite
def endpoint(draw) -> Endpoint:
    spec = EndpointSpec(
        service="api",
        node="n",
        service_account="api",
        address=draw(addresses),
        port=draw(st.sampled_from([1, 15443, 65535, 0, 70000])),
        ports=draw(st.sampled_from([(80,), (80, 81), (), (81,)])),
        health=draw(st.sampled_from(["healthy", "unhealthy", "draining", "lost", "newer-than-us"])),
        weight=draw(st.sampled_from([1, 7, 0, -5, 10**9])),
        locality=draw(places),
    )
    labels = draw(st.sampled_from([{}, {"colour": "blue"}, {"colour": "blue", "size": "big"}, {"colour": "green"}]))
    return Endpoint(metadata=Metadata(name="x", namespace="shop", labels=labels), spec=spec)


PLACES = ["eu", "eu/a", "eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "us"]
places = st.sampled_from(["", "eu/a/1/too/long", *PLACES])
spreads = st.builds(
    Spread,
    here=places,
    prefer=st.booleans(),
    strict=st.booleans(),
    failover=st.lists(st.sampled_from(PLACES), max_size=3, unique=True).map(tuple),
    weights=st.dictionaries(st.sampled_from(PLACES), st.integers(0, 3), max_size=3).map(lambda d: tuple(d.items())),
)


worlds = st.dictionaries(names, endpoint(), max_size=6)


API, DB = ServiceRef("shop", "api"), ServiceRef("shop", "db")


def plain(name: str, port: int) -> Assignment:
    return Assignment(name, (Part(Target(API, port)),))


@given(st.lists(worlds, min_size=1, max_size=5), st.text(min_size=1, max_size=200))
def test_spliced_bytes_are_those_of_protobuf(states, name):
    fragments = Fragments()
    for state in states:
        fragments.update(state)
        for port in (80, 81):
            spliced = encoded(plain(name, port), {API: fragments})
            assert spliced == pb.encode(straightforward(plain(name, port), {API: state}))


@given(st.lists(st.tuples(worlds, worlds), min_size=1, max_size=4))
def test_endpoints_of_several_services_have_weights_and_tls_contexts(states):
    fragments = {API: Fragments(), DB: Fragments()}
    shared = Assignment("x", (Part(Target(API, 80), 9), Part(Target(DB, 81), 1)))
    for api, db in states:
        fragments[API].update(api)
        fragments[DB].update(db)
        spliced = pb.ClusterLoadAssignment.FromString(encoded(shared, fragments))
        assert spliced == straightforward(shared, {API: api, DB: db})
        for group in spliced.endpoints:
            socket = group.locality.sub_zone
            assert group.load_balancing_weight.value == {"80|api.shop": 9, "81|db.shop": 1}[socket]
            said = [e.metadata.filter_metadata["envoy.transport_socket_match"]["socket"] for e in group.lb_endpoints]
            assert said == [socket] * len(said)


BLUE = (("colour", "blue"),)


@given(st.lists(worlds, min_size=1, max_size=4), spreads, st.sampled_from([(), BLUE]), st.sampled_from([0, 3]))
def test_endpoints_are_grouped_by_place(states, spread, labels, weight):
    fragments = Fragments()
    assignment = Assignment("x", (Part(Target(API, 80), weight, labels=labels, spread=spread),))
    for state in states:
        fragments.update(state)
        spliced = pb.ClusterLoadAssignment.FromString(encoded(assignment, {API: fragments}))
        assert spliced == straightforward(assignment, {API: state})
        wanted = [
            e
            for e in state.values()
            if usable(e) and 80 in e.spec.ports and set(labels) <= set(e.metadata.labels.items())
            and spread.allows(e.spec.locality)
        ]  # fmt: skip
        groups = spliced.endpoints
        assert all(group.lb_endpoints for group in groups)
        if weight:
            assert len(groups) == min(len(wanted), 1)
            continue
        assert sum(len(group.lb_endpoints) for group in groups) == len(wanted)
        assert sorted({group.priority for group in groups}) == list(range(len({tier(spread, e) for e in wanted})))
        assert all(group.HasField("load_balancing_weight") == bool(spread.weights) for group in groups)
        keys = [(g.priority, g.locality.region, g.locality.zone, g.locality.sub_zone) for g in groups]
        assert len(keys) == len(set(keys))


def tier(spread: Spread, endpoint: Endpoint) -> tuple[int, int]:
    return spread.tier(endpoint.spec.locality)


def test_a_share_of_connections_goes_to_the_nearest_that_are_healthy():
    def there(**healths: str) -> list[str]:
        spots = {"a": "eu/a/1", "b": "eu/b/1", "c": "us/a/1"}
        state = {name: placed(name, spots[name], health) for name, health in healths.items()}
        part = Part(Target(API, 80), 5, spread=Spread("eu/a/1"))
        found = straightforward(Assignment("x", (part,)), {API: state})
        return [chr(e.endpoint.address.socket_address.port_value) for g in found.endpoints for e in g.lb_endpoints]

    assert there(a="healthy", b="healthy", c="healthy") == ["a"]
    assert there(a="lost", b="unhealthy", c="healthy") == ["c"]
    assert there(a="unhealthy", b="lost") == ["a", "b"]


def placed(name: str, locality: str, health: str) -> Endpoint:
    spec = EndpointSpec(
        service="a", node="n", address="10.0.0.1", port=ord(name), service_account="a", ports=(80,), health=health,
        locality=locality,
    )  # fmt: skip
    return Endpoint(metadata=Metadata(name=name), spec=spec)


def test_many_endpoints_need_longer_lengths():
    state = {
        f"e{n}": Endpoint(
            metadata=Metadata(name=f"e{n}"),
            spec=EndpointSpec(service="a", node="n", address="10.0.0.1", port=n + 1, service_account="a", ports=(80,)),
        )
        for n in range(1000)
    }
    fragments = Fragments()
    fragments.update(state)
    assert encoded(plain("80|a", 80), {API: fragments}) == pb.encode(straightforward(plain("80|a", 80), {API: state}))


def statuses(**healths: str) -> list[int]:
    state = {
        name: Endpoint(
            metadata=Metadata(name=name),
            spec=EndpointSpec(
                service="a", node="n", address="10.0.0.1", service_account="a", ports=(80,), health=health
            ),
        )
        for name, health in healths.items()
    }
    assignment = straightforward(plain("x", 80), {API: state})
    return [e.health_status for group in assignment.endpoints for e in group.lb_endpoints]


@pytest.mark.parametrize(
    ("healths", "expected"),
    [
        ({"a": "healthy", "b": "lost"}, [pb.HealthStatus.HEALTHY, pb.HealthStatus.TIMEOUT]),
        ({"a": "unhealthy", "b": "lost"}, [pb.HealthStatus.UNHEALTHY, pb.HealthStatus.HEALTHY]),
        ({"a": "draining", "b": "unhealthy"}, [pb.HealthStatus.DRAINING, pb.HealthStatus.UNHEALTHY]),
    ],
)
def test_the_lost_are_a_last_resort_and_the_unhealthy_never(healths, expected):
    assert statuses(**healths) == expected
