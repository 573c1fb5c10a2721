"""The Checker's memory never changes what it finds."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import pb
from mesh.compile import Checker, Resource, Snapshot, check
from mesh.model import Revision

NAMES = ["a", "b", "c"]


def body(url: str, name: str, other: str, place: int) -> bytes:
    """A resource of this name that refers to `other` wherever its type can."""
    match url:
        case pb.CLUSTER:
            eds = pb.Cluster.EdsClusterConfig(service_name=other)
            made: pb.Message = pb.Cluster(name=name, type=pb.Cluster.EDS, eds_cluster_config=eds)
        case pb.ENDPOINT:
            made = pb.ClusterLoadAssignment(cluster_name=name)
        case pb.LISTENER:
            manager = pb.HttpConnectionManager(rds=pb.Rds(route_config_name=other))
            filters = [pb.Filter(name="http", typed_config=pb.any_of(manager))]
            where = pb.Address(socket_address=pb.SocketAddress(address="127.0.0.1", port_value=place))
            made = pb.Listener(name=name, address=where, filter_chains=[pb.FilterChain(filters=filters)])
        case pb.ROUTE:
            route = pb.Route(route=pb.RouteAction(cluster=other))
            made = pb.RouteConfiguration(name=name, virtual_hosts=[pb.VirtualHost(name="v", routes=[route])])
        case _:
            made = pb.Secret(name=name)
    return pb.encode(made)


def resource(url: str, name: str, inside: str, other: str, place: int, *, garbage: bool) -> Resource:
    raw = b"\xff\xff\xff" if garbage else body(url, inside, other, place)
    return Resource(name=name, version=hashlib.sha256(raw).hexdigest(), body=raw)


one_change = st.tuples(
    st.sampled_from(sorted(pb.SHORT)),
    st.sampled_from(NAMES),
    st.one_of(
        st.none(),  # it goes
        st.tuples(
            st.sampled_from([None, None, None, *NAMES]),  # called so inside; None: by its own name
            st.sampled_from(NAMES),
            st.integers(1, 2),
            st.sampled_from([False, False, False, True]),
        ),
    ),
)
versions = st.lists(st.tuples(st.lists(one_change, max_size=8), st.booleans()), max_size=8)


def next_snapshot(before: Snapshot, changes, *, told: bool) -> Snapshot:
    """The snapshot after these changes; `told`: it says itself what they are."""
    resources = {url: dict(known) for url, known in before.resources.items()}
    changed: dict[str, set[str]] = {}
    for url, name, made in changes:
        changed.setdefault(url, set()).add(name)
        if made is None:
            resources.setdefault(url, {}).pop(name, None)
        else:
            inside, other, place, garbage = made
            resources.setdefault(url, {})[name] = resource(url, name, inside or name, other, place, garbage=garbage)
    kept = {u: before.resources[u] if u in before.resources and u not in changed else r for u, r in resources.items()}
    return Snapshot(
        revision=Revision(before.revision + 1),
        digest=str(before.revision + 1).encode(),
        resources=kept,
        base=before.digest if told else b"",
        changed={url: frozenset(names) for url, names in changed.items()} if told else {},
    )


@given(versions)
def test_step_by_step_finds_the_same_as_at_once(path):
    checker, snapshot = Checker(), Snapshot(revision=Revision(0), digest=b"0", resources={})
    for changes, told in path:
        snapshot = next_snapshot(snapshot, changes, told=told)
        assert checker.check(snapshot) == check(snapshot)


@given(versions, st.data())
def test_a_skipped_snapshot_is_made_up_for(path, data):
    """Between two checks there may be snapshots that nobody had checked."""
    checker, snapshot = Checker(), Snapshot(revision=Revision(0), digest=b"0", resources={})
    for changes, told in path:
        snapshot = next_snapshot(snapshot, changes, told=told)
        if data.draw(st.booleans()):
            assert checker.check(snapshot) == check(snapshot)


def whole() -> dict[str, dict[str, Resource]]:
    """A listener -> a route -> a cluster -> a load assignment."""
    chain = [(pb.LISTENER, "l", "r"), (pb.ROUTE, "r", "c"), (pb.CLUSTER, "c", "e"), (pb.ENDPOINT, "e", "")]
    return {url: {name: resource(url, name, name, other, 1, garbage=False)} for url, name, other in chain}


def found(**changed: dict[str, Resource]) -> tuple[str, ...]:
    urls = {short: url for url, short in pb.SHORT.items()}
    resources = {**whole(), **{urls[short]: those for short, those in changed.items()}}
    return check(Snapshot(revision=Revision(1), digest=b"1", resources=resources))


def test_a_whole_one_has_no_faults():
    assert found() == ()


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"eds": {}}, "eds e is referred to, and is not there"),
        ({"rds": {}}, "rds r is referred to, and is not there"),
        ({"cds": {}}, "eds e is there, and nothing refers to it"),
        ({"lds": {}}, "rds r is there, and nothing refers to it"),
        ({"eds": {"e": resource(pb.ENDPOINT, "e", "f", "", 1, garbage=False)}}, "eds e: is called f inside"),
        (
            {"lds": {n: resource(pb.LISTENER, n, n, "r", 1, garbage=False) for n in "lm"}},
            "lds m listens where l does",
        ),
    ],
)
def test_each_fault_is_found(changed, fault):
    assert fault in found(**changed)


def test_what_cannot_be_read_is_a_fault():
    assert any(f.startswith("eds e: ") for f in found(eds={"e": resource(pb.ENDPOINT, "e", "e", "", 1, garbage=True)}))


def test_an_unknown_type_is_a_fault():
    snapshot = Snapshot(revision=Revision(1), digest=b"1", resources={"type.googleapis.com/none": {}})
    assert check(snapshot) == ("unknown type type.googleapis.com/none",)


def test_what_is_told_is_what_is_read():
    """A change costs what it names: other resources are not looked at."""
    checker = Checker()
    first = Snapshot(revision=Revision(1), digest=b"1", resources=whole())
    assert checker.check(first) == ()

    class Unread(dict[str, Resource]):
        def __iter__(self):
            raise AssertionError("all of them are looked at")

        def items(self):
            raise AssertionError("all of them are looked at")

    changed = resource(pb.ENDPOINT, "e", "e", "", 1, garbage=False)
    second = Snapshot(
        revision=Revision(2),
        digest=b"2",
        resources={**first.resources, pb.ENDPOINT: Unread(e=changed)},
        base=b"1",
        changed={pb.ENDPOINT: frozenset({"e"})},
    )
    assert checker.check(second) == ()
