"""World: all that one agent (or `plan`, or `explain`) knows of the mesh at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mesh.model.base import Frozen, Object, Ref, Revision, ServiceRef
from mesh.model.core import MeshConfig, TrustBundle
from mesh.model.instance import Endpoint
from mesh.model.service import Service


class Commit(Frozen, frozen=True, kw_only=True):
    """What the last control-plane transaction declares of itself; kept at keys.COMMIT."""

    author: str
    deleted: int = 0
    """Keys deleted in this transaction."""


class Deletions(Frozen, frozen=True, kw_only=True):
    """Running total of keys deleted by declared transactions; kept at keys.DELETIONS."""

    total: int = 0


@dataclass(frozen=True, slots=True)
class Upserted:
    """An object, or an endpoint, has this value now."""

    object: Object
    revision: Revision


@dataclass(frozen=True, slots=True)
class Removed:
    """An object is gone."""

    ref: Ref


@dataclass(frozen=True, slots=True)
class EndpointRemoved:
    service: ServiceRef
    instance: str


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A value that no reader understands. What was known under this key before stays in force."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class EpochChanged:
    """The store was initialised or restored."""

    epoch: str


Change = Upserted | Removed | EndpointRemoved | Undecodable | EpochChanged

Endpoints = Mapping[str, Endpoint]
"""Instance name -> endpoint, of one Service."""

_NONE: Mapping[str, Endpoint] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class World:
    """Immutable. `apply` shares whatever did not change, so its cost is that of the change, not of the world.

    `objects` keeps its identity (`is`) while no object changes, and so does each Service's endpoint map: compile's
    caches rely on it.
    """

    revision: Revision = Revision(0)
    """Everything up to it has been seen, in the range that changed last."""
    epoch: str = ""
    objects: Mapping[Ref, Object] = field(default_factory=lambda: MappingProxyType({}))
    """Kinds of areas `objects` and `bundles`."""
    endpoints: Mapping[ServiceRef, Endpoints] = field(default_factory=lambda: MappingProxyType({}))
    undecodable: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Key -> reason."""

    def apply(self, changes: Iterable[Change], revision: Revision) -> "World":
        """The world after these changes."""
        objects: dict[Ref, Object] | None = None
        services: dict[ServiceRef, Endpoints] | None = None
        bad: dict[str, str] | None = None
        touched: dict[ServiceRef, dict[str, Endpoint]] = {}
        epoch = self.epoch

        def of(service: ServiceRef) -> dict[str, Endpoint]:
            if service not in touched:
                touched[service] = dict(self.endpoints.get(service, _NONE))
            return touched[service]

        for change in changes:
            match change:
                case Upserted(Endpoint() as endpoint):
                    meta = endpoint.metadata
                    of(ServiceRef(meta.namespace, endpoint.spec.service))[meta.name] = endpoint
                case Upserted(obj):
                    objects = dict(self.objects) if objects is None else objects
                    objects[obj.ref] = obj
                case Removed(ref):
                    objects = dict(self.objects) if objects is None else objects
                    objects.pop(ref, None)
                case EndpointRemoved(service, instance):
                    of(service).pop(instance, None)
                case Undecodable(key, reason):
                    bad = dict(self.undecodable) if bad is None else bad
                    bad[key] = reason
                case EpochChanged(epoch):
                    pass
        if touched:
            services = dict(self.endpoints)
            for service, known in touched.items():
                if known:
                    services[service] = MappingProxyType(known)
                else:
                    services.pop(service, None)
        return replace(
            self,
            revision=revision,
            epoch=epoch,
            objects=self.objects if objects is None else MappingProxyType(objects),
            endpoints=self.endpoints if services is None else MappingProxyType(services),
            undecodable=self.undecodable if bad is None else MappingProxyType(bad),
        )

    def service(self, ref: ServiceRef) -> Service | None:
        found = self.objects.get(Ref("Service", ref.namespace, ref.name))
        return found if isinstance(found, Service) else None

    @property
    def config(self) -> MeshConfig | None:
        found = self.objects.get(Ref("MeshConfig", "", "default"))
        return found if isinstance(found, MeshConfig) else None

    def bundle(self, trust_domain: str) -> TrustBundle | None:
        found = self.objects.get(Ref("TrustBundle", "", trust_domain))
        return found if isinstance(found, TrustBundle) else None
