"""Gateways register themselves: as gateways, where their node may be one, and as nothing else."""

import msgspec
import pytest

from controlplane import registry
from controlplane.registry import plan_endpoints, plan_service
from mesh import keys
from mesh.model import GATEWAY, GATEWAY_SERVICE, GatewaySpec, InstancePort, Metadata, gateway_instance
from mesh.validate import validate
from tests.unit.controlplane.test_registry import World, node, svc

GATEWAY_NODE = {"roles": ("agent", "gateway"), "identities": ()}


def test_a_gateway_registers_itself_if_its_node_is_one():
    found = gateway_instance("n1", "10.0.0.1", GatewaySpec(port=15999), "healthy", "eu/a")
    world = World(
        node(roles=("agent", "gateway"), identities=()), node("n2", "10.0.0.2", identities=("holdfast-system/gateway",))
    )
    assert not world.register(found).refused
    (made,) = world.endpoints(GATEWAY).values()
    spec = made.spec
    assert (spec.node, spec.address, spec.port, spec.ports, spec.locality) == (
        "n1",
        "10.0.0.1",
        15999,
        (15444,),
        "eu/a",
    )
    assert world.view.configured() == {ref: held.object for ref, held in world.view.objects.items()}, "nobody wrote it"
    # Health, drains and losses are those of any instance.
    world.register(gateway_instance("n1", "10.0.0.1", GatewaySpec(port=15999), "draining"))
    assert [e.spec.health for e in world.endpoints(GATEWAY).values()] == ["draining"]
    world.run(*plan_endpoints(world.view, found.ref, frozenset({"n1"})))
    assert [e.spec.health for e in world.endpoints(GATEWAY).values()] == ["lost"]
    world.run(*plan_service(world.view, GATEWAY, frozenset()))
    assert [e.spec.health for e in world.endpoints(GATEWAY).values()] == ["draining"]
    # An identity of that name makes no gateway.
    posed = gateway_instance("n2", "10.0.0.2", GatewaySpec(), "healthy")
    assert "is no gateway" in world.register(posed, name="n2").refused["gateway-n2"]
    world.register()
    assert not world.endpoints(GATEWAY)


def test_nobody_writes_the_service_of_the_gateways():
    assert validate(GATEWAY_SERVICE)
    world = World(GATEWAY_SERVICE)
    world.event(keys.key_for(GATEWAY_SERVICE.ref), None)
    assert world.view.services[GATEWAY].object == GATEWAY_SERVICE


def at(port=15444, **changes):
    found = gateway_instance("n1", "10.0.0.1", GatewaySpec(port=port), "healthy")
    return msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, **changes))


@pytest.mark.parametrize(
    ("posed", "reason"),
    [
        (at(service_account="api"), "runs as 'gateway', not as 'api'"),
        (at(mtls_port=15999), "one port, mtls, which is its mtlsPort (15999)"),
        (at(ports=()), "one port, mtls"),
        (at(ports=(InstancePort(port=15444, name="mtls"), InstancePort(port=22, name="ssh"))), "one port, mtls"),
        (at(22), "port 22 is neither 443 nor in 1024 to 65535"),
        (at(1023), "port 1023"),
        (
            msgspec.structs.replace(at(), metadata=Metadata(name="gateway-n9", namespace="holdfast-system")),
            "'gateway-n1'",
        ),
        (
            msgspec.structs.replace(
                at(), metadata=Metadata(name="gateway-n1", namespace="holdfast-system", labels={"app": "api"})
            ),
            "no labels",
        ),
    ],
)
def test_a_node_that_may_be_a_gateway_may_be_nothing_else_by_it(posed, reason):
    """It needs no identity to be one, so neither account, port nor labels are its own choice."""
    api = svc("api", selector={"app": "api"}, serviceAccounts=["api"])
    system = msgspec.structs.replace(api, metadata=Metadata(name="api", namespace="holdfast-system"))
    world = World(node(**GATEWAY_NODE), system)
    refused = world.register(posed).refused
    assert reason in refused[posed.metadata.name]
    assert not world.view.instances
    assert not world.endpoints(GATEWAY)


@pytest.mark.parametrize("port", [443, 1024, 15444, 65535])
def test_a_gateway_may_be_at_a_port_of_its_operators_choice(port):
    world = World(node(**GATEWAY_NODE))
    assert not world.register(at(port)).refused
    assert [e.spec.port for e in world.endpoints(GATEWAY).values()] == [port]


def test_a_cluster_has_so_many_gateways_and_those_that_are_stay(monkeypatch):
    monkeypatch.setattr(registry, "MAX_GATEWAYS", 3)
    world = World(*(node(f"n{n}", f"10.0.0.{n}", **GATEWAY_NODE) for n in range(1, 5)))

    def register(n, health="healthy"):
        found = gateway_instance(f"n{n}", f"10.0.0.{n}", GatewaySpec(), health)
        return world.register(found, name=f"n{n}").refused

    assert not any(register(n) for n in (1, 2, 3))
    assert "has 3 gateways, and may have 3" in register(4)["gateway-n4"]
    assert not register(2, "draining")
    world.register(name="n1")
    assert not register(4)
    assert set(world.endpoints(GATEWAY)) == {"gateway-n2", "gateway-n3", "gateway-n4"}
