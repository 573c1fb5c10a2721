"""Kind -> everything the rest of the house must know of it. A new kind is one file and one row here."""

from typing import Literal, NamedTuple

import msgspec

from mesh.model.authorization import AuthorizationPolicy
from mesh.model.base import Object
from mesh.model.core import MeshConfig, Namespace, Node, TrustBundle
from mesh.model.instance import Endpoint, Instance
from mesh.model.service import Service

Area = Literal["objects", "endpoints", "bundles", "private"]
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
