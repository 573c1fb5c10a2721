"""Kind -> everything the rest of the house must know of it. A new kind is one file and one row here."""

from typing import Literal, NamedTuple

import msgspec

from mesh.model.authorization import AuthorizationPolicy
from mesh.model.base import Object
from mesh.model.core import MeshConfig, Namespace, Node, TrustBundle
from mesh.model.externalservice import ExternalService
from mesh.model.grpcroute import GRPCRoute
from mesh.model.httproute import HTTPRoute
from mesh.model.instance import Endpoint, Instance
from mesh.model.peering import ExportPolicy, ImportedService, Peering
from mesh.model.referencegrant import ReferenceGrant
from mesh.model.routing import GROUP
from mesh.model.service import Service
from mesh.model.tcproute import TCPRoute
from mesh.model.trafficpolicy import TrafficPolicy

Area = Literal["objects", "endpoints", "bundles", "imports", "private"]
"""Which range of the store a kind lives in: see mesh.keys."""


class Kind(NamedTuple):
    struct: type[Object]
    plural: str
    """In URLs and CLI arguments."""
    namespaced: bool
    area: Area
    operator: bool
    """May operators write it through the API? The others are written by the control plane itself."""
    short: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Other apiVersions with the same fields, which are taken as ours."""
    kubernetes: bool = False
    """Its manifests also come from clusters: their bookkeeping (managedFields and such) is dropped."""
    strict_readers: bool = False
    """A spec with a field that a reader does not know is undecodable to it. For kinds that restrict access: what is
    dropped from a rule makes it wider."""

    @property
    def api_version(self) -> str:
        fixed = next(f.default for f in msgspec.structs.fields(self.struct) if f.name == "api_version")
        return str(fixed)


KINDS: dict[str, Kind] = {
    "Service": Kind(Service, "services", True, "objects", True, ("svc",)),
    "Namespace": Kind(Namespace, "namespaces", False, "objects", True, ("ns",)),
    "MeshConfig": Kind(MeshConfig, "meshconfigs", False, "objects", True),
    "AuthorizationPolicy": Kind(
        AuthorizationPolicy, "authorizationpolicies", True, "objects", True, ("authz",), strict_readers=True
    ),
    "HTTPRoute": Kind(HTTPRoute, "httproutes", True, "objects", True, also=(f"{GROUP}/v1beta1",), kubernetes=True),
    "GRPCRoute": Kind(GRPCRoute, "grpcroutes", True, "objects", True, kubernetes=True),
    "TCPRoute": Kind(TCPRoute, "tcproutes", True, "objects", True, also=(f"{GROUP}/v1alpha2",), kubernetes=True),
    "ReferenceGrant": Kind(
        ReferenceGrant, "referencegrants", True, "objects", True, ("refgrant",), (f"{GROUP}/v1beta1",), kubernetes=True
    ),
    "TrafficPolicy": Kind(TrafficPolicy, "trafficpolicies", True, "objects", True, ("tp",)),
    "ExternalService": Kind(ExternalService, "externalservices", True, "objects", True, ("ext",)),
    "Peering": Kind(Peering, "peerings", False, "objects", True, ("peer",)),
    "ExportPolicy": Kind(ExportPolicy, "exportpolicies", True, "objects", True, ("export",)),
    "ImportedService": Kind(ImportedService, "importedservices", True, "imports", False, ("import",)),
    "Node": Kind(Node, "nodes", False, "private", True),
    "Instance": Kind(Instance, "instances", True, "private", False, ("inst",)),
    "Endpoint": Kind(Endpoint, "endpoints", True, "endpoints", False, ("ep",)),
    "TrustBundle": Kind(TrustBundle, "trustbundles", False, "bundles", False),
}


def kind_named(word: str) -> str | None:
    """The kind meant by a word an operator typed: the kind, its plural or singular in any case, or a short name."""
    folded = word.casefold()
    for name, kind in KINDS.items():
        if folded in {name.casefold(), kind.plural, *kind.short}:
            return name
    return None
