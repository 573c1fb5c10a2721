"""What a gateway passes on, when it is more than it can."""

from mesh.compile import passages
from mesh.model import (
    ExportPolicy,
    GatewaySpec,
    ImportedService,
    Metadata,
    Peering,
    Service,
    ServicePort,
)
from mesh.model.peering import ExportPolicySpec, ImportedServiceSpec, PeeringSpec
from mesh.model.service import ServiceSpec

PORTS = (ServicePort(port=80),)


def test_a_peer_that_offers_too_much_takes_no_place_from_what_is_exported(monkeypatch):
    monkeypatch.setattr(passages, "MAX_PASSAGES", 2)
    found = [
        Peering(metadata=Metadata(name="east"), spec=PeeringSpec(trust_domain="east.test", through="Gateway")),
        ExportPolicy(
            metadata=Metadata(name="all", namespace="shop"), spec=ExportPolicySpec(services=("*",), to=("*",))
        ),
        Service(metadata=Metadata(name="web", namespace="shop"), spec=ServiceSpec(ports=PORTS)),
        *(
            ImportedService(
                metadata=Metadata(name=f"a{number}.east", namespace="shop"),
                spec=ImportedServiceSpec(service=f"a{number}", cluster="east", trust_domain="east.test", ports=PORTS),
            )
            for number in range(3)
        ),
    ]
    problems = []
    gateway = passages.gateway(GatewaySpec(), {obj.ref: obj for obj in found}, lambda *told: problems.append(told))
    assert [str(passage.target.service.name) for passage in gateway.passages] == ["a0.east", "web"]
    assert len(problems) == 1
