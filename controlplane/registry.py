"""From what a host registers to what callers see: Instances, and an Endpoint under each Service that takes them.

    admit        may this node register these instances?
    takes        does this Service take this instance, and if not, why?
    plan_node    one node's whole list against what is known of it
    plan_service one Service against all instances of its namespace (the leader's part)

All of it is pure over a View. Every plan compares the revisions that it was made from; `controlplane.writer` retries.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from controlplane.view import Held, View
from mesh import codec, keys
from mesh.model import (
    GATEWAY,
    GATEWAY_ROLE,
    Endpoint,
    EndpointSpec,
    GatewaySpec,
    Health,
    Instance,
    Metadata,
    NodeSpec,
    Object,
    Ref,
    Service,
    ServiceRef,
    Violation,
    gateway_instance,
    selects,
    target_port,
)
from mesh.store.protocol import Delete, Op, Put
from mesh.validate import validate

R = TypeVar("R", bound=Object)

MAX_INSTANCES = 500
"""Of one node."""
MAX_GATEWAYS = 64
"""Of this cluster: a peer is told each of them for every exported Service, and takes 50,000 endpoints of us. A few more
may slip in at the same moment."""
HTTPS_PORT, LEAST_GATEWAY_PORT = 443, 1024
"""Where a gateway may be. Other ports below are those of the system's services, and peers' proxies connect to what is
told here."""


@dataclass(slots=True)
class Plan:
    """Changes that belong together, and what they were made from."""

    compares: dict[str, int] = field(default_factory=dict)
    ops: dict[str, Op] = field(default_factory=dict)

    def compare(self, key: str, revision: int) -> None:
        self.compares[key] = revision

    def change(self, op: Op, revision: int) -> None:
        """One write, if the key is still as it was read (0: absent)."""
        self.compares[op.key] = revision
        self.ops[op.key] = op

    def merge(self, other: "Plan") -> None:
        self.compares.update(other.compares)
        self.ops.update(other.ops)

    def __bool__(self) -> bool:
        return bool(self.ops)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node's registration: a part for each instance, so that a large host may be written in several steps."""

    parts: tuple[Plan, ...]
    refused: Mapping[str, str]
    """Instance name -> why it is not registered."""
    notes: Mapping[str, str]
    """Instance name -> why a Service does not take it, though it is registered."""


def admit(  # noqa: PLR0911 - one for each fault
    name: str, node: NodeSpec, instance: Instance, view: View
) -> str:
    """Why this node may not register this instance; empty if it may."""
    spec, meta = instance.spec, instance.metadata
    faults: Sequence[Violation] = validate(instance, None)
    if faults:
        return "; ".join(f"{fault.path}: {fault.reason}" for fault in faults)
    if spec.node != name:
        return f"it names node {spec.node!r}, and this node is {name!r}"
    if not node.address:
        return f"node {name!r} has no address; it has to join first"
    if spec.address != node.address:
        return f"its address {spec.address} is not its node's, which is {node.address}"
    identity = f"{meta.namespace}/{spec.service_account}"
    if ServiceRef(meta.namespace, spec.service) == GATEWAY:
        if fault := _gateway_fault(name, node, instance, view):
            return fault
    elif identity not in node.identities:
        return f"node {name!r} may not run as {identity}; it may run as {', '.join(node.identities) or 'nobody'}"
    if spec.health == "lost":
        return "only the control plane says that an instance is lost"
    other = view.instances.get(instance.ref)
    if other and other.object.spec.node != name and view.node(other.object.spec.node):
        holder = other.object.spec
        return (
            f"the name is taken by an instance of node {holder.node!r}, of service {holder.service!r}: give this one"
            " another `instance` in its definition (services.d)"
        )
    return ""


def _gateway_fault(name: str, node: NodeSpec, instance: Instance, view: View) -> str:
    """A gateway needs no identity, so all that it may be is what a gateway's agent registers, once."""
    spec, port, roles = instance.spec, instance.spec.mtls_port, ", ".join(node.roles)
    wanted = gateway_instance(name, node.address, GatewaySpec(port=port), spec.health, spec.locality)
    title, account = wanted.metadata.name, wanted.spec.service_account
    others = [one.object.ref for one in view.instances_in(GATEWAY.namespace) if one.object.spec.service == GATEWAY.name]
    full = len(others) >= MAX_GATEWAYS and instance.ref not in others
    faults = (
        (GATEWAY_ROLE not in node.roles, f"node {name!r} is no gateway: its roles are {roles}"),
        (instance.metadata.name != title, f"the gateway of node {name!r} has to be called {title!r}"),
        (spec.service_account != account, f"a gateway runs as {account!r}, not as {spec.service_account!r}"),
        (
            spec != wanted.spec or instance.metadata.labels,
            f"a gateway has one port, mtls, which is its mtlsPort ({port}), and no labels",
        ),
        (
            port != HTTPS_PORT and port < LEAST_GATEWAY_PORT,
            f"port {port} is neither 443 nor in 1024 to 65535: change gateway.port in its agent.yaml",
        ),
        (full, f"this cluster has {len(others)} gateways, and may have {MAX_GATEWAYS}: take another's role first"),
    )
    return next((reason for wrong, reason in faults if wrong), "")


