"""Registrations and Services -> endpoints, as pure plans."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane import registry
from controlplane.registry import (
    pack,
    plan_endpoints,
    plan_node,
    plan_remove,
    plan_service,
    refused_by,
    services_of,
)
from controlplane.view import View
from mesh import codec, keys
from mesh.model import (
    Endpoint,
    Instance,
    Metadata,
    Node,
    NodeSpec,
    Ref,
    Revision,
    Service,
    ServiceRef,
)
from mesh.store.protocol import Delete, Event, Put
from tests.unit.controlplane import harness

API = ServiceRef("shop", "api")


def obj(document):
    made = codec.decode_strict(document)
    assert not isinstance(made, tuple), made
    return made


def inst(**more) -> Instance:
    name, node = more.pop("name", "api-n1"), more.pop("node", "n1")
    labels = more.pop("labels", None)
    document = harness.instance(name, node, **more)
    if labels is not None:
        document["metadata"]["labels"] = labels
    return obj(document)


def svc(name="api", **spec) -> Service:
    return obj(harness.service(name, **spec))


def node(name="n1", address="10.0.0.1", identities=("shop/api",), **more) -> Node:
    return Node(metadata=Metadata(name=name), spec=NodeSpec(address=address, identities=identities, **more))


class World:
    """A View and the store behind it, in miniature: plans are applied as the writer would."""

    def __init__(self, *objects):
        self.view, self.revision = View(), 1
        self.put(*objects)

    def put(self, *objects):
        for made in objects:
            self.event(keys.key_for(made.ref), codec.encode(made))

    def event(self, key, value):
        self.revision += 1
        return self.view.apply([Event(key, value, Revision(self.revision))], Revision(self.revision))

    def run(self, *plans):
        for plan in plans:
            for op in plan.ops.values():
                self.event(op.key, op.value if isinstance(op, Put) else None)

    def register(self, *instances, name="n1"):
        plan = plan_node(self.view, name, instances)
        self.run(*plan.parts)
        return plan

    def endpoints(self, service=API) -> dict[str, Endpoint]:
        return {name: held.object for name, held in self.view.endpoints.get(service, {}).items()}


def test_an_instance_becomes_an_endpoint_of_each_service_that_takes_it():
    world = World(node(locality="r1"), svc(), svc("all", selector={"app": "api"}, serviceAccounts=["api", "web"]))
    plan = world.register(inst())
    assert not plan.refused
    assert set(world.view.endpoints) == {API, ServiceRef("shop", "all")}
    spec = world.endpoints()["api-n1"].spec
    assert (spec.node, spec.address, spec.port, spec.ports, spec.health) == ("n1", "10.0.0.1", 15443, (80,), "healthy")
    assert (spec.service_account, spec.locality) == ("api", "r1")
    assert world.endpoints()["api-n1"].metadata.labels == {"app": "api"}


def test_a_host_says_where_it_is_unless_its_operator_does():
    world = World(node(), svc())
    world.register(inst(locality="eu/a/7"))
    assert world.endpoints()["api-n1"].spec.locality == "eu/a/7"
    world.put(node(locality="eu/b"))
    world.run(*plan_service(world.view, API, frozenset()))
    assert world.endpoints()["api-n1"].spec.locality == "eu/b"
    world.register(inst(locality="eu/c"))
    assert world.endpoints()["api-n1"].spec.locality == "eu/b"
    world.put(node())
    world.run(*plan_service(world.view, API, frozenset()))
    assert world.endpoints()["api-n1"].spec.locality == "eu/c"


@pytest.mark.parametrize("text", ["/eu", "eu/", "eu/a/b/c", "eu a", "x" * 64, "eu\n"])
def test_a_locality_that_is_none_is_refused_with_its_instance(text):
    bad = inst()
    bad = msgspec.structs.replace(bad, spec=msgspec.structs.replace(bad.spec, locality=text))
    plan = World(node(), svc()).register(bad)
    assert "spec.locality" in plan.refused["api-n1"]


def test_registering_the_same_again_writes_nothing():
    world = World(node(), svc())
    world.register(inst())
    assert world.register(inst()).parts == ()


def test_a_health_transition_writes_the_record_and_its_endpoint_only():
    world = World(node(), svc(), svc("other"))
    world.register(inst())
    plan = world.register(inst(health="unhealthy"))
    written = {key for part in plan.parts for key in part.ops}
    assert written == {
        keys.key_for(Ref("Instance", "shop", "api-n1")),
        keys.key_for(Ref("Endpoint", "shop", "api-n1"), service="api"),
    }
    assert world.endpoints()["api-n1"].spec.health == "unhealthy"


def test_what_is_missing_in_the_list_is_removed_with_its_endpoints():
    world = World(node(), svc())
    world.register(inst(), inst(name="second"))
    world.register(inst(name="second"))
    assert set(world.endpoints()) == {"second"}
    assert [ref.name for ref in world.view.instances] == ["second"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"address": "10.9.9.9"}, "is not its node's"),
        ({"node": "n2"}, "names node 'n2'"),
        ({"serviceAccount": "web"}, "may not run as shop/web"),
        ({"health": "lost"}, "only the control plane"),
        ({"ports": [{"port": 70000}]}, "port"),
    ],
)
def test_what_a_node_may_not_register_is_refused_with_a_reason_and_nothing_else(change, reason):
    world = World(node(), svc())
    document = harness.instance("bad", **change)
    bad = msgspec.convert(document, Instance)
    plan = world.register(bad, inst(name="good"))
    assert reason in plan.refused["bad"]
    assert set(world.endpoints()) == {"good"}
    assert [ref.name for ref in world.view.instances] == ["good"]


@pytest.mark.parametrize("name", ["..", "a/b", "A", "", "x" * 10_000, "a\nb"])
def test_hostile_instance_names_are_refused(name):
    world = World(node(), svc())
    bad = msgspec.convert(harness.instance(name), Instance)
    plan = world.register(bad)
    assert len(plan.refused) == 1
    assert plan.parts == ()


def test_an_instance_of_another_node_cannot_be_taken_over():
    world = World(node(), node("n2", "10.0.0.2"), svc())
    world.register(inst())
    plan = world.register(inst(node="n2", address="10.0.0.2"), name="n2")
    assert "taken by an instance of node 'n1'" in plan.refused["api-n1"]
    assert world.endpoints()["api-n1"].spec.node == "n1"


def test_names_that_two_hosts_make_alike_are_told_apart_by_what_to_change():
    """`<service>-<node>`: service a-b of node c, and service a of node b-c."""
    world = World(node("b-c"), node("c", "10.0.0.2"), svc())
    world.register(inst(name="a-b-c", node="b-c", service="a"), name="b-c")
    plan = world.register(inst(name="a-b-c", node="c", service="a-b", address="10.0.0.2"), name="c")
    assert plan.refused["a-b-c"] == (
        "the name is taken by an instance of node 'b-c', of service 'a': give this one another `instance` in its"
        " definition (services.d)"
    )


def test_an_account_that_the_service_does_not_list_gets_no_endpoint_and_both_sides_are_told():
    world = World(node(), svc(serviceAccounts=["other"]))
    plan = world.register(inst())
    assert not plan.refused
    assert "may not stand behind it" in plan.notes["api-n1"]
    assert world.endpoints() == {}
    assert "may not stand behind it" in services_of(world.view, inst())["api.shop"]
    assert "may not stand behind it" in refused_by(world.view, svc(serviceAccounts=["other"]))["api-n1"]


def test_an_unknown_or_evicted_node_registers_nothing():
    world = World(node("n2", evicted=True), svc())
    assert "has to join" in world.register(inst()).refused["api-n1"]
    assert "evicted" in world.register(inst(node="n2"), name="n2").refused["api-n1"]


def test_plans_compare_what_they_were_made_from():
    world = World(node(), svc())
    (part,) = plan_node(world.view, "n1", [inst()]).parts
    assert part.compares[keys.key_for(Ref("Node", "", "n1"))] == 2
    assert part.compares[keys.key_for(Ref("Service", "shop", "api"))] == 3
    assert part.compares[keys.key_for(Ref("Instance", "shop", "api-n1"))] == 0


def test_a_service_that_comes_later_finds_its_instances():
    world = World(node())
    world.register(inst())
    world.put(svc())
    world.run(*plan_service(world.view, API, frozenset()))
    assert set(world.endpoints()) == {"api-n1"}
    assert plan_service(world.view, API, frozenset()) == ()


def test_a_changed_selector_moves_endpoints_and_a_deleted_service_drops_them():
    world = World(node(), svc(selector={"app": "api"}))
    world.register(inst(), inst(name="v2", labels={"app": "api", "version": "2"}))
    assert set(world.endpoints()) == {"api-n1", "v2"}
    world.put(svc(selector={"version": "2"}))
    world.run(*plan_service(world.view, API, frozenset()))
    assert set(world.endpoints()) == {"v2"}
    world.event(keys.key_for(Ref("Service", "shop", "api")), None)
    world.run(*plan_service(world.view, API, frozenset()))
    assert world.endpoints() == {}


def test_a_lost_node_and_its_return():
    world = World(node(), svc())
    world.register(inst())
    world.run(*plan_service(world.view, API, frozenset({"n1"})))
    assert world.endpoints()["api-n1"].spec.health == "lost"
    assert world.view.marked_lost() == {"n1"}
    world.run(*plan_service(world.view, API, frozenset()))
    assert world.endpoints()["api-n1"].spec.health == "healthy"


def test_a_node_that_registers_again_is_not_lost():
    world = World(node(), svc())
    world.register(inst())
    world.run(*plan_service(world.view, API, frozenset({"n1"})))
    world.register(inst())
    assert world.endpoints()["api-n1"].spec.health == "healthy"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["service", "no-service", "node", "no-node", "evict", "instance", "no-instance", "endpoint"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=25,
)


def step(world: World, what: str, one: int, other: int):
    """One change in the store, by whomever; what it touched."""
    name, host = f"i{one}", f"n{other}"
    instance = inst(name=name, node=host, labels={"app": ("api", "web", "db")[other]}, address=f"10.0.0.{other}")
    service = svc(f"s{one}", selector={"app": ("api", "web", "db")[other]}, serviceAccounts=["api"])
    endpoint = registry.endpoint(service, instance, "", "healthy")
    held = node(host, f"10.0.0.{other}", locality=f"r{one}", evicted=what == "evict")
    match what:
        case "service":
            return world.event(keys.key_for(service.ref), codec.encode(service))
        case "no-service":
            return world.event(keys.key_for(service.ref), None)
        case "node" | "evict":
            return world.event(keys.key_for(held.ref), codec.encode(held))
        case "no-node":
            return world.event(keys.key_for(held.ref), None)
        case "instance":
            return world.event(keys.key_for(instance.ref), codec.encode(instance))
        case "no-instance":
            return world.event(keys.key_for(instance.ref), None)
        case _:
            key = keys.key_for(Ref("Endpoint", "shop", name), service=service.metadata.name)
            return world.event(key, codec.encode(endpoint))


@given(STEPS, st.sets(st.sampled_from(["n0", "n1", "n2"])))
def test_what_was_touched_is_all_that_there_is_to_do(steps, lost):
    """After any change, looking at what it touched leaves nothing for a look at everything."""
    world = World()
    for what, one, other in steps:
        touched = step(world, what, one, other)
        instances = touched.instances | {
            held.object.ref for name in touched.nodes for held in world.view.instances_on(name)
        }
        for service in touched.services:
            world.run(*plan_service(world.view, service, lost))
        for ref in instances:
            world.run(*plan_endpoints(world.view, ref, lost))
        services = world.view.services.keys() | world.view.endpoints.keys()
        assert [plan for name in services for plan in plan_service(world.view, name, lost)] == []


def test_a_change_of_one_instance_touches_no_other_and_no_node():
    world = World(node(), svc(selector={"app": "api"}))
    world.register(inst(), inst(name="second"))
    changed = inst(health="unhealthy")
    touched = world.event(keys.key_for(changed.ref), codec.encode(changed))
    assert (touched.instances, touched.services, touched.nodes) == ({changed.ref}, set(), set())
    plans = plan_endpoints(world.view, changed.ref, frozenset())
    assert [list(plan.ops) for plan in plans] == [[keys.key_for(Ref("Endpoint", "shop", "api-n1"), service="api")]]


def test_a_nodes_first_and_last_instance_touch_the_node():
    world = World(node(), svc())
    first = world.event(keys.key_for(inst().ref), codec.encode(inst()))
    moved = world.event(keys.key_for(inst().ref), codec.encode(inst(node="n2")))
    last = world.event(keys.key_for(inst().ref), None)
    assert (first.nodes, moved.nodes, last.nodes) == ({"n1"}, {"n1", "n2"}, {"n2"})
    assert list(world.view.nodes_with_instances()) == []


def test_an_evicted_node_keeps_no_endpoints():
    world = World(node(), svc())
    world.register(inst())
    world.put(node(evicted=True))
    world.run(*plan_service(world.view, API, frozenset()))
    assert world.endpoints() == {}


def test_garbage_under_an_endpoints_key_is_replaced():
    world = World(node(), svc())
    key = keys.key_for(Ref("Endpoint", "shop", "api-n1"), service="api")
    world.event(key, b"garbage")
    (part,) = plan_node(world.view, "n1", [inst()]).parts
    assert part.compares[key] == world.revision
    world.run(part)
    assert set(world.endpoints()) == {"api-n1"}
    assert world.view.bad == {}


def test_a_value_that_names_another_object_than_its_key_is_not_believed():
    world = World(svc())
    world.event(keys.key_for(Ref("Service", "shop", "other")), codec.encode(svc("api", serviceAccounts=["evil"])))
    assert world.view.services[API].object.spec.service_accounts == ("api",)
    assert len(world.view.bad) == 1


def test_a_large_host_is_written_in_steps_that_fit():
    world = World(node(), svc(selector={"app": "api"}))
    plan = plan_node(world.view, "n1", [inst(name=f"i{n}") for n in range(50)])
    packed = pack(plan.parts, 20)
    assert all(max(len(p.ops), len(p.compares)) <= 18 for p in packed)
    assert sum(len(p.ops) for p in packed) == 100
    assert len(packed) == 7


def test_more_instances_than_a_node_may_have_are_refused():
    world = World(node(), svc())
    plan = plan_node(world.view, "n1", [inst(name=f"i{n}") for n in range(registry.MAX_INSTANCES + 1)])
    assert list(plan.refused) == [f"i{registry.MAX_INSTANCES}"]


def test_removing_an_instance_removes_its_endpoints():
    world = World(node(), svc())
    world.register(inst())
    (held,) = world.view.instances.values()
    plan = plan_remove(world.view, held)
    assert {type(op) for op in plan.ops.values()} == {Delete}
    assert len(plan.ops) == 2
