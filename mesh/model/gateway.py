"""East-west gateways: hosts in role `gateway`, which pass connections between clusters by their SNI.

They are instances of a Service that every cluster has without anybody writing it, so whoever needs to know where they
are, and how they are, finds their endpoints like any other's.
"""

from collections.abc import Iterator

from mesh.model.base import Frozen, Metadata, ServiceRef, Violation
from mesh.model.checks import at, number_fault, port_fault
from mesh.model.instance import Health, Instance, InstancePort, InstanceSpec
from mesh.model.reach import PRIVATE, networks_faults
from mesh.model.service import Service, ServicePort, ServiceSpec

GATEWAY = ServiceRef("holdfast-system", "gateway")
GATEWAY_PORT = 15444
GATEWAY_ROLE = "gateway"

GATEWAY_SERVICE = Service(
    metadata=Metadata(name=GATEWAY.name, namespace=GATEWAY.namespace),
    spec=ServiceSpec(
        ports=(ServicePort(port=GATEWAY_PORT, name="mtls", target_port="mtls"),), service_accounts=(GATEWAY.name,)
    ),
)


class GatewaySpec(Frozen, frozen=True, kw_only=True):
    """Role gateway: this host's Envoy passes on what is exported, and what is imported for callers who need it to."""

    port: int = GATEWAY_PORT
    """On the host's address."""
    connections_per_service: int = 16_384
    """Open at once, to one port of one Service: from each peer whose Peering names its networks, and from all others
    together."""
    source_ranges: tuple[str, ...] = PRIVATE
    """From where callers of this cluster come, who are passed on to peers (`through: Gateway`)."""

    def check(self, where: str) -> Iterator[Violation]:
        yield from at(f"{where}.port", port_fault(self.port))
        yield from at(f"{where}.connectionsPerService", number_fault(self.connections_per_service, 1, 1_000_000))
        if not self.source_ranges:
            yield Violation(path=f"{where}.sourceRanges", reason="is empty: leave it out, or name networks of callers")
        yield from networks_faults(f"{where}.sourceRanges", self.source_ranges)


def gateway_instance(node: str, address: str, spec: GatewaySpec, health: Health, locality: str = "") -> Instance:
    """As the host registers it."""
    return Instance(
        metadata=Metadata(name=f"{GATEWAY.name}-{node}", namespace=GATEWAY.namespace),
        spec=InstanceSpec(
            node=node,
            service=GATEWAY.name,
            service_account=GATEWAY.name,
            address=address,
            mtls_port=spec.port,
            ports=(InstancePort(port=spec.port, name="mtls"),),
            health=health,
            locality=locality,
        ),
    )
