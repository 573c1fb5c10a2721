"""Which routes are for whom, and where their backends are: Gateway API's rules for meshes (GEP-1294), over objects.

    Attached(objects)      routes by the Service that they hang on
      .apply(caller, ...)  those that count for one caller and one port, and why others do not
    resolve(...)           a backend's Service and port, or the reason why nothing can be sent there

Used by `project` for a host, and by whoever tells an operator what became of a route. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from mesh.compile.roots import certificates
from mesh.model import (
    ExternalPort,
    ExternalService,
    GRPCRoute,
    HTTPRoute,
    ImportedService,
    Object,
    Peering,
    Ref,
    ReferenceGrant,
    Service,
    ServicePort,
    ServiceRef,
    TCPRoute,
    TrafficPolicy,
    TrustBundle,
)
from mesh.model.checks import imported_name_fault, label_fault, port_fault, shown
from mesh.model.policyspec import Subset, TrafficPolicySpec
from mesh.model.routing import EXTERNAL, IMPORTED, SUBSET, BackendRef, ParentRef

AnyRoute = HTTPRoute | GRPCRoute | TCPRoute

Reason = Literal["InvalidKind", "BackendNotFound", "RefNotPermitted", "UnsupportedProtocol"]
"""Why a backend cannot be sent to, in the specification's words (RouteConditionReason)."""

RANK = ("GRPCRoute", "HTTPRoute", "TCPRoute")
"""Of several kinds on one port, the first counts (GEP-1294, route types)."""

_HTTP = frozenset({"http", "http2", "grpc"})


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A backend that cannot be sent to."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Resolved:
    service: Service | ImportedService | ExternalService
    port: ServicePort | ExternalPort
    subset: str = ""
    """Only those of its endpoints that a policy has under this name; empty: all."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The routes for one caller and one port: of one kind, by precedence, the oldest first."""

    routes: tuple[AnyRoute, ...] = ()
    conflicted: tuple[AnyRoute, ...] = ()
    """For this port as well, but of a kind that comes after that of `routes`."""


def parent_of(route: AnyRoute, parent: ParentRef) -> ServiceRef:
    return ServiceRef(parent.namespace or route.metadata.namespace, parent.name)


def names_port(parent: ParentRef, port: ServicePort) -> bool:
    """Is a Service's port meant by this reference?"""
    return parent.port in {0, port.port} and parent.section_name in {"", port.name}


def fits(route: AnyRoute, port: ServicePort | ExternalPort) -> bool:
    """Can a port of this protocol have such a route? Connections of TCP have no requests to look at."""
    return (port.protocol in _HTTP) != isinstance(route, TCPRoute)


def age(obj: Object) -> tuple[str, str, str]:
    """Sorts by precedence: the older object, then by `<namespace>/<name>`."""
    meta = obj.metadata
    return (meta.creation_timestamp or "9999", meta.namespace, meta.name)


@dataclass(frozen=True, slots=True)
class Policy:
    """What TrafficPolicies say of one port of a Service, each section from the most special one that has it."""

    spec: TrafficPolicySpec
    of: tuple[TrafficPolicy, ...]
    """The most special one first."""

    @property
    def sources(self) -> frozenset[Ref]:
        return frozenset(policy.ref for policy in self.of)

    def origin(self, section: str) -> Ref:
        """Whose word a section is, given by its field."""
        said = getattr(self.spec, section)
        return next(policy.ref for policy in self.of if getattr(policy.spec, section) == said)


Token = tuple[str, str, str]
"""Something that an answer depends on: an object by its Ref, or all of a kind that may count somewhere."""


def _hangs_on(service: ServiceRef) -> Token:
    return ("routes on", *service)


def _speaks_of(service: ServiceRef) -> Token:
    return ("policies for", *service)


_PEERINGS: Token = ("all", "Peering", "")


def _grants_in(namespace: str) -> Token:
    return ("grants in", namespace, "")


def touched(before: Mapping[Ref, Object], after: Mapping[Ref, Object]) -> frozenset[Token]:
    """All that answers over the one may depend on and that is different in the other."""
    if before is after:
        return frozenset()
    changed = {ref for ref, obj in after.items() if before.get(ref) is not obj}
    changed.update(ref for ref in before if ref not in after)
    found: set[Token] = set(changed)
    for ref in changed:
        for obj in (before.get(ref), after.get(ref)):
            if obj is not None:
                found.update(_tokens(obj))
    return frozenset(found)