def takes(service: Service, instance: Instance) -> str | None:
    """Why a Service that could select this instance does not take it; '' if it does, None if it is not meant."""
    if not selects(service, instance):
        return None
    account = instance.spec.service_account
    if account not in service.spec.service_accounts:
        allowed = ", ".join(service.spec.service_accounts) or "nobody"
        return f"service account {account!r} may not stand behind it (spec.serviceAccounts allows {allowed})"
    if not _ports(service, instance):
        return "none of its ports is a target of the Service's ports"
    return ""


def endpoint(service: Service, instance: Instance, locality: str, health: Health) -> Endpoint:
    """The instance as this Service sees it. `locality`: its node's, if an operator says so."""
    return Endpoint(
        metadata=Metadata(
            name=instance.metadata.name, namespace=service.metadata.namespace, labels=instance.metadata.labels
        ),
        spec=EndpointSpec(
            service=service.metadata.name,
            node=instance.spec.node,
            address=instance.spec.address,
            port=instance.spec.mtls_port,
            service_account=instance.spec.service_account,
            ports=_ports(service, instance),
            health=health,
            locality=locality or instance.spec.locality,
        ),
    )


def _ports(service: Service, instance: Instance) -> tuple[int, ...]:
    return tuple(p.port for p in service.spec.ports if target_port(service, p.port, instance))


def plan_node(view: View, name: str, instances: Sequence[Instance]) -> NodePlan:
    """Make what is known of this node be this list: whole, what is missing is removed. It speaks, so it is not lost."""
    node = view.node(name)
    if node is None or node.object.spec.evicted:
        reason = f"node {name!r} is evicted" if node else f"there is no node {name!r}; it has to join first"
        return NodePlan((), {instance.metadata.name: reason for instance in instances}, {})
    parts: list[Plan] = []
    refused: dict[str, str] = {}
    notes: dict[str, str] = {}
    accepted: set[Ref] = set()
    for index, raw in enumerate(instances):
        instance = _bare(raw)
        label = instance.metadata.name
        reason = f"more than {MAX_INSTANCES} instances" if index >= MAX_INSTANCES else ""
        reason = reason or ("it is listed twice" if instance.ref in accepted else "")
        reason = reason or admit(name, node.object.spec, instance, view)
        if reason:
            refused[label[:80]] = reason
            continue
        accepted.add(instance.ref)
        part, note = _plan_instance(view, instance, node.object.spec.locality)
        if note:
            notes[label] = note
        if part:
            _rely(view, part, _node_key(name), node)
            parts.append(part)
    # A refused name keeps nothing: what this node had under it is no longer vouched for.
    parts.extend(plan_remove(view, held) for held in view.instances_on(name) if held.object.ref not in accepted)
    return NodePlan(tuple(parts), refused, notes)


def _plan_instance(view: View, instance: Instance, locality: str) -> tuple[Plan, str]:
    """The record, and an endpoint under each Service that takes it."""
    plan, notes = Plan(), list[str]()
    _put(view, plan, keys.key_for(instance.ref), instance, view.instances.get(instance.ref))
    known = dict(view.endpoints_of(instance.ref))
    for held in view.candidates(instance):
        service = held.object
        verdict = takes(service, instance)
        if verdict:
            notes.append(f"Service {service.service}: {verdict}")
        if verdict != "":
            continue
        key, wanted = (
            _endpoint_key(service.service, instance.metadata.name),
            endpoint(service, instance, locality, instance.spec.health),
        )
        if _put(view, plan, key, wanted, known.pop(service.service, None)):
            _rely(view, plan, _service_key(service.service), held)
    for service_ref, gone in known.items():
        _drop(view, plan, _endpoint_key(service_ref, instance.metadata.name), gone)
    return plan, "; ".join(notes)


def plan_remove(view: View, held: Held[Instance]) -> Plan:
    """An instance goes, and its endpoints with it."""
    plan, ref = Plan(), held.object.ref
    _drop(view, plan, keys.key_for(ref), held)
    for service, known in view.endpoints_of(ref).items():
        _drop(view, plan, _endpoint_key(service, ref.name), known)
    return plan


