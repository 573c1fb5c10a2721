"""All that a control-plane node knows of the mesh, in memory: what registration and the leader's plans are made from.

The maps are fed by one follower (`controlplane.mirror`) and are as new as the last event. Nothing is decided by them
alone: whoever writes compares the revisions that were read here, so a stale view costs a retry and never a wrong write.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ca import joins
from controlplane.peered import PeerRecord
from controlplane.touched import Touched
from mesh import codec, keys
from mesh.model import (
    CLUSTER_SINGLETON,
    GATEWAY,
    GATEWAY_SERVICE,
    Endpoint,
    ExportPolicy,
    Frozen,
    ImportedService,
    Instance,
    MeshConfig,
    Node,
    Object,
    Peering,
    Ref,
    Revision,
    Service,
    ServiceRef,
    TrustBundle,
)
from mesh.model.reach import canonical
from mesh.model.world import Change, EndpointRemoved, Removed, Undecodable, Upserted
from mesh.store.protocol import Event

OBJECTS = (keys.OBJECTS, keys.ENDPOINTS, keys.BUNDLES, keys.IMPORTS, keys.PRIVATE_OBJECTS)

O_co = TypeVar("O_co", bound=Object, covariant=True)


class Held(NamedTuple, Generic[O_co]):
    """An object and the revision of its last change."""

    object: O_co
    revision: Revision


_GATEWAYS: Held[Service] = Held(GATEWAY_SERVICE, Revision(0))
"""Nobody writes it; what is written under its name is refused (mesh.model.service)."""


class Bad(NamedTuple):
    """A value that cannot be read. What was known under its key before stays in force."""

    reason: str
    revision: Revision


class Presence(Frozen, frozen=True, kw_only=True):
    """What one replica tells the others: kept at keys.REPLICAS/<replica> under its lease."""

    replica: str
    advertise: str
    version: str = ""
    connected: tuple[str, ...] = ()
    """Nodes whose uplink is open here."""
    intermediate_end: float = 0.0
    """Unix seconds: until when it can issue without its signer. 0: not told yet."""
    signer_fault: str = ""
    """Why its signer would not sign, when it was last asked."""
    left: dict[str, float] = {}
    """Nodes that were cut or closed lately -> seconds of silence when this was written. Durations, so that no two
    clocks are ever compared."""


class Expiring(Frozen, frozen=True, kw_only=True):
    """The one field that the records of join tokens, joins and operators share."""

    expires: float
    """Unix seconds."""


class View:
    """Mutable, owned by one loop; no method awaits, so every reader sees whole revisions."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Held[Object]] = {}
        """Every kind but Service, Instance and Endpoint."""
        self.services: dict[ServiceRef, Held[Service]] = {GATEWAY: _GATEWAYS}
        """That of the gateways is always there."""
        self.instances: dict[Ref, Held[Instance]] = {}
        self.endpoints: dict[ServiceRef, dict[str, Held[Endpoint]]] = {}
        self.imported: dict[str, dict[str, Held[Object]]] = {}
        """Peer -> key -> what was imported of it. Its ImportedServices are in `objects`, too."""
        self.policies: dict[Ref, ExportPolicy] = {}
        self.peers: dict[str, PeerRecord] = {}
        self.epoch = ""
        self.replicas: dict[str, Presence] = {}
        self._tokens: dict[str, float] = {}
        """Key of a join token's or operator's record -> when it expires."""
        self._joins: dict[str, float] = {}
        """Node -> moment of its last join (ca.joins)."""
        self.bad: dict[str, Bad] = {}
        """By key."""
        self.revision = Revision(0)
        self._by_selector: dict[str, set[ServiceRef]] = {}
        self._in_namespace: dict[str, set[Ref]] = {}
        self._on_node: dict[str, set[Ref]] = {}
        self._at_address: dict[str, set[str]] = {}
        """Address -> nodes."""
        self._endpoints_of: dict[tuple[str, str], set[ServiceRef]] = {}
        self._lost: Counter[str] = Counter()
        """Node -> how many of its endpoints are marked lost. Counted as they come, for it is asked at every event."""

    @property
    def config(self) -> MeshConfig | None:
        held = self.objects.get(Ref("MeshConfig", "", CLUSTER_SINGLETON))
        return held.object if held and isinstance(held.object, MeshConfig) else None

    @property
    def written_services(self) -> int:
        """How many Services somebody wrote."""
        return sum(held is not _GATEWAYS for held in self.services.values())

    def revision_of(self, key: str, held: Held[Object] | None) -> Revision:
        """What a write to this key must compare: that of the value in the store, readable or not; 0: absent."""
        bad = self.bad.get(key)
        return bad.revision if bad else held.revision if held else Revision(0)

    def node(self, name: str) -> Held[Node] | None:
        held = self.objects.get(Ref("Node", "", name))
        return Held(held.object, held.revision) if held and isinstance(held.object, Node) else None

    def joined(self, node: str) -> float:
        """Certificates of this node that were issued before are void; all of them, if it cannot be read when it was."""
        return self._joins.get(node, 0.0)

    def knows_token(self, key: str, now: float) -> bool:
        """Is there a token with this key, not expired, as far as this replica has heard?"""
        return self._tokens.get(key, now) > now

    def holder(self, address: str, node: str) -> str:
        """Another node of this address that is connected at some replica, and not evicted; empty: none is."""
        for name in sorted(self._at_address.get(canonical(address), ())):
            held = self.node(name)
            if name == node or held is None or held.object.spec.evicted:
                continue
            if any(name in presence.connected for presence in self.replicas.values()):
                return name
        return ""

    def instances_on(self, node: str) -> list[Held[Instance]]:
        return [self.instances[ref] for ref in sorted(self._on_node.get(node, ()))]

    def instances_in(self, namespace: str) -> list[Held[Instance]]:
        return [self.instances[ref] for ref in sorted(self._in_namespace.get(namespace, ()))]

    def addresses(self) -> frozenset[str]:
        """Of this cluster's hosts, and of control-plane nodes that are named by theirs."""
        nodes = (canonical(urlsplit(presence.advertise).hostname or "") for presence in self.replicas.values())
        return frozenset(self._at_address).union(nodes)

    def nodes_with_instances(self) -> Iterator[str]:
        return iter(self._on_node)

    def bundle(self, trust_domain: str) -> TrustBundle | None:
        held = self.objects.get(Ref("TrustBundle", "", trust_domain))
        return held.object if held and isinstance(held.object, TrustBundle) else None

    def peering(self, name: str) -> Peering | None:
        held = self.objects.get(Ref("Peering", "", name))
        return held.object if held and isinstance(held.object, Peering) else None

    def peerings(self) -> list[Peering]:
        return [held.object for held in self.objects.values() if isinstance(held.object, Peering)]

    def configured(self) -> dict[Ref, Object]:
        """All that operators wrote, as proxies see it."""
        known = {ref: held.object for ref, held in self.objects.items()}
        return known | {held.object.ref: held.object for held in self.services.values() if held is not _GATEWAYS}

    def marked_lost(self) -> frozenset[str]:
        """Nodes with an endpoint that the leader marked as lost."""
        return frozenset(self._lost)

    def candidates(self, instance: Instance) -> list[Held[Service]]:
        """Services that may select it: the one of its name, and those of its namespace with a selector."""
        namespace = instance.metadata.namespace
        names = {ServiceRef(namespace, instance.spec.service), *self._by_selector.get(namespace, ())}
        return [self.services[name] for name in sorted(names) if name in self.services]

    def endpoints_of(self, instance: Ref) -> dict[ServiceRef, Held[Endpoint]]:
        """Where this instance is an endpoint now."""
        services = self._endpoints_of.get((instance.namespace, instance.name), set())
        return {service: self.endpoints[service][instance.name] for service in sorted(services)}

    def apply(self, events: Iterable[Event], revision: Revision) -> Touched:
        """Take in one batch. A value that cannot be read keeps what was known before."""
        touched = Touched()
        for event in events:
            if event.key.startswith(keys.REPLICAS):
                self._take_replica(event, touched)
            elif event.key.startswith(keys.JOINS):
                self._take_join(event, touched)
            elif event.key.startswith((keys.TOKENS, keys.OPERATORS, keys.PEERING_TOKENS)):
                self._take_token(event)
            elif event.key.startswith(keys.PEERS):
                self._take_peer(event)
            elif event.key == keys.EPOCH:
                self.epoch = codec.epoch(event.value) if event.value else ""
            elif event.key.startswith(OBJECTS):
                self._take(event, touched)
        self.revision = Revision(max(self.revision, revision))
        return touched

    def _take(self, event: Event, touched: Touched) -> None:
        for change in codec.changes((event,)):
            if isinstance(change, Undecodable):
                self.bad[event.key] = Bad(change.reason, event.revision)
                continue
            self.bad.pop(event.key, None)
            if event.key.startswith(keys.IMPORTS):
                self._set_imported(event, change, touched)
                continue
            match change:
                case Upserted(Endpoint() as endpoint):
                    held = Held(endpoint, event.revision)
                    self._set_endpoint(endpoint.service, endpoint.metadata.name, held, touched)
                case EndpointRemoved(service, instance):
                    self._set_endpoint(service, instance, None, touched)
                case Upserted(obj):
                    self._set_object(obj.ref, obj, event.revision, touched)
                case Removed(ref):
                    self._set_object(ref, None, event.revision, touched)
                case _:
                    pass

    def _set_imported(self, event: Event, change: Change, touched: Touched) -> None:
        """Apart from our own endpoints: none of what the leader does to those may happen to these."""
        peer = event.key.removeprefix(keys.IMPORTS).partition("/")[0]
        touched.imports.add(peer)
        of_peer = self.imported.setdefault(peer, {})
        before = of_peer.pop(event.key, None)
        if before and isinstance(before.object, ImportedService):
            self.objects.pop(before.object.ref, None)
        if isinstance(change, Upserted):
            of_peer[event.key] = held = Held(change.object, event.revision)
            if isinstance(held.object, ImportedService):
                self.objects[held.object.ref] = held
        if not of_peer:
            del self.imported[peer]

    def _take_peer(self, event: Event) -> None:
        name = event.key.removeprefix(keys.PEERS)
        self.peers.pop(name, None)
        if event.value is not None:
            with contextlib.suppress(codec.Undecodable):  # as good as none: it is written anew
                self.peers[name] = codec.decode_struct(PeerRecord, event.value)

    def _set_endpoint(self, service: ServiceRef, instance: str, held: Held[Endpoint] | None, touched: Touched) -> None:
        of_service = self.endpoints.setdefault(service, {})
        back = (service.namespace, instance)
        self._count_lost(of_service.get(instance), -1)
        self._count_lost(held, 1)
        if held:
            of_service[instance] = held
            self._endpoints_of.setdefault(back, set()).add(service)
        else:
            of_service.pop(instance, None)
            _discard(self._endpoints_of, back, service)
        if not of_service:
            del self.endpoints[service]
        touched.instances.add(Ref("Instance", service.namespace, instance))
        touched.endpoints.add(service)

    def _count_lost(self, held: Held[Endpoint] | None, step: int) -> None:
        if held and held.object.spec.health == "lost":
            self._lost[held.object.spec.node] += step
            if not self._lost[held.object.spec.node]:
                del self._lost[held.object.spec.node]

    def _set_object(self, ref: Ref, obj: Object | None, revision: Revision, touched: Touched) -> None:
        match ref.kind:
            case "Service":
                self._set_service(ServiceRef(ref.namespace, ref.name), obj, revision, touched)
            case "Instance":
                self._set_instance(ref, obj, revision, touched)
            case _:
                before = self.objects.pop(ref, None)
                if obj is not None:
                    self.objects[ref] = Held(obj, revision)
                touched.config |= ref.kind == "MeshConfig"
                touched.bundles |= ref.kind == "TrustBundle"
                touched.peerings |= ref.kind in {"Peering", "ExportPolicy"}
                self.policies.pop(ref, None)
                if isinstance(obj, ExportPolicy):
                    self.policies[ref] = obj
                if ref.kind == "Node":
                    touched.nodes.add(ref.name)
                    self._index_address(ref.name, before.object if before else None, obj)

    def _index_address(self, name: str, before: Object | None, after: Object | None) -> None:
        if isinstance(before, Node):
            _discard(self._at_address, canonical(before.spec.address), name)
        if isinstance(after, Node):
            self._at_address.setdefault(canonical(after.spec.address), set()).add(name)

    def _set_service(self, name: ServiceRef, service: Object | None, revision: Revision, touched: Touched) -> None:
        touched.services.add(name)
        _discard(self._by_selector, name.namespace, name)
        if isinstance(service, Service):
            self.services[name] = Held(service, revision)
            if service.spec.selector:
                self._by_selector.setdefault(name.namespace, set()).add(name)
        elif name == GATEWAY:
            self.services[name] = _GATEWAYS
        else:
            self.services.pop(name, None)

    def _set_instance(self, ref: Ref, instance: Object | None, revision: Revision, touched: Touched) -> None:
        before = self.instances.pop(ref, None)
        touched.instances.add(ref)
        if isinstance(instance, Instance):
            self.instances[ref] = Held(instance, revision)
            self._in_namespace.setdefault(ref.namespace, set()).add(ref)
        elif before:
            _discard(self._in_namespace, ref.namespace, ref)
        node = instance.spec.node if isinstance(instance, Instance) else ""
        left = before.object.spec.node if before else ""
        if node == left:
            return
        touched.nodes |= {name for name in (node, left) if name}
        if left:
            _discard(self._on_node, left, ref)
        if node:
            self._on_node.setdefault(node, set()).add(ref)

    def _take_replica(self, event: Event, touched: Touched) -> None:
        name = event.key.removeprefix(keys.REPLICAS)
        touched.replicas = True
        if event.value is None:
            self.replicas.pop(name, None)
            self.bad.pop(event.key, None)
            return
        try:
            self.replicas[name] = codec.decode_struct(Presence, event.value)
            self.bad.pop(event.key, None)
        except codec.Undecodable as exc:
            self.bad[event.key] = Bad(str(exc), event.revision)

    def _take_token(self, event: Event) -> None:
        self._tokens.pop(event.key, None)
        if event.value is not None:
            with contextlib.suppress(codec.Undecodable):  # as good as none
                self._tokens[event.key] = codec.decode_struct(Expiring, event.value).expires

    def _take_join(self, event: Event, touched: Touched) -> None:
        """One that cannot be read lets nobody in: what was known before may be of a host that is gone."""
        node, moment = event.key.removeprefix(keys.JOINS), joins.since(event.value)
        touched.nodes.add(node)
        self._joins[node] = moment
        self.bad.pop(event.key, None)
        if event.value is None:
            del self._joins[node]
        elif moment == math.inf:
            self.bad[event.key] = Bad("it does not say when the node joined", event.revision)


def roots_of(view: View, peering: Peering) -> frozenset[str]:
    """What a peer is believed by now."""
    bundle = view.bundle(peering.spec.trust_domain)
    return frozenset(bundle.spec.roots if bundle else ())


K = TypeVar("K")
V = TypeVar("V")


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    found = index.get(key)
    if found is not None:
        found.discard(value)
        if not found:
            del index[key]
