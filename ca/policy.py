"""May these claims hold this identity? Claims -> Grant or Denied (pure).

The one place that decides which SPIFFE id and which DNS names a certificate carries:

    node                 spiffe://<td>/node/<node>           of the node that asks
    gate                 the same id, and DNS gate.holdfast  only with role `gate`
    <namespace>/<sa>     spiffe://<td>/ns/<ns>/sa/<sa>       if Node.spec.identities has it
    (a replica's own)    spiffe://<td>/controlplane/<name>, and DNS controlplane.holdfast; never by request

DNS names are fixed words. A workload gets none, so no workload can pose as a gate or a control-plane node to a client
that checks them. An evicted or unknown node gets nothing, and neither does a certificate from before its last join.
"""

import math
from dataclasses import dataclass
from typing import Literal

from mesh import spiffe
from mesh.model import MeshConfigSpec, Node
from mesh.model.checks import label_fault, shown

CONTROLPLANE_NAME = "controlplane.holdfast"
"""What a client of the control plane expects in the server's certificate, whatever address it dials."""
GATE_NAME = "gate.holdfast"
"""The same for a store gate."""

DAY = 86400.0
MIN_TTL = 60.0
"""Shorter certificates would expire while they are handed out."""

Method = Literal["join_token", "node_certificate", "expired_certificate"]
"""How a caller proved which node it is."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What an attestor has established, and how."""

    node: str
    method: Method
    issued: float
    """When the certificate that proved it was issued, unix seconds; for a token, the moment of the join."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store says of a node now."""

    node: Node | None
    since: float = 0.0
    """Its last join (ca.joins): what was issued before this moment is void."""


@dataclass(frozen=True, slots=True)
class Grant:
    """All that a certificate will say. Nothing else goes into one."""

    spiffe_id: spiffe.SpiffeId
    dns_names: tuple[str, ...]
    ttl: float
    """Seconds. The issuer's own end may cut it short."""
    since: float = 0.0
    """Unix seconds: it is dated no earlier than this."""


@dataclass(frozen=True, slots=True)
class Denied:
    """No, and why, in words that may be shown to the caller."""

    reason: str
    retry_after: float = 0.0
    """Seconds, if the same request may succeed later; 0: repeating it is pointless."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds each; the defaults are the architecture's."""

    workload: float = 3 * DAY
    node: float = 30 * DAY
    controlplane: float = 30 * DAY
    """A replica's own server identity: as long as a node's, so that a restart during a long outage finds it valid."""
    intermediate: float = 30 * DAY


def lifetimes(spec: MeshConfigSpec) -> Lifetimes:
    """The lifetimes that the mesh's configuration asks for."""
    return Lifetimes(
        workload=max(MIN_TTL, float(spec.workload_ttl_seconds)),
        node=max(MIN_TTL, float(spec.node_ttl_seconds)),
        controlplane=max(DAY, float(spec.node_ttl_seconds)),
        intermediate=max(MIN_TTL, float(spec.intermediate_ttl_seconds)),
    )


def name_fault(what: str, text: str) -> str:
    """Why this text cannot be the name of a node, namespace or service account; empty if it can."""
    fault = label_fault(text)
    return f"the {what}'s name: {fault}" if fault else ""


def identity_fault(text: str) -> str:
    """Why this text is not a `<namespace>/<service-account>`; empty if it is."""
    match text.split("/"):
        case [namespace, account]:
            return name_fault("namespace", namespace) or name_fault("service account", account)
        case _:
            return f"identity {shown(text)} is not <namespace>/<service-account>"


def authorize(claims: Claims, wanted: str, standing: Standing, trust_domain: str, life: Lifetimes) -> Grant | Denied:
    """Decide on one identity for one node.

    `wanted` is what a request says: `node`, `gate` or `<namespace>/<service-account>`. `standing` is that of the node
    which the claims name.
    """
    fault, node = standing_fault(claims, standing), standing.node
    if fault or node is None:
        return Denied(fault)
    if wanted == "node":
        return Grant(spiffe.node(trust_domain, claims.node), (), life.node, standing.since)
    if claims.method == "expired_certificate":
        return Denied("an expired node certificate renews the node's own identity only")
    if wanted != "gate":
        return _workload(claims.node, wanted, node, trust_domain, life)
    if "gate" not in node.spec.roles:
        return Denied(f"node {claims.node} has no role gate")
    return Grant(spiffe.node(trust_domain, claims.node), (GATE_NAME,), life.node, standing.since)


def void_fault(node: str, issued: float, since: float) -> str:
    """Why a certificate of this node, issued then, does not count any more; empty if it does."""
    if issued >= since:
        return ""
    if since == math.inf:
        return f"the record of when node {node} joined cannot be read; join it with a new token"
    return f"this certificate of node {node} is void: a host has joined under this name since it was issued"


def standing_fault(claims: Claims, standing: Standing) -> str:
    """Why this node may have nothing at all; empty if it is in good standing."""
    node = standing.node
    if fault := name_fault("node", claims.node):
        return fault
    if node is None:
        return f"node {claims.node} is not known; join it with a new token"
    if node.metadata.name != claims.node:
        return f"node {claims.node} may not use the record of another node"
    if node.spec.evicted:
        return f"node {claims.node} is evicted"
    return void_fault(claims.node, claims.issued, standing.since)


def _workload(name: str, wanted: str, node: Node, trust_domain: str, life: Lifetimes) -> Grant | Denied:
    if fault := identity_fault(wanted):
        return Denied(fault)
    if wanted not in node.spec.identities:
        return Denied(f"node {name} may not run {wanted}; its spec.identities does not have it")
    namespace, _, account = wanted.partition("/")
    return Grant(spiffe.workload(trust_domain, namespace, account), (), life.workload)


def replica(name: str, trust_domain: str, life: Lifetimes) -> Grant | Denied:
    """A control-plane node's own identity. Called by that node for itself; no request leads here."""
    if fault := name_fault("replica", name):
        return Denied(fault)
    return Grant(spiffe.controlplane(trust_domain, name), (CONTROLPLANE_NAME,), life.controlplane)
