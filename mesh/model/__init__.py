"""Resource kinds, one noun per file, and the registry of them.

`Object` is the frame; `KINDS` says where each kind lives and who writes it. `World` (mesh.model.world) is all that one
agent knows at one moment. Everything here is frozen and pure.
"""

from mesh.model.authorization import (
    DEFAULT_DENY,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    AuthorizationRule,
    AuthorizationSource,
    AuthorizationTarget,
)
from mesh.model.base import Frozen, Metadata, Object, Ref, Revision, ServiceRef, Violation
from mesh.model.core import (
    CLUSTER_SINGLETON,
    MeshConfig,
    MeshConfigSpec,
    Namespace,
    Node,
    NodeSpec,
    TrustBundle,
    TrustBundleSpec,
)
from mesh.model.externalservice import ExternalPort, ExternalService
from mesh.model.gateway import (
    GATEWAY,
    GATEWAY_PORT,
    GATEWAY_ROLE,
    GATEWAY_SERVICE,
    GatewaySpec,
    gateway_instance,
)
from mesh.model.grpcroute import GRPCRoute
from mesh.model.httproute import HTTPRoute
from mesh.model.instance import (
    MTLS_PORT,
    Endpoint,
    EndpointSpec,
    Health,
    Instance,
    InstancePort,
    InstanceSpec,
    selects,
    target_port,
)
from mesh.model.local import (
    Callers,
    GateSpec,
    HealthCheck,
    Identity,
    LocalPort,
    NodeLocal,
    ServiceDefinition,
    Upstream,
)
from mesh.model.peering import (
    ExportPolicy,
    ExportPolicySpec,
    ImportedService,
    ImportedServiceSpec,
    Peering,
    PeeringSpec,
)
from mesh.model.referencegrant import ReferenceGrant
from mesh.model.registry import KINDS, Kind, kind_named
from mesh.model.service import Protocol, Service, ServicePort, ServiceSpec
from mesh.model.tcproute import TCPRoute
from mesh.model.trafficpolicy import TrafficPolicy
from mesh.model.world import World

__all__ = [
    "CLUSTER_SINGLETON",
    "DEFAULT_DENY",
    "GATEWAY",
    "GATEWAY_PORT",
    "GATEWAY_ROLE",
    "GATEWAY_SERVICE",
    "KINDS",
    "MTLS_PORT",
    "AuthorizationPolicy",
    "AuthorizationPolicySpec",
    "AuthorizationRule",
    "AuthorizationSource",
    "AuthorizationTarget",
    "Callers",
    "Endpoint",
    "EndpointSpec",
    "ExportPolicy",
    "ExportPolicySpec",
    "ExternalPort",
    "ExternalService",
    "Frozen",
    "GRPCRoute",
    "GateSpec",
    "GatewaySpec",
    "HTTPRoute",
    "Health",
    "HealthCheck",
    "Identity",
    "ImportedService",
    "ImportedServiceSpec",
    "Instance",
    "InstancePort",
    "InstanceSpec",
    "Kind",
    "LocalPort",
    "MeshConfig",
    "MeshConfigSpec",
    "Metadata",
    "Namespace",
    "Node",
    "NodeLocal",
    "NodeSpec",
    "Object",
    "Peering",
    "PeeringSpec",
    "Protocol",
    "Ref",
    "ReferenceGrant",
    "Revision",
    "Service",
    "ServiceDefinition",
    "ServicePort",
    "ServiceRef",
    "ServiceSpec",
    "TCPRoute",
    "TrafficPolicy",
    "TrustBundle",
    "TrustBundleSpec",
    "Upstream",
    "Violation",
    "World",
    "gateway_instance",
    "kind_named",
    "selects",
    "target_port",
]
