"""The smaller kinds: Namespace, Node, TrustBundle, MeshConfig."""

from collections.abc import Iterator, Mapping
from typing import Literal

from mesh import spiffe
from mesh.model.base import Frozen, Object, Ref, Violation
from mesh.model.checks import (
    account_fault,
    address_fault,
    at,
    label_fault,
    locality_fault,
    number_fault,
    repeated,
    shown,
)

CLUSTER_SINGLETON = "default"
"""The name of the one MeshConfig."""

MIN_TTL = 10
"""Seconds. Shorter lives than these renew more often than an agent can answer for; the demo rotates with such."""


class Namespace(Object, frozen=True, kw_only=True):
    api_version: str = "v1"
    kind: Literal["Namespace"] = "Namespace"


class NodeSpec(Frozen, frozen=True, kw_only=True):
    """What the control plane knows of a host. Private: agents never read it."""

    address: str = ""
    """What other hosts dial. Set at join; instances of the node may have no other."""
    identities: tuple[str, ...] = ()
    """Service accounts that the node may run, as `<namespace>/<service-account>`."""
    roles: tuple[Literal["agent", "gate", "gateway"], ...] = ("agent",)
    locality: str = ""
    """`region[/zone[/subzone]]`, where callers see the host; empty: where the host says that it is."""
    evicted: bool = False


class Node(Object, frozen=True, kw_only=True):
    api_version: str = "holdfast.dev/v1"
    kind: Literal["Node"] = "Node"
    spec: NodeSpec = NodeSpec()

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        if self.spec.address:
            yield from at("spec.address", address_fault(self.spec.address))
        if self.spec.locality:
            yield from at("spec.locality", locality_fault(self.spec.locality))
        for index, identity in enumerate(self.spec.identities):
            yield from at(f"spec.identities[{index}]", account_fault(identity))
        yield from repeated("spec.identities", "", self.spec.identities)


class TrustBundleSpec(Frozen, frozen=True, kw_only=True):
    trust_domain: str
    sequence: int = 0
    """Grows with every change, never backward (SPIFFE Federation, 'spiffe_sequence')."""
    roots: tuple[str, ...] = ()
    """PEM certificates."""


class TrustBundle(Object, frozen=True, kw_only=True):
    """Named as its trust domain. Written by the CA only."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["TrustBundle"] = "TrustBundle"
    spec: TrustBundleSpec

    def name_fault(self) -> str:
        return _trust_domain_fault(self.metadata.name)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        if self.spec.trust_domain != self.metadata.name:
            yield Violation(path="spec.trustDomain", reason="must be the bundle's name")
        before = existing.get(self.ref)
        if isinstance(before, TrustBundle) and self.spec.sequence < before.spec.sequence:
            yield Violation(path="spec.sequence", reason=f"goes back from {before.spec.sequence}")
        if not self.spec.roots:
            yield Violation(path="spec.roots", reason="a bundle without roots would trust nobody")


class MeshConfigSpec(Frozen, frozen=True, kw_only=True):
    trust_domain: str
    cluster: str = "default"
    """A DNS label; the last but one label of every SNI of this cluster."""
    authorization_default: Literal["Deny", "Allow"] = "Deny"
    egress: Literal["Allow", "RegisteredOnly"] = "Allow"
    """Where captured connections to other than virtual addresses may go: anywhere, or to addresses of ExternalServices
    only. Upstreams name a Service or an ExternalService in either mode."""
    liveness_grace_seconds: float = 15.0
    workload_ttl_seconds: int = 72 * 3600
    node_ttl_seconds: int = 30 * 86400
    intermediate_ttl_seconds: int = 30 * 86400


class MeshConfig(Object, frozen=True, kw_only=True):
    """One per cluster, named `default`."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["MeshConfig"] = "MeshConfig"
    spec: MeshConfigSpec

    def name_fault(self) -> str:
        name = self.metadata.name
        return (
            ""
            if name == CLUSTER_SINGLETON
            else f"there is one MeshConfig, named {CLUSTER_SINGLETON!r}, not {shown(name)}"
        )

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        spec = self.spec
        yield from at("spec.trustDomain", _trust_domain_fault(spec.trust_domain))
        yield from at("spec.cluster", label_fault(spec.cluster))
        before = existing.get(self.ref)
        if isinstance(before, MeshConfig):
            if before.spec.trust_domain != spec.trust_domain:
                yield Violation(path="spec.trustDomain", reason="cannot change: every identity is named after it")
            if before.spec.cluster != spec.cluster:
                yield Violation(path="spec.cluster", reason="cannot change: every connection's SNI is named after it")
        yield from at("spec.livenessGraceSeconds", number_fault(spec.liveness_grace_seconds, 1, 3600))
        yield from at("spec.workloadTtlSeconds", number_fault(spec.workload_ttl_seconds, MIN_TTL, 90 * 86400))
        yield from at("spec.nodeTtlSeconds", number_fault(spec.node_ttl_seconds, MIN_TTL, 366 * 86400))
        yield from at("spec.intermediateTtlSeconds", number_fault(spec.intermediate_ttl_seconds, MIN_TTL, 3660 * 86400))


def _trust_domain_fault(text: str) -> str:
    try:
        spiffe.check_trust_domain(text)
    except spiffe.SpiffeError as exc:
        return str(exc)
    return "" if text not in {".", ".."} else f"{shown(text)} cannot be a trust domain"
