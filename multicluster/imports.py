"""What of a peer's offer is taken. Pure.

All of it is untrusted. An item is refused by itself, with a reason, and nothing else of the offer suffers. What is
taken has its place under imports/<peer>/ by construction: the peer says only namespace, service and endpoint, and each
is a DNS label, so it can neither name another peer's place nor anything of ours. Bounds on names and sizes keep what is
stored small; bounds on counts keep it few.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from mesh import keys
from mesh.model import (
    Endpoint,
    EndpointSpec,
    ImportedService,
    ImportedServiceSpec,
    Metadata,
    Object,
    ServicePort,
    ServiceRef,
    Violation,
)
from mesh.model.checks import MAX_INSTANCE_NAME, at, label_fault, shown
from mesh.model.reach import Reach
from multicluster import wire

MAX_PORTS = 32
MAX_ACCOUNTS = 64
MAX_ENDPOINTS = 50_000
"""Of one peer: each costs memory in every control-plane node, and room in the store."""
MAX_WEIGHT = 10_000


class Peer(NamedTuple):
    """Who speaks, and how much it may say."""

    cluster: str
    trust_domain: str
    max_services: int
    reach: Reach = Reach()
    """Where its endpoints may be."""


@dataclass(slots=True)
class Holding:
    """What is held of a peer: the store's key -> object, and what of it counts against limits."""

    objects: dict[str, Object] = field(default_factory=dict)
    services: set[ServiceRef] = field(default_factory=set)
    endpoints: dict[ServiceRef, set[str]] = field(default_factory=dict)
    """Names of each one's endpoints."""
    total: int = 0
    """Of all of them."""

    @classmethod
    def of(cls, objects: Mapping[str, Object]) -> "Holding":
        made = cls()
        for key, obj in objects.items():
            made.put(key, obj)
        return made

    def put(self, key: str, obj: Object) -> None:
        self.objects[key] = obj
        if isinstance(obj, ImportedService):
            self.services.add(obj.service)
        elif isinstance(obj, Endpoint):
            names = self.endpoints.setdefault(obj.service, set())
            self.total += obj.metadata.name not in names
            names.add(obj.metadata.name)

    def drop(self, key: str) -> None:
        obj = self.objects.pop(key, None)
        if isinstance(obj, ImportedService):
            self.services.discard(obj.service)
        elif isinstance(obj, Endpoint):
            names = self.endpoints.get(obj.service, set())
            self.total -= obj.metadata.name in names
            names.discard(obj.metadata.name)
            if not names:
                self.endpoints.pop(obj.service, None)

    def digests(self, reach: Reach | None = None) -> dict[str, str]:
        """The same set as the exporter names it: item's key -> digest.

        Without what may not be there any more: so it is offered anew, and then refused and taken away.
        """
        held = (obj for obj in self.objects.values() if reach is None or not any(_astray(obj, reach)))
        return {item_key(obj): wire.digest(wire.encode(offered(obj))) for obj in held}


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes of the store, by its keys. What is as it should be is in none of them."""

    create: Mapping[str, Object]
    update: Mapping[str, Object]
    delete: tuple[str, ...]
    rejected: Mapping[str, str]
    """Item's key -> why it is not taken."""


def plan(holding: Holding, peer: Peer, put: Iterable[tuple[str, bytes]], gone: Sequence[str]) -> Plan:
    """What an offer changes. The holding becomes what it is once the plan is written."""
    create: dict[str, Object] = {}
    update: dict[str, Object] = {}
    delete: dict[str, None] = {}
    rejected: dict[str, str] = {}

    def drop(key: str) -> None:
        if create.pop(key, None) is None and key in holding.objects:
            delete[key] = None
        update.pop(key, None)
        holding.drop(key)

    for item in gone:
        for key in _all_of(holding, peer, item):
            drop(key)
    # A service before its endpoints, whatever order the peer chose.
    for item, raw in sorted(put, key=lambda one: one[0].startswith(wire.ENDPOINTS)):
        found = read(peer, item, raw)
        if isinstance(found, str) or (fault := _room(holding, peer, found)):
            rejected[item] = found if isinstance(found, str) else fault
            # An old value of what is refused now would be neither what the peer says nor what we checked.
            for key in _all_of(holding, peer, item):
                drop(key)
            continue
        key = key_of(found)
        before = holding.objects.get(key)
        if before == found:
            continue
        (update if key not in create and (before is not None or key in delete) else create)[key] = found
        delete.pop(key, None)
        holding.put(key, found)
    return Plan(create, update, tuple(delete), rejected)


def _all_of(holding: Holding, peer: Peer, item: str) -> list[str]:
    """Keys of an item that goes; with a service its endpoints, for none may stay without it."""
    place = _place(item)
    if isinstance(place, str):
        return []
    ref = ServiceRef(place.namespace, f"{place.service}.{peer.cluster}")
    if place.name:
        return [keys.endpoints_of(ref) + place.name]
    names = sorted(holding.endpoints.get(ref, ()))
    return [*(keys.endpoints_of(ref) + name for name in names), _service_key(ref)]


def _room(holding: Holding, peer: Peer, obj: ImportedService | Endpoint) -> str:
    """Why there is no room for one more; empty if there is."""
    if isinstance(obj, ImportedService):
        if obj.service not in holding.services and len(holding.services) >= peer.max_services:
            return f"{peer.max_services} services of this peer are here already (spec.maxServices of its Peering)"
        return ""
    if obj.service not in holding.services:
        return "its service is not imported"
    names = holding.endpoints.get(obj.service, set())
    if obj.metadata.name in names:
        return ""
    if len(names) >= wire.MAX_ENDPOINTS_EACH:
        return f"its service has {wire.MAX_ENDPOINTS_EACH} endpoints already"
    return f"{MAX_ENDPOINTS} endpoints of this peer are here already" if holding.total >= MAX_ENDPOINTS else ""


