"""What a gateway passes on: when it is more than it can, from whom, and to where."""

import msgspec

from mesh import pb
from mesh.compile import passages, project
from mesh.compile.compiler import compile as compiled
from mesh.model import (
    Endpoint,
    EndpointSpec,
    ExportPolicy,
    GatewaySpec,
    ImportedService,
    Metadata,
    NodeLocal,
    Peering,
    Service,
    ServicePort,
)
from mesh.model.peering import ExportPolicySpec, ImportedServiceSpec, PeeringSpec
from mesh.model.reach import PRIVATE
from mesh.model.service import ServiceSpec
from tests.support.meshes import config, world

PORTS = (ServicePort(port=80),)
LOCAL = NodeLocal(node="gw", address="10.0.0.9", trust_domain="west.test", cluster="west", gateway=GatewaySpec())


def peering(name, **spec):
    return Peering(metadata=Metadata(name=name), spec=PeeringSpec(trust_domain=f"{name}.test", **spec))


def export(*to, name="all"):
    return ExportPolicy(metadata=Metadata(name=name, namespace="shop"), spec=ExportPolicySpec(services=("*",), to=to))


def service(name):
    return Service(metadata=Metadata(name=name, namespace="shop"), spec=ServiceSpec(ports=PORTS))


def imported(name, peer="east"):
    return ImportedService(
        metadata=Metadata(name=f"{name}.{peer}", namespace="shop"),
        spec=ImportedServiceSpec(service=name, cluster=peer, trust_domain=f"{peer}.test", ports=PORTS),
    )


def passed(*objects, spec=LOCAL.gateway, problems=None):
    told = [] if problems is None else problems
    return passages.gateway(spec, LOCAL, {obj.ref: obj for obj in objects}, lambda *one: told.append(one)).passages


def test_a_peer_that_offers_too_much_takes_no_place_from_what_is_exported(monkeypatch):
    monkeypatch.setattr(passages, "MAX_CHAINS", 2)
    problems = []
    offered = [imported(f"a{number}") for number in range(3)]
    found = passed(peering("east", through="Gateway"), export("*"), service("web"), *offered, problems=problems)
    assert [passage.target.service.name for passage in found] == ["a0.east", "web"]
    assert len(problems) == 1


def test_chains_of_peers_count(monkeypatch):
    monkeypatch.setattr(passages, "MAX_CHAINS", 3)
    problems = []
    objects = (peering("east", networks=("10.2.0.0/16",)), export("*"), service("web"), service("zoo"))
    assert [passage.target.service.name for passage in passed(*objects, problems=problems)] == ["web"]
    assert len(problems) == 1


def test_each_peer_that_a_service_is_told_to_counts_by_itself():
    """Those whose networks are known; a network that two peers have is the first one's."""
    problems = []
    (found,) = passed(
        peering("east", networks=("10.2.0.0/16", "10.3.0.0/16")),
        peering("north", networks=("10.3.0.0/16", "10.4.0.0/16")),
        peering("south"),
        peering("other", networks=("10.5.0.0/16",)),
        export("east", "north", "south"),
        service("web"),
        problems=problems,
    )
    assert found.peers == (("east", ("10.2.0.0/16", "10.3.0.0/16")), ("north", ("10.4.0.0/16",)))
    assert {ref.name for ref in found.sources if ref.kind == "Peering"} == {"east", "north"}
    assert [(ref.name, path) for ref, path, _ in problems] == [("north", "spec.networks")]


def chains(*objects, local=LOCAL):
    snapshot = compiled(project(world(*objects), local))
    return {
        chain.name: chain
        for chain in pb.Listener.FromString(snapshot.resources[pb.LISTENER]["gateway"].body).filter_chains
    }


def ranges(chain):
    return [f"{one.address_prefix}/{one.prefix_len.value}" for one in chain.filter_chain_match.source_prefix_ranges]


def test_only_callers_of_this_cluster_are_passed_on_to_a_peer():
    known = (config(cluster="west"), peering("east", through="Gateway"), export("*"), service("web"), imported("api"))
    found = chains(*known)
    assert ranges(found["80.web.shop.west.mesh"]) == []
    assert ranges(found["80.api.shop.east.mesh"]) == list(PRIVATE)
    narrow = msgspec.structs.replace(LOCAL, gateway=GatewaySpec(source_ranges=("203.0.113.0/24",)))
    assert ranges(chains(*known, local=narrow)["80.api.shop.east.mesh"]) == ["203.0.113.0/24"]


def test_a_gateway_connects_nowhere_else_on_a_peers_word():
    """Also where it was told so before anybody looked."""

    def at(name, address):
        spec = EndpointSpec(
            service="api.east", node=name, address=address, port=15444, service_account="gateway", ports=(80,),
            health="healthy",
        )  # fmt: skip
        return Endpoint(metadata=Metadata(name=name, namespace="shop"), spec=spec)

    places = ("198.51.100.1", "203.0.113.1", "10.0.0.9", "127.0.0.1", "169.254.169.254", "224.0.0.1", "::1")
    told = [at(f"gw{number}", address) for number, address in enumerate(places)]

    def dialled(**spec):
        known = world(config(cluster="west"), peering("east", through="Gateway", **spec), imported("api"), *told)
        body = compiled(project(known, LOCAL)).resources[pb.ENDPOINT]["gateway|80|api.shop.east"].body
        groups = pb.ClusterLoadAssignment.FromString(body).endpoints
        return [one.endpoint.address.socket_address.address for group in groups for one in group.lb_endpoints]

    assert dialled() == ["198.51.100.1", "203.0.113.1"]
    assert dialled(networks=("203.0.113.0/24",)) == ["203.0.113.1"]
