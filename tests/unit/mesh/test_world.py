"""World.apply: equal to a naive model, and whatever did not change is shared."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model import Endpoint, EndpointSpec, Metadata, Object, Ref, Revision, Service, ServiceRef, World
from mesh.model.world import Change, EndpointRemoved, EpochChanged, Removed, Undecodable, Upserted

API, WEB = ServiceRef("shop", "api"), ServiceRef("shop", "web")
NAMES = st.sampled_from(["a", "b", "c"])
SERVICES = st.sampled_from([API, WEB])


def endpoint(service: ServiceRef, name: str, weight: int = 1) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=name, namespace=service.namespace),
        spec=EndpointSpec(service=service.name, node="n", address="127.0.0.1", service_account="x", weight=weight),
    )


def service(name: str, label: str = "") -> Service:
    return Service(metadata=Metadata(name=name, namespace="shop", labels={"v": label}))


changes = st.one_of(
    st.builds(lambda n, v: Upserted(service(n, v), Revision(1), key=f"s/{n}"), NAMES, NAMES),
    st.builds(
        lambda s, n, w: Upserted(endpoint(s, n, w), Revision(1), key=f"e/{s}/{n}"), SERVICES, NAMES, st.integers(1, 3)
    ),
    st.builds(lambda n: Removed(Ref("Service", "shop", n), key=f"s/{n}"), NAMES),
    st.builds(lambda s, n: EndpointRemoved(s, n, key=f"e/{s}/{n}"), SERVICES, NAMES),
    st.builds(lambda n, r: Undecodable(f"s/{n}", r), NAMES, NAMES),
    st.builds(lambda s, n: Undecodable(f"e/{s}/{n}", "bad"), SERVICES, NAMES),
    st.builds(EpochChanged, NAMES),
)


class Naive:
    """The same, written to be obviously right."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Object] = {}
        self.endpoints: dict[tuple[ServiceRef, str], Endpoint] = {}
        self.bad: dict[str, str] = {}
        self.epoch = ""

    def apply(self, change: Change) -> None:
        match change:
            case Upserted(Endpoint() as point):
                self.endpoints[ServiceRef(point.metadata.namespace, point.spec.service), point.metadata.name] = point
            case Upserted(obj):
                self.objects[obj.ref] = obj
            case Removed(ref):
                self.objects.pop(ref, None)
            case EndpointRemoved(of, name):
                self.endpoints.pop((of, name), None)
            case Undecodable(key, reason):
                self.bad[key] = reason
            case EpochChanged(epoch):
                self.epoch = epoch
        if isinstance(change, Upserted | Removed | EndpointRemoved):
            self.bad.pop(change.key, None)


@given(st.lists(st.lists(changes, max_size=6), max_size=8))
def test_apply_equals_the_naive_model(batches: list[list[Change]]):
    world, naive = World(), Naive()
    for number, batch in enumerate(batches, start=1):
        before, seen = world, snapshot(world)
        world = world.apply(batch, Revision(number))
        for change in batch:
            naive.apply(change)
        assert world.revision == number
        assert world.epoch == naive.epoch
        assert dict(world.objects) == naive.objects
        assert {(s, n): e for s, known in world.endpoints.items() for n, e in known.items()} == naive.endpoints
        assert dict(world.undecodable) == naive.bad
        assert all(world.endpoints.values()), "a service without endpoints has no map"
        assert snapshot(before) == seen, "the world before is untouched"


def snapshot(world: World) -> object:
    return dict(world.objects), {s: dict(known) for s, known in world.endpoints.items()}, dict(world.undecodable)


@pytest.fixture
def world() -> World:
    return World().apply(
        [
            Upserted(service("api"), Revision(1), key="s/api"),
            Upserted(endpoint(API, "a"), Revision(1)),
            Upserted(endpoint(WEB, "a"), Revision(1)),
            Undecodable("s/x", "bad"),
        ],
        Revision(1),
    )


def test_an_endpoint_change_touches_only_its_services_map(world: World):
    after = world.apply([Upserted(endpoint(API, "b"), Revision(2))], Revision(2))
    assert after.objects is world.objects
    assert after.undecodable is world.undecodable
    assert after.endpoints[WEB] is world.endpoints[WEB]
    assert after.endpoints[API] is not world.endpoints[API]
    assert after.endpoints[API]["a"] is world.endpoints[API]["a"]


def test_an_object_change_touches_no_endpoints(world: World):
    after = world.apply([Upserted(service("web"), Revision(2))], Revision(2))
    assert after.endpoints is world.endpoints
    assert after.objects is not world.objects


@pytest.mark.parametrize(
    "change",
    [
        Removed(Ref("Service", "shop", "none")),
        EndpointRemoved(API, "none"),
        EndpointRemoved(ServiceRef("shop", "none"), "a"),
        Undecodable("s/x", "bad"),
        EpochChanged("e"),
    ],
    ids=lambda c: type(c).__name__,
)
def test_a_change_that_changes_nothing_shares_everything(world: World, change: Change):
    after = world.apply([change], Revision(9))
    assert after.objects is world.objects
    assert after.endpoints is world.endpoints
    assert after.undecodable is world.undecodable
    assert after.revision == 9


def test_what_was_known_stays_in_force_while_its_value_cannot_be_read(world: World):
    broken = world.apply([Undecodable("s/api", "bad")], Revision(2))
    assert broken.service(API) == service("api")
    assert broken.undecodable["s/api"] == "bad"
    mended = broken.apply([Upserted(service("api", "new"), Revision(3), key="s/api")], Revision(3))
    assert mended.service(API) == service("api", "new")
    assert "s/api" not in mended.undecodable


def test_nobody_can_write_to_a_world(world: World):
    for mapping in (world.objects, world.endpoints, world.undecodable, world.endpoints[API]):
        assert isinstance(mapping, MappingProxyType)


def test_look_ups_find_objects_of_the_right_kind_only(world: World):
    assert world.service(API) is not None
    assert world.service(ServiceRef("shop", "none")) is None
    assert world.config is None
    assert world.bundle("mesh.test") is None


def test_a_world_made_of_plain_dicts_can_be_applied_to():
    plain: Mapping[Ref, Object] = {service("api").ref: service("api")}
    after = World(objects=plain).apply([Removed(service("api").ref)], Revision(2))
    assert after.objects == {}
    assert plain
