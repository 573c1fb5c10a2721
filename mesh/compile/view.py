"""NodeView: everything that compile may depend on, and nothing else. It is the complete key of compile's caches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mesh.compile import names
from mesh.compile.rules import Entry, Target, TcpSplit
from mesh.compile.spread import Spread
from mesh.compile.types import Problem
from mesh.model import (
    GATEWAY,
    Endpoint,
    ExternalPort,
    GateSpec,
    GatewaySpec,
    Identity,
    NodeLocal,
    Object,
    Protocol,
    Ref,
    Revision,
    ServiceRef,
)
from mesh.model.policyspec import (
    CircuitBreaking,
    ClientHealthCheck,
    Fault,
    HashKey,
    LoadBalancing,
    OutlierDetection,
    RateLimit,
    Retries,
    RetryBudget,
    TcpKeepalive,
)
from mesh.model.reach import Reach

Endpoints = Mapping[str, Endpoint]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a policy, as one port of a Service sees it."""

    id: str
    """`<namespace>/<policy>/<rule>`: what a denial names."""
    principals: tuple[str, ...] = ()
    """SPIFFE ids."""
    namespaces: tuple[str, ...] = ()
    """Beginnings of SPIFFE ids."""
    anyone: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: deny rules first, then allow rules. Nobody else."""

    deny: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()
    sources: frozenset[Ref] = frozenset()


@dataclass(frozen=True, slots=True)
class Limit:
    """How many requests one port of a Service takes, of a policy."""

    id: str
    """`<namespace>/<policy>/<limit>`: what a refusal names."""
    limit: RateLimit


@dataclass(frozen=True, slots=True)
class Inbound:
    """A Service's port that an application of this host stands behind."""

    service: ServiceRef
    port: int
    protocol: Protocol
    identity: str
    address: str
    """Where the application listens."""
    target: int
    local_protocol: Protocol
    access: Access
    limits: tuple[Limit, ...] = ()
    limit_sources: frozenset[Ref] = frozenset()


@dataclass(frozen=True, slots=True)
class Part:
    """Endpoints of one Service's port, as part of a load assignment."""

    target: Target
    weight: int = 0
    """Its share among the parts; 0: it is the only one."""
    accounts: tuple[str, ...] = ()
    """SPIFFE ids: the only ones that may answer, where it has a TLS context of its own."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of endpoints that count; empty: all do."""
    spread: Spread | None = None
    """Where calls go first; None: everywhere alike."""
    beyond: tuple["Part", ...] = ()
    """The same Service's in other clusters: for when these endpoints are too few, or where `spread` says so."""
    far: bool = False
    """It is in another part's `beyond`."""
    via: ServiceRef | None = None
    """Whose endpoints are dialled instead: local gateways, which know those of the target."""
    reach: Reach | None = None
    """Of a peer's: what its endpoints' addresses may be."""

    @property
    def socket(self) -> str:
        """The TLS context of its endpoints, if parts of several Services are in one cluster."""
        return names.load_assignment(*self.target[:3]) if self.weight or self.far else ""

    @property
    def all(self) -> tuple["Part", ...]:
        return (self, *self.beyond)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a load assignment is made from."""

    name: str
    parts: tuple[Part, ...]

    @property
    def services(self) -> frozenset[ServiceRef]:
        """Those whose endpoints are in it, or decide whether others are."""
        parts = [one for part in self.parts for one in part.all]
        return frozenset({part.target.service for part in parts} | {part.via for part in parts if part.via})

    @property
    def named(self) -> tuple[Part, ...]:
        """Those whose endpoints say which TLS context is theirs."""
        return tuple(one for part in self.parts for one in part.all if one.socket)

    @property
    def far(self) -> bool:
        """Are there endpoints of other clusters in it, as a rule gateways?"""
        return any(one.target.service.peer for part in self.parts for one in part.all)


@dataclass(frozen=True, slots=True)
class Connections:
    """What policies say of connections to a Service's port; None and empty: nothing, so the mesh's defaults hold."""

    balancing: LoadBalancing | None = None
    breaking: CircuitBreaking | None = None
    outliers: OutlierDetection | None = None
    keepalive: TcpKeepalive | None = None
    health: ClientHealthCheck | None = None
    budget: RetryBudget | None = None
    connect: str = ""
    idle: str = ""


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault for one caller: its `callers` are settled."""

    id: str
    """`<namespace>/<policy>/<fault>`: what the caller is told."""
    fault: Fault


