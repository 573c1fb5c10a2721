"""What TrafficPolicies say of requests, for one port of a Service: to callers, and in front of its instances."""

from collections.abc import Iterator

import msgspec

from mesh.compile import names
from mesh.compile.attach import Attached, Policy
from mesh.compile.view import Handling, Injection, Limit
from mesh.model import Ref, ServiceRef
from mesh.model.policyspec import Fault


def handling(attached: Attached, service: ServiceRef, port: int, caller: str, trust_domain: str) -> Handling:
    """For an identity that calls, given as `<namespace>/<service-account>`."""
    policy = attached.policy(service, port)
    if policy is None:
        return Handling()
    spec, sources = policy.spec, set[Ref]()
    namespace, _, account = caller.partition("/")
    called = {caller, f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"}
    faults = tuple(_injections(policy, spec.faults, called))
    if spec.timeouts.request:
        sources.add(policy.origin("timeouts"))
    if spec.retries:
        sources.add(policy.origin("retries"))
    if faults:
        sources.add(policy.origin("faults"))
    return Handling(
        timeout=spec.timeouts.request,
        retries=msgspec.structs.replace(spec.retries, budget=None) if spec.retries else None,
        faults=faults,
        sources=frozenset(sources),
    )


def _injections(policy: Policy, faults: tuple[Fault, ...], called: set[str]) -> Iterator[Injection]:
    for fault in faults:
        if not fault.callers or called.intersection(fault.callers):
            yield Injection(_id(policy, "faults", fault.name), msgspec.structs.replace(fault, callers=()))


def limits(attached: Attached, service: ServiceRef, port: int) -> tuple[tuple[Limit, ...], frozenset[Ref]]:
    """Of its instances, and where they are written."""
    policy = attached.policy(service, port)
    if policy is None or not policy.spec.rate_limits:
        return (), frozenset()
    found = tuple(Limit(_id(policy, "rate_limits", limit.name), limit) for limit in policy.spec.rate_limits)
    return found, frozenset({policy.origin("rate_limits")})


def _id(policy: Policy, section: str, name: str) -> str:
    origin = policy.origin(section)
    return "/".join(names.safe(part) for part in (origin.namespace, origin.name, name))
