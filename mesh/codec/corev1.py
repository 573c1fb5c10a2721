"""Core v1 objects of Kubernetes, mapped to ours, so that existing manifests carry over.

What a manifest asks for is either done here, harmless to leave out because a cluster filled it in, or a violation.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from mesh.model import Frozen, Metadata, Namespace, Object, Protocol, Service, ServicePort, ServiceSpec, Violation
from mesh.model.checks import shown

ACCOUNTS_ANNOTATION = "holdfast.dev/service-accounts"
"""Comma-separated: the service accounts that may stand behind a core v1 Service, which has no field for it."""

DEFAULT_ACCOUNTS = ("default",)
"""What pods run as, unless told otherwise."""

PROTOCOLS: dict[str, Protocol] = {
    "http": "http",
    "kubernetes.io/ws": "http",
    "http2": "http2",
    "h2c": "http2",
    "kubernetes.io/h2c": "http2",
    "grpc": "grpc",
}
"""appProtocol, or the first part of a port's name -> protocol. All others are carried as TCP, which loses nothing."""


class CoreMetadata(Frozen, frozen=True, kw_only=True):
    """What carries over, then the bookkeeping of the cluster that the object came from."""

    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    resource_version: str = ""
    uid: Any = None
    generation: Any = None
    creation_timestamp: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    finalizers: Any = None
    self_link: Any = None


class CorePort(Frozen, frozen=True, kw_only=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str | None = None
    target_port: int | str = 0
    node_port: int = 0


class CoreServiceSpec(Frozen, frozen=True, kw_only=True):
    ports: tuple[CorePort, ...] = ()
    selector: dict[str, str] | None = None
    type: str = "ClusterIP"
    session_affinity: str = "None"
    internal_traffic_policy: str | None = "Cluster"
    external_traffic_policy: str = ""
    external_name: str = ""
    external_i_ps: tuple[str, ...] = msgspec.field(name="externalIPs", default=())
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")
    load_balancer_class: str | None = None
    load_balancer_source_ranges: tuple[str, ...] = ()
    traffic_distribution: str | None = None
    session_affinity_config: dict[str, Any] | None = None
    publish_not_ready_addresses: bool = False
    health_check_node_port: int = 0
    allocate_load_balancer_node_ports: Any = None
    # Filled in by a cluster; the mesh has no use for it.
    cluster_ip: Any = msgspec.field(name="clusterIP", default=None)
    cluster_i_ps: Any = msgspec.field(name="clusterIPs", default=None)
    ip_families: Any = None
    ip_family_policy: Any = None


class CoreService(Frozen, frozen=True, kw_only=True):
    api_version: str
    kind: str
    metadata: CoreMetadata
    spec: CoreServiceSpec = CoreServiceSpec()
    status: Any = None


class CoreNamespace(Frozen, frozen=True, kw_only=True):
    api_version: str
    kind: str
    metadata: CoreMetadata
    spec: Any = None
    """Finalizers only."""
    status: Any = None


class Mapping(NamedTuple):
    struct: Any
    convert: Callable[[Any], Object | tuple[Violation, ...]]


def service(core: CoreService) -> Service | tuple[Violation, ...]:
    """Our Service for a core v1 one, or what of it cannot be honoured."""
    if faults := tuple(_unhonoured(core.spec)):
        return faults
    accounts = (core.metadata.annotations or {}).get(ACCOUNTS_ANNOTATION, "")
    return Service(
        metadata=_metadata(core.metadata),
        spec=ServiceSpec(
            ports=tuple(_port(port) for port in core.spec.ports),
            selector=core.spec.selector or {},
            service_accounts=tuple(a.strip() for a in accounts.split(",") if a.strip()) or DEFAULT_ACCOUNTS,
        ),
    )


def namespace(core: CoreNamespace) -> Namespace:
    # Ours looks the same, so its resource version may be ours; a Service's with apiVersion v1 cannot be.
    return Namespace(metadata=_metadata(core.metadata, core.metadata.resource_version))


MAPPINGS: dict[tuple[str, str], Mapping] = {
    ("v1", "Service"): Mapping(CoreService, service),
    ("v1", "Namespace"): Mapping(CoreNamespace, namespace),
}


def _unhonoured(spec: CoreServiceSpec) -> Iterator[Violation]:
    asked: dict[str, tuple[object, set[object], str]] = {
        "type": (spec.type, {"ClusterIP"}, "only ClusterIP; to the outside leads a Gateway"),
        "sessionAffinity": (spec.session_affinity, {"None"}, "only None"),
        "internalTrafficPolicy": (spec.internal_traffic_policy, {None, "Cluster"}, "only Cluster"),
        "externalTrafficPolicy": (spec.external_traffic_policy, {"", "Cluster"}, "only Cluster"),
        "trafficDistribution": (spec.traffic_distribution, {None}, "leave it out"),
        "externalName": (spec.external_name, {""}, "the mesh gives no name to what is outside of it this way"),
        "loadBalancerIP": (spec.load_balancer_ip, {""}, "leave it out"),
        "loadBalancerClass": (spec.load_balancer_class, {None}, "leave it out"),
        "externalIPs": (spec.external_i_ps, {()}, "leave it out"),
        "loadBalancerSourceRanges": (
            spec.load_balancer_source_ranges,
            {()},
            "an AuthorizationPolicy says who may call",
        ),
        "publishNotReadyAddresses": (spec.publish_not_ready_addresses, {False}, "only healthy instances are called"),
        "healthCheckNodePort": (spec.health_check_node_port, {0}, "leave it out"),
    }
    for field, (value, honoured, hint) in asked.items():
        if value not in honoured:
            yield Violation(path=f"spec.{field}", reason=f"{shown(value)} cannot be honoured: {hint}")
    if spec.session_affinity_config:
        yield Violation(path="spec.sessionAffinityConfig", reason="cannot be honoured: leave it out")
    for index, port in enumerate(spec.ports):
        where = f"spec.ports[{index}]"
        if port.protocol != "TCP":
            yield Violation(path=f"{where}.protocol", reason=f"{shown(port.protocol)} cannot be honoured: only TCP")
        if port.node_port:
            yield Violation(path=f"{where}.nodePort", reason="cannot be honoured: leave it out")


def _port(core: CorePort) -> ServicePort:
    named = PROTOCOLS.get(core.name.partition("-")[0].lower(), "tcp")
    protocol = named if core.app_protocol is None else PROTOCOLS.get(core.app_protocol.lower(), "tcp")
    return ServicePort(port=core.port, name=core.name, protocol=protocol, target_port=core.target_port)


def _metadata(core: CoreMetadata, resource_version: str = "") -> Metadata:
    return Metadata(
        name=core.name,
        namespace=core.namespace,
        labels=core.labels or {},
        annotations=core.annotations or {},
        resource_version=resource_version,
    )