@dataclass(frozen=True, slots=True)
class Handling:
    """What policies say of requests to a Service, as one identity calls it."""

    timeout: str = ""
    """Of the whole request. Empty: no limit."""
    retries: Retries | None = None
    """None: as the mesh does it. The budget is not here."""
    faults: tuple[Injection, ...] = ()
    sources: frozenset[Ref] = frozenset()


@dataclass(frozen=True, slots=True)
class Outbound:
    """A Service's port that an application of this host calls."""

    identity: str
    listen: str
    """Where its applications connect; of one that is called by name, its virtual address and port."""
    service: ServiceRef
    port: int
    virtual: bool = False
    """It is called by name: no listener of its own, a chain of the identity's."""
    mode: int = 0o660
    """Of a unix socket."""
    protocol: Protocol | None = None
    """None: not known, since the Service or its port is not there."""
    fault: str = ""
    """Why calls cannot go anywhere, in words for the caller."""
    entries: tuple[Entry, ...] | None = None
    """What its routes say, in the order in which they are tried; None: it has none, and all goes to the Service."""
    split: TcpSplit | None = None
    """TCP: what its route says; None: it has none."""
    hashes: tuple[tuple[Target, tuple[HashKey, ...]], ...] = ()
    """What requests to a target have in common that go to one endpoint; only of targets that hash."""
    idle: str = ""
    """TCP: a policy's word on connections on which nothing moves. It is the listener's to end them."""
    policies: frozenset[Ref] = frozenset()
    """Those that `hashes` and `idle` are from."""
    external: bool = False
    """It is an ExternalService's port."""
    spans: bool = False
    """Some of its targets are in several clusters: what is tried again is tried in the next one."""
    hosts: tuple[tuple[Target, str], ...] = ()
    """What those of its targets are called in requests that are outside of the mesh and have a name."""
    handling: Handling = Handling()

    def hash_keys(self, targets: Iterable[Target]) -> tuple[HashKey, ...]:
        """Of all these targets together: a request's hash is made before one of them is chosen."""
        known = dict(self.hashes)
        return tuple(dict.fromkeys(key for target in targets for key in known.get(target, ())))

    @property
    def source(self) -> Ref:
        return Ref("ExternalService", *self.service) if self.external else called_object(self.service)

    @property
    def target(self) -> Target:
        return Target(self.service, self.port, external=self.external)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where its requests may go."""
        if self.fault:
            return ()
        if self.entries is None:
            return (self.target,) if self.split is None or self.split.shares else ()
        return tuple(dict.fromkeys(target for entry in self.entries for target in entry.targets))

    @property
    def sources(self) -> frozenset[Ref]:
        """The objects that its routes were made from."""
        split = (self.split.source,) if self.split else ()
        routes = (entry.source for entry in self.entries or ())
        return frozenset({self.source, *split, *routes, *self.policies, *self.handling.sources})


@dataclass(frozen=True, slots=True)
class Backend:
    """A Service's port as one identity of this host calls it."""

    identity: str
    target: Target
    protocol: Protocol
    accounts: tuple[str, ...]
    """SPIFFE ids: the only ones that may answer."""
    assignment: Assignment
    route: Ref | None = None
    """TCP: whose shares are in the assignment."""
    age: int = 3600
    """Seconds that an HTTP connection may live: a new one shows the caller's newest certificate."""
    connections: Connections = Connections()
    policies: frozenset[Ref] = frozenset()
    """Those that `connections` and the assignment's parts are from."""

    @property
    def sources(self) -> frozenset[Ref]:
        services = {self.target.service, *self.assignment.services}
        route = {self.route} if self.route else set()
        return frozenset({called_object(service) for service in services if service != GATEWAY} | route | self.policies)