def plan_service(view: View, service: ServiceRef, lost: AbstractSet[str]) -> tuple[Plan, ...]:
    """Make the endpoints under a Service what its selector, its accounts and the instances say: one part for each."""
    held = view.services.get(service)
    instances = view.instances_in(service.namespace) if held else []
    names = {instance.object.metadata.name for instance in instances}
    parts = [_plan_endpoint(view, service, instance.object.metadata.name, instance, lost) for instance in instances]
    left = sorted(view.endpoints.get(service, {}).keys() - names)
    parts += [_plan_endpoint(view, service, name, None, lost) for name in left]
    return tuple(part for part in parts if part)


def plan_endpoints(view: View, ref: Ref, lost: AbstractSet[str]) -> tuple[Plan, ...]:
    """The same for one instance, under all Services: those that may take it, and those under which it is."""
    instance = view.instances.get(ref)
    services = set(view.endpoints_of(ref))
    if instance:
        services.update(held.object.service for held in view.candidates(instance.object))
    parts = [_plan_endpoint(view, service, ref.name, instance, lost) for service in sorted(services)]
    return tuple(part for part in parts if part)


def _plan_endpoint(
    view: View, service: ServiceRef, name: str, instance: Held[Instance] | None, lost: AbstractSet[str]
) -> Plan:
    """What is to be done about one place under one Service: nothing, a write, or a removal."""
    plan, key, held = Plan(), _endpoint_key(service, name), view.services.get(service)
    known = view.endpoints.get(service, {}).get(name)
    wanted = _wanted(view, held.object, instance.object, lost) if held and instance else None
    if wanted is None or instance is None:
        if known:
            _drop(view, plan, key, known)
            # Only while the Service is as it was seen: it may have been made anew meanwhile.
            _rely(view, plan, _service_key(service), held)
    elif _put(view, plan, key, wanted, known):
        _rely(view, plan, _service_key(service), held)
        _rely(view, plan, keys.key_for(instance.object.ref), instance)
    return plan


def _wanted(view: View, service: Service, instance: Instance, lost: AbstractSet[str]) -> Endpoint | None:
    """The endpoint that should be there; None: the Service does not take this instance, or its node may have none."""
    node = view.node(instance.spec.node)
    if node is None or node.object.spec.evicted or takes(service, instance) != "":
        return None
    health = "lost" if instance.spec.node in lost else instance.spec.health
    return endpoint(service, instance, node.object.spec.locality, health)


def pack(parts: Iterable[Plan], limit: int) -> list[Plan]:
    """Parts merged into as few transactions as the limit allows; two are left for the declaration."""
    packed: list[Plan] = []
    for part in parts:
        last = packed[-1] if packed else None
        if last is None or max(len(last.ops | part.ops), len(last.compares | part.compares)) > limit - 2:
            packed.append(last := Plan())
        last.merge(part)
    return packed


def services_of(view: View, instance: Instance) -> dict[str, str]:
    """For `describe`: every Service that could take this instance -> '' or why it does not."""
    verdicts = {str(held.object.service): takes(held.object, instance) for held in view.candidates(instance)}
    return {name: verdict for name, verdict in verdicts.items() if verdict is not None}


def refused_by(view: View, service: Service) -> dict[str, str]:
    """For `describe`: instances that this Service selects and does not take -> why."""
    verdicts = {
        held.object.metadata.name: takes(service, held.object) for held in view.instances_in(service.metadata.namespace)
    }
    return {name: verdict for name, verdict in verdicts.items() if verdict}


def _put(
    view: View, plan: Plan, key: str, wanted: Instance | Endpoint, held: Held[Instance] | Held[Endpoint] | None
) -> bool:
    """Write only what changes: a health transition costs one record, a repeated registration none."""
    if held is not None and key not in view.bad and _bare(held.object) == wanted:
        return False
    plan.change(Put(key, codec.encode(wanted)), view.revision_of(key, held))
    return True


def _drop(view: View, plan: Plan, key: str, held: Held[Instance] | Held[Endpoint]) -> None:
    plan.change(Delete(key), view.revision_of(key, held))


def _rely(view: View, plan: Plan, key: str, held: Held[Object] | None) -> None:
    """The plan holds only while this is as it was read."""
    plan.compare(key, view.revision_of(key, held))


def _bare(obj: R) -> R:
    """Without what readers add, and with the labels only: an agent's word on the rest of the metadata is not taken."""
    meta = obj.metadata
    return msgspec.structs.replace(obj, metadata=Metadata(name=meta.name, namespace=meta.namespace, labels=meta.labels))


def _node_key(name: str) -> str:
    return keys.key_for(Ref("Node", "", name))


def _service_key(service: ServiceRef) -> str:
    return keys.key_for(Ref("Service", service.namespace, service.name))


def _endpoint_key(service: ServiceRef, instance: str) -> str:
    return keys.key_for(Ref("Endpoint", service.namespace, instance), service=service.name)
