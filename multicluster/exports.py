"""What of this cluster a peer is offered. Pure.

Only Services of this cluster, and only those that an ExportPolicy names: what was imported is no Service, and is never
told on. What a peer dials is this cluster's gateways, each weighing as many healthy instances as there are behind it,
or, where the Peering exposes instances, each instance.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from mesh.model import GATEWAY, Endpoint, ExportPolicy, Peering, Service, ServiceRef
from mesh.model.peering import ANY
from multicluster import wire
from multicluster.wire import Told

Items = dict[str, bytes]
"""Item's key -> value, both as they go over the wire."""


class Local(Protocol):
    """What exports need to know of the own cluster."""

    def services(self) -> Iterable[Service]: ...

    def service(self, ref: ServiceRef) -> Service | None: ...

    def endpoints(self, ref: ServiceRef) -> Iterable[Endpoint]: ...

    def policies(self) -> Iterable[ExportPolicy]: ...


def exported(policies: Iterable[ExportPolicy], service: Service, peer: str) -> bool:
    """May this peer know this Service? Nobody is told of the one that the gateways themselves are."""
    told = (policy for policy in policies if not {ANY, peer}.isdisjoint(policy.spec.to))
    return service.service != GATEWAY and any(policy.covers(service) for policy in told)


def select(local: Local, peering: Peering) -> dict[ServiceRef, Items]:
    """All that this peer is offered, by Service."""
    return {service.service: of_service(local, service.service, peering) for service in allowed(local, peering)}


@dataclass(slots=True)
class Selection:
    """What one peer is offered, made once for all who ask: a peer that dials again and again costs no more."""

    services: dict[ServiceRef, Items] = field(default_factory=dict)
    """As of the last refresh. Its Items are never changed, but replaced."""
    _dirty: set[ServiceRef] = field(default_factory=set)
    _everything: bool = True

    def touch(self, services: AbstractSet[ServiceRef], endpoints: AbstractSet[ServiceRef], *, everything: bool) -> None:
        """These changed; `endpoints`: those of these Services. Of what the peer may not know they cost nothing."""
        self._everything |= everything
        self._dirty |= services | (endpoints & self.services.keys())

    def refresh(self, local: Local, peering: Peering) -> None:
        """Bring it up to date: cost by what was touched."""
        if self._everything:
            self.services = select(local, peering)
        else:
            for ref in self._dirty:
                if items := of_service(local, ref, peering):
                    self.services[ref] = items
                else:
                    self.services.pop(ref, None)
        self._everything, self._dirty = False, set()


def allowed(local: Local, peering: Peering) -> Iterator[Service]:
    policies = tuple(local.policies())
    return (service for service in local.services() if exported(policies, service, peering.metadata.name))


def of_service(local: Local, ref: ServiceRef, peering: Peering) -> Items:
    """What this peer is offered of one Service; nothing, if it may not know it."""
    service = local.service(ref)
    if service is None or not exported(local.policies(), service, peering.metadata.name):
        return {}
    ports = tuple(wire.OfferedPort(port=p.port, name=p.name, protocol=p.protocol) for p in service.spec.ports)
    made = list(_instances(local, ref) if peering.spec.exposes == "Instances" else _gateways(local, service))
    cut = len(made) > wire.MAX_ENDPOINTS_EACH
    if cut:
        made = sorted(made, key=_rank)[: wire.MAX_ENDPOINTS_EACH]
    offered = wire.OfferedService(ports=ports, accounts=service.spec.service_accounts, cut=cut)
    items = {wire.service_key(ref): wire.encode(offered)}
    return items | {wire.endpoint_key(ref, name): wire.encode(endpoint) for name, endpoint in made}


def _rank(told: tuple[str, wire.OfferedEndpoint]) -> tuple[int, str]:
    """Who is told of when not all can be: the healthy first, and among equals by a digest of the name.

    So whoever comes, goes or changes moves one other at most, and those chosen are spread over hosts and zones.
    """
    name, endpoint = told
    return ("healthy", "unhealthy", "draining").index(endpoint.health), wire.digest(name.encode())


def _instances(local: Local, ref: ServiceRef) -> Iterator[tuple[str, wire.OfferedEndpoint]]:
    for endpoint in local.endpoints(ref):
        spec = endpoint.spec
        yield (
            endpoint.metadata.name,
            wire.OfferedEndpoint(
                node=spec.node,
                address=spec.address,
                port=spec.port,
                account=spec.service_account,
                ports=spec.ports,
                health=_told(spec.health),
                weight=spec.weight,
                locality=spec.locality,
            ),
        )


def _gateways(local: Local, service: Service) -> Iterator[tuple[str, wire.OfferedEndpoint]]:
    """Each gateway, as the way to what is behind it."""
    behind = list(local.endpoints(service.service))
    healthy = [endpoint for endpoint in behind if endpoint.spec.health == "healthy"]
    ports = tuple(sorted({port for endpoint in healthy or behind for port in endpoint.spec.ports}))
    accounts = service.spec.service_accounts
    if not accounts:
        return  # nobody may answer, so there is nobody to dial
    for gateway in local.endpoints(GATEWAY):
        spec = gateway.spec
        yield (
            spec.node,
            wire.OfferedEndpoint(
                node=spec.node,
                address=spec.address,
                port=spec.port,
                account=accounts[0],
                ports=ports,
                health=_through(_told(spec.health), behind, healthy),
                weight=max(1, len(healthy)),
                locality=spec.locality,
            ),
        )


def _told(health: str) -> Told:
    return "healthy" if health == "healthy" else "draining" if health == "draining" else "unhealthy"


def _through(gateway: Told, behind: list[Endpoint], healthy: list[Endpoint]) -> Told:
    """The way through a gateway is as good as the worse of the two."""
    if gateway != "healthy" or healthy:
        return gateway
    return "draining" if any(endpoint.spec.health == "draining" for endpoint in behind) else "unhealthy"
