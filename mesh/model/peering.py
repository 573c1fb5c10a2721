"""Clusters together: Peering (whom we know), ExportPolicy (what they may know), ImportedService (what they told us).

A peering is between equals and is named as the peer's cluster. A service of a peer is named `<service>.<peer>` in the
namespace that it has there: a dot is in no name of ours, so nothing of a peer can shadow what is here.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from mesh import spiffe
from mesh.model.base import Frozen, Object, Ref, ServiceRef, Violation
from mesh.model.checks import (
    at,
    imported_name_fault,
    label_fault,
    labels_faults,
    number_fault,
    port_fault,
    repeated,
)
from mesh.model.core import MeshConfig
from mesh.model.duration import duration_fault
from mesh.model.reach import networks_faults
from mesh.model.service import Service, ServicePort

ANY = "*"
MAX_IMPORTED = 5_000
"""Services that one peer may have here, unless its Peering says another number."""


class PeeringSpec(Frozen, frozen=True, kw_only=True):
    trust_domain: str
    """The peer's. One trust domain has one peering."""
    addresses: tuple[str, ...] = ()
    """`https://host:port` of its control-plane nodes, as it told last."""
    paused: bool = False
    """No session either way. What was imported stays as it was."""
    exposes: Literal["Gateway", "Instances"] = "Gateway"
    """What the peer is told to dial for a service of ours: our gateways, or each instance (on a flat network)."""
    through: Literal["Direct", "Gateway"] = "Direct"
    """Callers here dial what the peer named, or our own gateways, which do so for them."""
    remove_after: str = ""
    """A duration: what was imported is removed once the peer has been lost so long. Empty: never."""
    max_services: int = MAX_IMPORTED
    networks: tuple[str, ...] = ()
    """Those that the peer's gateways and hosts are in, as seen from here (`198.51.100.0/24`). What it names elsewhere
    is refused, and at our gateways connections from them are counted by themselves. Empty: it may be anywhere."""


class Peering(Object, frozen=True, kw_only=True):
    api_version: str = "holdfast.dev/v1"
    kind: Literal["Peering"] = "Peering"
    spec: PeeringSpec

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        spec = self.spec
        yield from at("spec.trustDomain", _trust_domain_fault(spec.trust_domain))
        for other in existing.values():
            if isinstance(other, MeshConfig):
                if other.spec.cluster == self.metadata.name:
                    yield Violation(path="metadata.name", reason="is this cluster's own name")
                if other.spec.trust_domain == spec.trust_domain:
                    yield Violation(path="spec.trustDomain", reason="is this cluster's own")
            if isinstance(other, Peering) and other.ref != self.ref and other.spec.trust_domain == spec.trust_domain:
                reason = f"Peering {other.metadata.name} has it already"
                yield Violation(path="spec.trustDomain", reason=reason)
        before = existing.get(self.ref)
        if isinstance(before, Peering) and before.spec.trust_domain != spec.trust_domain:
            yield Violation(path="spec.trustDomain", reason="cannot change: delete the peering and make another")
        yield from repeated("spec.addresses", "", spec.addresses)
        if spec.remove_after:
            yield from at("spec.removeAfter", duration_fault(spec.remove_after, 1.0))
        yield from at("spec.maxServices", number_fault(spec.max_services, 0, 100_000))
        yield from networks_faults("spec.networks", spec.networks)
        yield from self._taken(existing)

    def _taken(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        """Of a connection from a network it must be clear which peer's it is."""
        own = {network: index for index, network in enumerate(self.spec.networks)}
        for other in existing.values():
            if isinstance(other, Peering) and other.ref != self.ref:
                for network in own.keys() & set(other.spec.networks):
                    reason = f"Peering {other.metadata.name} has it already"
                    yield Violation(path=f"spec.networks[{own[network]}]", reason=reason)


class ExportPolicySpec(Frozen, frozen=True, kw_only=True):
    services: tuple[str, ...] = ()
    """Names of Services in the policy's namespace; `*`: all of them. Nothing of another cluster is ever exported."""
    selector: dict[str, str] = {}
    """Labels that a Service must have, besides."""
    to: tuple[str, ...] = ()
    """Names of Peerings; `*`: all, those to come too."""


class ExportPolicy(Object, frozen=True, kw_only=True):
    """Without one, a peer knows nothing."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["ExportPolicy"] = "ExportPolicy"
    spec: ExportPolicySpec = ExportPolicySpec()

    def covers(self, service: Service) -> bool:
        """Is this Service of those that it is about?"""
        spec, meta = self.spec, service.metadata
        named = ANY in spec.services or meta.name in spec.services
        return self.metadata.namespace == meta.namespace and named and spec.selector.items() <= meta.labels.items()

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        for path, words in (("spec.services", self.spec.services), ("spec.to", self.spec.to)):
            if not words:
                yield Violation(path=path, reason=f"is empty: name some, or {ANY!r} for all")
            for index, word in enumerate(words):
                if word != ANY:
                    yield from at(f"{path}[{index}]", label_fault(word))
            yield from repeated(path, "", words)
        yield from labels_faults("spec.selector", self.spec.selector)


class ImportedServiceSpec(Frozen, frozen=True, kw_only=True):
    """What callers need of a Service elsewhere. Written by the control plane from what the peer said, once checked."""

    service: str
    """Its name there; its namespace there is the one it has here."""
    cluster: str
    """The peer's cluster, which its SNI ends with; also the Peering's name."""
    trust_domain: str
    ports: tuple[ServicePort, ...] = ()
    service_accounts: tuple[str, ...] = ()
    """Of its namespace, in its trust domain: the only identities that may answer."""
    cut: bool = False
    """It has more endpoints there than its cluster tells."""


class ImportedService(Object, frozen=True, kw_only=True):
    """Named `<service>.<peer>`. Its endpoints are Endpoints of the Service of that name."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["ImportedService"] = "ImportedService"
    spec: ImportedServiceSpec

    @property
    def service(self) -> ServiceRef:
        return ServiceRef(self.metadata.namespace, self.metadata.name)

    def name_fault(self) -> str:
        return imported_name_fault(self.metadata.name)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        spec = self.spec
        if self.metadata.name != f"{spec.service}.{spec.cluster}":
            yield Violation(path="metadata.name", reason="is not <spec.service>.<spec.cluster>")
        yield from at("spec.trustDomain", _trust_domain_fault(spec.trust_domain))
        if not spec.ports:
            yield Violation(path="spec.ports", reason="at least one port is needed: it is what callers dial")
        for index, port in enumerate(spec.ports):
            yield from at(f"spec.ports[{index}].port", port_fault(port.port))
            if port.name:
                yield from at(f"spec.ports[{index}].name", label_fault(port.name))
        yield from repeated("spec.ports", ".port", (port.port for port in spec.ports))
        for index, account in enumerate(spec.service_accounts):
            yield from at(f"spec.serviceAccounts[{index}]", label_fault(account))


def _trust_domain_fault(text: str) -> str:
    try:
        spiffe.check_trust_domain(text)
    except spiffe.SpiffeError as exc:
        return str(exc)
    return ""