def called_object(service: ServiceRef) -> Ref:
    """What is written of a Service that is called."""
    return Ref("ImportedService" if service.peer else "Service", *service)


@dataclass(frozen=True, slots=True)
class Passage:
    """A Service's port whose connections a gateway passes on."""

    assignment: Assignment
    sources: frozenset[Ref]
    peers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of what is exported: peers that may call it, and their networks, as far as these are known."""

    @property
    def target(self) -> Target:
        return self.assignment.parts[0].target


@dataclass(frozen=True, slots=True)
class Gateway:
    """Role gateway."""

    spec: GatewaySpec
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """Another one, and by what roots its names are verified."""

    name: str
    roots: tuple[str, ...]
    sources: frozenset[Ref]


@dataclass(frozen=True, slots=True)
class External:
    """An ExternalService's port as one identity of this host calls it."""

    identity: str
    target: Target
    port: ExternalPort
    host: str
    """Its DNS name; empty: `addresses`."""
    addresses: tuple[str, ...]
    trust_file: str
    """The roots that the host trusts; empty: none."""
    connections: Connections = Connections()
    policies: frozenset[Ref] = frozenset()
    """Those that `connections` are from."""

    @property
    def sources(self) -> frozenset[Ref]:
        return frozenset({Ref("ExternalService", *self.target.service), *self.policies})


def verifiable(port: ExternalPort, trust_file: str) -> bool:
    """Is there something to verify the server by, where it has to be? Envoy takes no file that is not there."""
    return port.tls.mode != "Originate" or bool(port.tls.ca_certificates or trust_file)


@dataclass(frozen=True, slots=True)
class Egress:
    """What becomes of captured connections that are to no virtual address."""

    allow: bool
    """True: all go on to where they were made to. False: only those to `registered`."""
    registered: tuple[tuple[str, int, Ref], ...] = ()
    """Addresses and ports of ExternalServices, and whose they are; sorted, each once."""
    source: Ref | None = None
    """The MeshConfig that says so; None: the default."""
    ipv6: bool = False
    """Are connections to addresses of IPv6 captured, too?"""


@dataclass(frozen=True, slots=True)
class Frame:
    """The part that changes rarely: all but endpoints."""

    node: str
    address: str
    """Where the inbound listener is; what others are told is the endpoints' business."""
    mtls_port: int
    trust_domain: str
    cluster: str
    access_log: str
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    captures: tuple[tuple[str, int], ...] = ()
    """Identities that are called with by name, or whose connections are captured, and the port of each; sorted."""
    egress: Egress | None = None
    """None: nothing but virtual addresses is redirected here."""
    backends: tuple[Backend, ...] = ()
    """All that `outbound` leads to, each once."""
    externals: tuple[External, ...] = ()
    """The same, of what is outside of the mesh."""
    identities: tuple[tuple[str, Identity], ...] = ()
    """Certificates held, of those that something here needs; sorted by name."""
    roots: tuple[str, ...] = ()
    roots_source: Ref | None = None
    others: tuple[TrustDomain, ...] = ()
    """Trust domains of peers, by name."""
    gate: GateSpec | None = None
    gateway: Gateway | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    revision: Revision
    frame: Frame
    endpoints: Mapping[ServiceRef, Endpoints]
    """Only those of Services in `frame.backends` are read."""
    before: Mapping[ServiceRef, Endpoints] | None = field(default=None, repr=False, compare=False)
    touched: frozenset[ServiceRef] = field(default=frozenset(), repr=False, compare=False)
    """As in World: it saves compile a comparison with `before`, and can only make it faster."""
    objects: Mapping[Ref, Object] | None = field(default=None, repr=False, compare=False)
    undecodable: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    local: NodeLocal | None = field(default=None, repr=False, compare=False)
    """What the frame was projected from; only their identity is used, by the next projection."""
    memo: object = field(default=None, repr=False, compare=False)
    """`project`'s own: what the next projection may take over."""