class _Place(NamedTuple):
    namespace: str
    service: str
    name: str
    """Of the endpoint; empty: it is the service itself."""


def _place(item: str) -> _Place | str:
    """What an item's key names, or what is wrong with it."""
    if len(item) > wire.MAX_KEY_CHARS:
        return "its name is too long"
    match item.split("/"):
        case ["services", namespace, service]:
            place = _Place(namespace, service, "")
        case ["endpoints", namespace, service, name] if name:
            place = _Place(namespace, service, name)
        case _:
            return f"{shown(item)} names neither a service nor an endpoint"
    fault = label_fault(place.namespace) or label_fault(place.service)
    return fault or (place.name and label_fault(place.name, MAX_INSTANCE_NAME)) or place


def read(peer: Peer, item: str, raw: bytes) -> ImportedService | Endpoint | str:
    """The object for an item, checked by itself; or why it is refused."""
    place = _place(item)
    if isinstance(place, str):
        return place
    if len(raw) > wire.MAX_VALUE_BYTES:
        return f"it has {len(raw)} bytes; at most {wire.MAX_VALUE_BYTES} are taken"
    try:
        if place.name:
            obj: ImportedService | Endpoint = _endpoint(
                peer, place, msgspec.json.decode(raw, type=wire.OfferedEndpoint)
            )
        else:
            obj = _service(peer, place, msgspec.json.decode(raw, type=wire.OfferedService))
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as exc:
        return f"it cannot be read: {str(exc)[:200]}"
    # A dot is in the service's name by our own doing.
    faults = [
        *_excess(obj),
        *_astray(obj, peer.reach),
        *(fault for fault in obj.check({}) if fault.path != "spec.service"),
    ]
    return "; ".join(f"{fault.path}: {fault.reason}" for fault in faults[:3]) or obj


def _excess(obj: ImportedService | Endpoint) -> Iterable[Violation]:
    """What a cluster may do with its own, and a peer may not do to us."""
    ports: Sequence[object] = obj.spec.ports
    if len(ports) > MAX_PORTS:
        yield Violation(path="ports", reason=f"{len(ports)} of them; at most {MAX_PORTS} are taken")
    if isinstance(obj, ImportedService):
        if len(obj.spec.service_accounts) > MAX_ACCOUNTS:
            yield Violation(path="accounts", reason=f"at most {MAX_ACCOUNTS} are taken")
        return
    if not 1 <= obj.spec.weight <= MAX_WEIGHT:
        yield Violation(path="weight", reason=f"is not in 1 to {MAX_WEIGHT}")


def _astray(obj: Object, reach: Reach) -> Iterable[Violation]:
    """Where no proxy of ours is to connect, because a peer says so."""
    return at("address", reach.fault(obj.spec.address)) if isinstance(obj, Endpoint) else ()


def _service(peer: Peer, place: _Place, said: wire.OfferedService) -> ImportedService:
    return ImportedService(
        metadata=Metadata(name=f"{place.service}.{peer.cluster}", namespace=place.namespace),
        spec=ImportedServiceSpec(
            service=place.service,
            cluster=peer.cluster,
            trust_domain=peer.trust_domain,
            ports=tuple(ServicePort(port=p.port, name=p.name, protocol=p.protocol) for p in said.ports),
            service_accounts=said.accounts,
            cut=said.cut,
        ),
    )


def _endpoint(peer: Peer, place: _Place, said: wire.OfferedEndpoint) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=place.name, namespace=place.namespace),
        spec=EndpointSpec(
            service=f"{place.service}.{peer.cluster}",
            node=said.node,
            address=said.address,
            port=said.port,
            service_account=said.account,
            ports=said.ports,
            health=said.health,
            weight=said.weight,
            locality=said.locality,
        ),
    )


def key_of(obj: Object) -> str:
    """Where it is kept."""
    if isinstance(obj, Endpoint):
        return keys.endpoints_of(obj.service) + keys.part(obj.metadata.name)
    assert isinstance(obj, ImportedService)
    return _service_key(obj.service)


def _service_key(ref: ServiceRef) -> str:
    return f"{keys.imported_services_of(ref.peer)}{keys.part(ref.namespace)}/{keys.part(ref.short)}"


def item_key(obj: Object) -> str:
    """How its exporter calls it."""
    if isinstance(obj, Endpoint):
        return wire.endpoint_key(obj.service, obj.metadata.name)
    assert isinstance(obj, ImportedService)
    return wire.service_key(obj.service)


def offered(obj: Object) -> msgspec.Struct:
    """What its exporter said, of what was made of it: the inverse of `read`."""
    if isinstance(obj, Endpoint):
        spec = obj.spec
        return wire.OfferedEndpoint(
            node=spec.node,
            address=spec.address,
            port=spec.port,
            account=spec.service_account,
            ports=spec.ports,
            health="unhealthy" if spec.health == "lost" else spec.health,
            weight=spec.weight,
            locality=spec.locality,
        )
    assert isinstance(obj, ImportedService)
    ports = tuple(wire.OfferedPort(port=p.port, name=p.name, protocol=p.protocol) for p in obj.spec.ports)
    return wire.OfferedService(ports=ports, accounts=obj.spec.service_accounts, cut=obj.spec.cut)
