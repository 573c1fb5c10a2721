"""NodeView: everything that compile may depend on, and nothing else. It is the complete key of compile's caches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mesh.compile.types import Problem
from mesh.model import Endpoint, GateSpec, Identity, NodeLocal, Object, Protocol, Ref, Revision, ServiceRef

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
    """Who may connect: deny rules first, then allow rules, then the default."""

    deny: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()
    default: Literal["Allow", "Deny"] = "Deny"
    sources: frozenset[Ref] = frozenset()


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


@dataclass(frozen=True, slots=True)
class Outbound:
    """A Service's port that an application of this host calls."""

    identity: str
    listen: str
    service: ServiceRef
    port: int
    protocol: Protocol | None = None
    """None: not known, since the Service or its port is not there."""
    accounts: tuple[str, ...] = ()
    """SPIFFE ids: the only ones that may answer."""
    fault: str = ""
    """Why calls cannot go anywhere, in words for the caller."""
    age: int = 3600
    """Seconds that an HTTP connection may live: a new one shows the caller's newest certificate."""

    @property
    def source(self) -> Ref:
        return Ref("Service", self.service.namespace, self.service.name)


@dataclass(frozen=True, slots=True)
class Frame:
    """The part that changes rarely: all but endpoints."""

    node: str
    address: str
    mtls_port: int
    trust_domain: str
    cluster: str
    access_log: str
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    identities: tuple[tuple[str, Identity], ...] = ()
    """Certificates held, of those that something here needs; sorted by name."""
    roots: tuple[str, ...] = ()
    roots_source: Ref | None = None
    gate: GateSpec | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    revision: Revision
    frame: Frame
    endpoints: Mapping[ServiceRef, Endpoints]
    """Only those of Services in `frame.outbound` are read."""
    before: Mapping[ServiceRef, Endpoints] | None = field(default=None, repr=False, compare=False)
    touched: frozenset[ServiceRef] = field(default=frozenset(), repr=False, compare=False)
    """As in World: it saves compile a comparison with `before`, and can only make it faster."""
    objects: Mapping[Ref, Object] | None = field(default=None, repr=False, compare=False)
    undecodable: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    local: NodeLocal | None = field(default=None, repr=False, compare=False)
    """What the frame was projected from; only their identity is used, by the next projection."""
