"""The smaller kinds: Namespace, Node, TrustBundle, MeshConfig."""

from typing import Literal

from mesh.model.base import Frozen, Object

CLUSTER_SINGLETON = "default"
"""The name of the one MeshConfig."""


class Namespace(Object, frozen=True, kw_only=True):
    api_version: str = "v1"
    kind: Literal["Namespace"] = "Namespace"


class NodeSpec(Frozen, frozen=True, kw_only=True):
    """What the control plane knows of a host. Private: agents never read it."""

    address: str = ""
    """What other hosts dial. Set at join; instances of the node may have no other."""
    identities: tuple[str, ...] = ()
    """Service accounts that the node may run, as `<namespace>/<service-account>`."""
    roles: tuple[Literal["agent", "gate"], ...] = ("agent",)
    locality: str = ""
    evicted: bool = False


class Node(Object, frozen=True, kw_only=True):
    api_version: str = "holdfast.dev/v1"
    kind: Literal["Node"] = "Node"
    spec: NodeSpec = NodeSpec()


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


class MeshConfigSpec(Frozen, frozen=True, kw_only=True):
    trust_domain: str
    cluster: str = "default"
    """A DNS label; the last but one label of every SNI of this cluster."""
    authorization_default: Literal["Deny", "Allow"] = "Deny"
    liveness_grace_seconds: float = 15.0
    workload_ttl_seconds: int = 72 * 3600
    node_ttl_seconds: int = 30 * 86400
    intermediate_ttl_seconds: int = 30 * 86400


class MeshConfig(Object, frozen=True, kw_only=True):
    """One per cluster, named `default`."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["MeshConfig"] = "MeshConfig"
    spec: MeshConfigSpec