def _tokens(obj: Object) -> Iterator[Token]:
    match obj:
        case HTTPRoute() | GRPCRoute() | TCPRoute():
            yield from (_hangs_on(parent_of(obj, parent)) for parent in obj.spec.parent_refs)
        case TrafficPolicy():
            yield _speaks_of(ServiceRef(obj.metadata.namespace, obj.spec.target.service))
        case ReferenceGrant():
            yield _grants_in(obj.metadata.namespace)
        case Peering():
            yield _PEERINGS
        case _:
            pass


class Attached:
    """Routes and policies by Service, and grants by namespace."""

    def __init__(self, objects: Mapping[Ref, Object]) -> None:
        self._objects = objects
        self.asked: set[Token] = set()
        """What answers since it was emptied depend on."""
        self._routes: dict[ServiceRef, list[AnyRoute]] = {}
        self._grants: dict[str, list[ReferenceGrant]] = {}
        self._policies: dict[tuple[ServiceRef, int], list[TrafficPolicy]] = {}
        self._peers: tuple[str, ...] | None = None
        for found in objects.values():
            if isinstance(found, HTTPRoute | GRPCRoute | TCPRoute):
                for service in {parent_of(found, parent) for parent in found.spec.parent_refs}:
                    self._routes.setdefault(service, []).append(found)
            elif isinstance(found, ReferenceGrant):
                self._grants.setdefault(found.metadata.namespace, []).append(found)
            elif isinstance(found, TrafficPolicy):
                target = found.spec.target
                place = (ServiceRef(found.metadata.namespace, target.service), target.port)
                self._policies.setdefault(place, []).append(found)
        for routes in self._routes.values():
            routes.sort(key=age)
        for policies in self._policies.values():
            policies.sort(key=age)

    def policy(self, service: ServiceRef, port: int) -> Policy | None:
        """Of several policies with the same target the oldest counts; one for the port comes before one for all."""
        self.asked.add(_speaks_of(service))
        chosen = [found[0] for place in (port, 0) if (found := self._policies.get((service, place)))]
        if not chosen:
            return None
        spec = chosen[0].spec
        if len(chosen) > 1:
            spec = _over(spec, chosen[1].spec)
        return Policy(spec, tuple(chosen))

    def service(self, ref: ServiceRef) -> Service | None:
        place = Ref("Service", ref.namespace, ref.name)
        self.asked.add(place)
        found = self._objects.get(place)
        return found if isinstance(found, Service) else None

    def imported(self, ref: ServiceRef) -> ImportedService | None:
        place = Ref("ImportedService", ref.namespace, ref.name)
        self.asked.add(place)
        found = self._objects.get(place)
        return found if isinstance(found, ImportedService) else None

    def callable(self, ref: ServiceRef) -> Service | ImportedService | None:
        """A Service of this cluster, or of the peer that the name says."""
        return self.imported(ref) if ref.peer else self.service(ref)

    def peering(self, name: str) -> Peering | None:
        place = Ref("Peering", "", name)
        self.asked.add(place)
        found = self._objects.get(place)
        return found if isinstance(found, Peering) else None

    def peers(self) -> tuple[str, ...]:
        """Names of all Peerings."""
        self.asked.add(_PEERINGS)
        if self._peers is None:
            self._peers = tuple(sorted(ref.name for ref, found in self._objects.items() if isinstance(found, Peering)))
        return self._peers

    def trusted(self, trust_domain: str) -> bool:
        """Are there roots by which names of this trust domain can be verified?"""
        place = Ref("TrustBundle", "", trust_domain)
        self.asked.add(place)
        found = self._objects.get(place)
        return isinstance(found, TrustBundle) and bool(certificates(found.spec.roots))

    def external(self, ref: ServiceRef) -> ExternalService | None:
        place = Ref("ExternalService", ref.namespace, ref.name)
        self.asked.add(place)
        found = self._objects.get(place)
        return found if isinstance(found, ExternalService) else None

    def overruled(self, policy: TrafficPolicy) -> TrafficPolicy | None:
        """The policy with the same target that counts instead of this one, if another does."""
        target = policy.spec.target
        first = self._policies[ServiceRef(policy.metadata.namespace, target.service), target.port][0]
        return None if first.ref == policy.ref else first

    def on(self, service: ServiceRef) -> Iterable[AnyRoute]:
        """All routes that name this Service as a parent."""
        self.asked.add(_hangs_on(service))
        return self._routes.get(service, ())

    def apply(self, caller: str, service: ServiceRef, port: ServicePort) -> Applied:
        """What counts for callers of a namespace: its own routes for another's Service, else those of the Service's."""
        there = [route for route in self.on(service) if self._meant(route, service, port)]
        chosen = [route for route in there if route.metadata.namespace == caller]
        if not chosen:
            chosen = [route for route in there if route.metadata.namespace == service.namespace]
        kinds = [kind for kind in RANK if any(route.kind == kind for route in chosen)]
        return Applied(
            tuple(route for route in chosen if route.kind == kinds[0]),
            tuple(route for route in chosen if route.kind != kinds[0]),
        )

    @staticmethod
    def _meant(route: AnyRoute, service: ServiceRef, port: ServicePort) -> bool:
        named = any(parent_of(route, p) == service and names_port(p, port) for p in route.spec.parent_refs)
        return named and fits(route, port)

    def resolve(self, route: AnyRoute, backend: BackendRef, called: ServiceRef) -> Resolved | Unresolved:
        """A backend's Service and port, and which of its endpoints, for callers of a Service that the route is for.

        Another namespace has to allow it by a ReferenceGrant, unless it is that of the Service that was called: who
        may call is said by policies, and its callers have chosen to send there. Another parent of the route opens
        nothing: anybody can name any Service as a parent.
        """
        name, subset = backend.name, ""
        if (backend.group, backend.kind) == EXTERNAL:
            return self._external_port(route, backend, called)
        if (backend.group, backend.kind) == IMPORTED:
            return self._imported_port(route, backend, called)
        if (backend.group, backend.kind) == SUBSET:
            name, _, subset = backend.name.partition(".")
        elif (backend.group, backend.kind) != ("", "Service"):
            kind = shown(f"{backend.group or 'core'}/{backend.kind}")
            return Unresolved("InvalidKind", f"{kind} is nothing that a route can send to")
        found = self._service_port(route, name, backend, called)
        if isinstance(found, Unresolved) or (backend.group, backend.kind) != SUBSET:
            return found
        if self.subset(found.service.service, found.port.port, subset) is None:
            reason = f"no TrafficPolicy of Service {found.service.service} has a subset {shown(subset)}"
            return Unresolved("BackendNotFound", reason)
        return Resolved(found.service, found.port, subset)

    def subset(self, service: ServiceRef, port: int, name: str) -> Subset | None:
        """The subset of a Service's endpoints that its policy has under this name."""
        policy = self.policy(service, port)
        return next((found for found in policy.spec.subsets if found.name == name), None) if policy else None

    def _service_port(  # noqa: PLR0911 - one for each reason
        self, route: AnyRoute, name: str, backend: BackendRef, called: ServiceRef
    ) -> Resolved | Unresolved:
        ref = ServiceRef(backend.namespace or route.metadata.namespace, name)
        if label_fault(ref.namespace) or label_fault(ref.name) or port_fault(backend.port):
            return Unresolved("BackendNotFound", "the backend's name or port is not one")
        if not self._permitted(route, ("", "Service"), ref, called):
            return Unresolved("RefNotPermitted", f"no ReferenceGrant in {ref.namespace} lets it send to {ref.name}")
        service = self.service(ref)
        if service is None:
            return Unresolved("BackendNotFound", f"there is no Service {ref}")
        port = next((p for p in service.spec.ports if p.port == backend.port), None)
        if port is None:
            return Unresolved("BackendNotFound", f"Service {ref} has no port {backend.port}")
        if not fits(route, port):
            return Unresolved("UnsupportedProtocol", f"port {port.port} of Service {ref} speaks {port.protocol}")
        if not any(not label_fault(account) for account in service.spec.service_accounts):
            return Unresolved("BackendNotFound", f"Service {ref} lists no service account that may stand behind it")
        return Resolved(service, port)

    def _imported_port(self, route: AnyRoute, backend: BackendRef, called: ServiceRef) -> Resolved | Unresolved:
        ref = ServiceRef(backend.namespace or route.metadata.namespace, backend.name)
        if label_fault(ref.namespace) or imported_name_fault(ref.name) or port_fault(backend.port):
            return Unresolved("BackendNotFound", "the backend's name or port is not one")
        if not self._permitted(route, IMPORTED, ref, called):
            return Unresolved("RefNotPermitted", f"no ReferenceGrant in {ref.namespace} lets it send to {ref.name}")
        found, fault = self.reachable(ref)
        if found is None:
            return Unresolved("BackendNotFound", fault)
        port = next((p for p in found.spec.ports if p.port == backend.port), None)
        if port is None:
            return Unresolved("BackendNotFound", f"Service {ref} has no port {backend.port}")
        if not fits(route, port):
            return Unresolved("UnsupportedProtocol", f"port {port.port} of Service {ref} speaks {port.protocol}")
        return Resolved(found, port)

    def reachable(self, ref: ServiceRef) -> tuple[ImportedService, str] | tuple[None, str]:
        """A Service of a peer that can be called, or why it cannot: what a peer says of itself counts only so far."""
        peering, found = self.peering(ref.peer), self.imported(ref)
        if peering is None:
            return None, f"there is no Peering {ref.peer}, so nothing of that cluster is known"
        if found is None:
            return None, f"cluster {ref.peer} exports no Service {ref.short}.{ref.namespace} to this one"
        if found.spec.trust_domain != peering.spec.trust_domain:
            return None, f"Service {ref} is not of Peering {ref.peer}'s trust domain"
        if not self.trusted(found.spec.trust_domain):
            domain = found.spec.trust_domain
            return None, f"TrustBundle {domain} has no root yet: nobody of {ref.peer} can be verified"
        if not any(not label_fault(account) for account in found.spec.service_accounts):
            return None, f"Service {ref} lists no service account that may stand behind it"
        return found, ""

    def _external_port(  # noqa: PLR0911 - one for each reason
        self, route: AnyRoute, backend: BackendRef, called: ServiceRef
    ) -> Resolved | Unresolved:
        ref = ServiceRef(backend.namespace or route.metadata.namespace, backend.name)
        if isinstance(route, TCPRoute):
            # Shares of connections are load assignments, and nobody tells us of what is behind a name.
            return Unresolved("InvalidKind", "a TCPRoute cannot send to an ExternalService: call it as an upstream")
        if label_fault(ref.namespace) or label_fault(ref.name) or port_fault(backend.port):
            return Unresolved("BackendNotFound", "the backend's name or port is not one")
        if not self._permitted(route, EXTERNAL, ref, called):
            return Unresolved("RefNotPermitted", f"no ReferenceGrant in {ref.namespace} lets it send to {ref.name}")
        found = self.external(ref)
        if found is None:
            return Unresolved("BackendNotFound", f"there is no ExternalService {ref}")
        port = next((p for p in found.spec.ports if p.port == backend.port), None)
        if port is None:
            return Unresolved("BackendNotFound", f"ExternalService {ref} has no port {backend.port}")
        if not fits(route, port):
            return Unresolved(
                "UnsupportedProtocol", f"port {port.port} of ExternalService {ref} speaks {port.protocol}"
            )
        return Resolved(found, port)

    def _permitted(self, route: AnyRoute, target: tuple[str, str], backend: ServiceRef, called: ServiceRef) -> bool:
        own = route.metadata.namespace
        if backend.namespace in {own, called.namespace}:
            return True
        self.asked.add(_grants_in(backend.namespace))
        grants = self._grants.get(backend.namespace, ())
        return any(grant.allows(route.kind, own, target, backend.name) for grant in grants)


def _over(own: TrafficPolicySpec, common: TrafficPolicySpec) -> TrafficPolicySpec:
    """Section by section: a policy's own, or where it says nothing that of the other."""
    silent = TrafficPolicySpec(target=own.target)
    taken = {
        name: getattr(common, name) for name in own.__struct_fields__ if getattr(own, name) == getattr(silent, name)
    }
    return msgspec.structs.replace(own, **{**taken, "target": own.target})
