"""World: all that one agent (or `plan`, or `explain`) knows of the mesh at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from mesh.model.base import Frozen, Object, Ref, Revision, ServiceRef
from mesh.model.core import MeshConfig, TrustBundle
from mesh.model.instance import Endpoint
from mesh.model.service import Service

K = TypeVar("K")
V = TypeVar("V")


class Commit(Frozen, frozen=True, kw_only=True):
    """What the last control-plane transaction declares of itself; kept at keys.COMMIT."""

    author: str
    deleted: int = 0
    """Keys deleted in this transaction."""
    withdrawn: dict[str, int] = {}
    """Peer -> how many of them are of its imports."""

    def deleted_of(self, peer: str) -> int:
        """Of a peer's imports; of an empty name: of everything else."""
        return self.withdrawn.get(peer, 0) if peer else self.deleted - sum(self.withdrawn.values())


class Deletions(Frozen, frozen=True, kw_only=True):
    """Running total of keys deleted by declared transactions; kept at keys.total_of(peer)."""

    total: int = 0


@dataclass(frozen=True, slots=True)
class Upserted:
    """An object, or an endpoint, has this value now."""

    object: Object
    revision: Revision
    key: str = ""
    """The store's key, where it came from one: an Undecodable under this key is over."""


@dataclass(frozen=True, slots=True)
class Removed:
    """An object is gone."""

    ref: Ref
    key: str = ""


@dataclass(frozen=True, slots=True)
class EndpointRemoved:
    service: ServiceRef
    instance: str
    key: str = ""


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
    endpoints_before: Mapping[ServiceRef, Endpoints] | None = field(default=None, repr=False, compare=False)
    touched: frozenset[ServiceRef] = field(default=frozenset(), repr=False, compare=False)
    """Services whose endpoints may differ between `endpoints_before` and `endpoints`: whoever knows the former need not
    compare all of them."""

    def apply(self, changes: Iterable[Change], revision: Revision) -> "World":
        """The world after these changes."""
        draft = _Draft(self)
        for change in changes:
            draft.take(change)
        return draft.finish(revision)

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


class _Draft:
    """The next World in the making: a map is copied when the first change touches it, and only then."""

    def __init__(self, base: World) -> None:
        self._base = base
        self._epoch = base.epoch
        self._objects: dict[Ref, Object] | None = None
        self._bad: dict[str, str] | None = None
        self._touched: dict[ServiceRef, dict[str, Endpoint]] = {}

    def take(self, change: Change) -> None:
        match change:
            case Upserted(Endpoint() as endpoint):
                self._endpoints(endpoint.service)[endpoint.metadata.name] = endpoint
            case Upserted(obj):
                self._writable()[obj.ref] = obj
            case Removed(ref):
                if ref in (self._base.objects if self._objects is None else self._objects):
                    del self._writable()[ref]
            case EndpointRemoved(service, instance):
                if instance in self._touched.get(service, self._base.endpoints.get(service, _NONE)):
                    del self._endpoints(service)[instance]
            case EpochChanged(epoch):
                self._epoch = epoch
            case Undecodable(key, reason):
                self._note(key, reason)
        if isinstance(change, Upserted | Removed | EndpointRemoved):
            self._note(change.key, None)

    def finish(self, revision: Revision) -> World:
        base = self._base
        return World(
            revision=revision,
            epoch=self._epoch,
            objects=base.objects if self._objects is None else MappingProxyType(self._objects),
            endpoints=self._services() if self._touched else base.endpoints,
            undecodable=base.undecodable if self._bad is None else MappingProxyType(self._bad),
            endpoints_before=base.endpoints if self._touched else base.endpoints_before,
            touched=frozenset(self._touched) if self._touched else base.touched,
        )

    def _writable(self) -> dict[Ref, Object]:
        if self._objects is None:
            self._objects = _copy(self._base.objects)
        return self._objects

    def _endpoints(self, service: ServiceRef) -> dict[str, Endpoint]:
        if service not in self._touched:
            self._touched[service] = _copy(self._base.endpoints.get(service, _NONE))
        return self._touched[service]

    def _services(self) -> Mapping[ServiceRef, Endpoints]:
        services = _copy(self._base.endpoints)
        for service, known in self._touched.items():
            if known:
                services[service] = MappingProxyType(known)
            else:
                services.pop(service, None)
        return MappingProxyType(services)

    def _note(self, key: str, reason: str | None) -> None:
        """Remember that a key is undecodable, or (None) that it no longer is."""
        known = self._base.undecodable if self._bad is None else self._bad
        if known.get(key) == reason:
            return
        if self._bad is None:
            self._bad = _copy(known)
        if reason is None:
            del self._bad[key]
        else:
            self._bad[key] = reason


def _copy(mapping: Mapping[K, V]) -> dict[K, V]:
    # A proxy's own copy() is dict.copy(), far faster than dict(proxy), and on the path of every endpoint change.
    return mapping.copy() if isinstance(mapping, MappingProxyType) else dict(mapping)
