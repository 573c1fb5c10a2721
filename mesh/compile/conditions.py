"""What became of a route or policy, as conditions in its status: decided by the same functions as what proxies do.

Types and reasons are those of Gateway API (RouteConditionType, RouteConditionReason, PolicyConditionReason) where it
has one. `Programmed` is what the proxies say, and is told by whoever asks them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.compile.attach import AnyRoute, Attached, Unresolved, fits, names_port, parent_of
from mesh.model import ExternalService, GRPCRoute, HTTPRoute, Object, Ref, Service, ServicePort, TCPRoute, TrafficPolicy
from mesh.model.grpcroute import GrpcFilter, GrpcRule
from mesh.model.httproute import HttpFilter, HttpRule
from mesh.model.policyfit import aimed_at, outside, unfit
from mesh.model.routing import BackendRef, ParentRef, outside_parent
from mesh.model.tcproute import TcpRule

CONTROLLER = "holdfast.dev/mesh"


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    fine: bool
    reason: str
    message: str = ""


def status(obj: Object, objects: Mapping[Ref, Object]) -> dict[str, Any]:
    """The status of a route or policy among these objects; nothing for other kinds."""
    if isinstance(obj, HTTPRoute | GRPCRoute | TCPRoute):
        return _route(obj, objects, Attached(objects))
    if isinstance(obj, TrafficPolicy):
        return {"conditions": [_shown(c, obj) for c in _of_policy(obj, objects, Attached(objects))]}
    return {}


def unmet(some: Iterable[Object], objects: Mapping[Ref, Object]) -> Iterator[tuple[Object, Condition]]:
    """What keeps these routes and policies back, each once: a typing error shows when it is made, not when it hurts."""
    attached = Attached(objects)
    for obj in some:
        found: Iterable[Condition] = ()
        if isinstance(obj, HTTPRoute | GRPCRoute | TCPRoute):
            found = (c for parent in obj.spec.parent_refs for c in _of_parent(obj, parent, objects, attached))
        elif isinstance(obj, TrafficPolicy):
            found = _of_policy(obj, objects, attached)
        yield from ((obj, condition) for condition in dict.fromkeys(found) if not condition.fine)


def programmed(obj: Object, shown: dict[str, Any], proxies: int, of: int, revision: int) -> dict[str, Any]:
    """A status with one more condition: how many of the live proxies have this version in force."""
    condition = Condition(
        "Programmed",
        fine=proxies == of,
        reason="Programmed" if proxies == of else "Pending",
        message=f"{proxies}/{of} @{revision}",
    )
    lists = [parent["conditions"] for parent in shown.get("parents", ())]
    lists += [shown["conditions"]] if "conditions" in shown else []
    for conditions in lists:
        conditions.append(_shown(condition, obj))
    return shown


def _route(route: AnyRoute, objects: Mapping[Ref, Object], attached: Attached) -> dict[str, Any]:
    parents = [
        {
            "parentRef": msgspec.to_builtins(parent),
            "controllerName": CONTROLLER,
            "conditions": [_shown(c, route) for c in _of_parent(route, parent, objects, attached)],
        }
        for parent in route.spec.parent_refs
    ]
    return {"parents": parents}


def _of_parent(
    route: AnyRoute, parent: ParentRef, objects: Mapping[Ref, Object], attached: Attached
) -> tuple[Condition, ...]:
    return (_accepted(route, parent, objects, attached), _resolved(route, parent, attached))


def _shown(condition: Condition, obj: Object) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": "True" if condition.fine else "False",
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": obj.metadata.generation,
    }


def _accepted(route: AnyRoute, parent: ParentRef, objects: Mapping[Ref, Object], attached: Attached) -> Condition:
    name = parent_of(route, parent)
    service = objects.get(Ref("Service", *name))
    if not isinstance(service, Service):
        message = outside_parent(name, objects) or f"there is no Service {name}"
        return Condition("Accepted", fine=False, reason="NoMatchingParent", message=message)
    ports = [port for port in service.spec.ports if names_port(parent, port)]
    if not ports:
        return Condition("Accepted", fine=False, reason="NoMatchingParent", message=f"Service {name} has no such port")
    fitting = [port for port in ports if fits(route, port)]
    if not fitting:
        said = ", ".join(f"{port.port} ({port.protocol})" for port in ports)
        message = f"no port of Service {name} can have a {route.kind}: {said}"
        return Condition("Accepted", fine=False, reason="UnsupportedProtocol", message=message)
    lost = [port for port in fitting if not _counts(route, service, port, attached)]
    if len(lost) == len(fitting):
        message = f"another kind of route counts for Service {name}; GRPCRoute comes before HTTPRoute"
        return Condition("Accepted", fine=False, reason="Conflicted", message=message)
    return Condition("Accepted", fine=True, reason="Accepted")


def _counts(route: AnyRoute, service: Service, port: ServicePort, attached: Attached) -> bool:
    """For callers of its own namespace, whom it is for in any case."""
    applied = attached.apply(route.metadata.namespace, service.service, port)
    return any(other.ref == route.ref for other in applied.routes)


def _resolved(route: AnyRoute, parent: ParentRef, attached: Attached) -> Condition:
    for path, backend in _backends(route):
        outcome = attached.resolve(route, backend, parent_of(route, parent))
        if isinstance(outcome, Unresolved):
            message = f"{path}: {outcome.message}"
            return Condition("ResolvedRefs", fine=False, reason=outcome.reason, message=message)
    return Condition("ResolvedRefs", fine=True, reason="ResolvedRefs")


def _backends(route: AnyRoute) -> Iterator[tuple[str, BackendRef]]:
    """All that a route refers to, with its place."""
    rules: Sequence[HttpRule | GrpcRule | TcpRule] = route.spec.rules
    for index, rule in enumerate(rules):
        where = f"spec.rules[{index}]"
        backends: Sequence[BackendRef] = rule.backend_refs
        for number, backend in enumerate(backends):
            yield f"{where}.backendRefs[{number}]", backend
        filters: Sequence[HttpFilter | GrpcFilter] = () if isinstance(rule, TcpRule) else rule.filters
        for number, item in enumerate(filters):
            if item.request_mirror is not None:
                yield f"{where}.filters[{number}].requestMirror", item.request_mirror.backend_ref


def _of_policy(policy: TrafficPolicy, objects: Mapping[Ref, Object], attached: Attached) -> Iterator[Condition]:
    accepted = _policy(policy, objects, attached)
    yield accepted
    if accepted.fine:
        yield _honoured(policy, objects)


def _policy(policy: TrafficPolicy, objects: Mapping[Ref, Object], attached: Attached) -> Condition:
    target, namespace = policy.spec.target, policy.metadata.namespace
    service, ports = aimed_at(target, namespace, objects)
    if service is None:
        message = f"there is no Service or ExternalService {target.service}.{namespace}"
        return Condition("Accepted", fine=False, reason="TargetNotFound", message=message)
    if target.port and not ports:
        message = f"{service.kind} {service.service} has no port {target.port}"
        return Condition("Accepted", fine=False, reason="TargetNotFound", message=message)
    other = attached.overruled(policy)
    if other is not None:
        message = f"TrafficPolicy {other.metadata.name} has the same target and is older"
        return Condition("Accepted", fine=False, reason="Conflicted", message=message)
    return Condition("Accepted", fine=True, reason="Accepted")


def _honoured(policy: TrafficPolicy, objects: Mapping[Ref, Object]) -> Condition:
    """Is all of it, at every port that it is for?"""
    found, ports = aimed_at(policy.spec.target, policy.metadata.namespace, objects)
    words = [
        f"{fault.path} not at {', '.join(map(str, fault.ports))}: {fault.reason}" for fault in unfit(policy.spec, ports)
    ]
    if isinstance(found, ExternalService):
        words += [f"{path}: {reason}" for _, path, reason in outside(policy.spec)]
    if words:
        return Condition("Honoured", fine=False, reason="UnsupportedProtocol", message="; ".join(words))
    return Condition("Honoured", fine=True, reason="Honoured")
