"""GRPCRoute (gateway.networking.k8s.io/v1): where a Service's gRPC calls go, by service and method."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mesh.model.base import Frozen, Object, Ref, Violation
from mesh.model.checks import at, shown
from mesh.model.httproute import header_match_faults
from mesh.model.regex import literal, regex_fault
from mesh.model.routing import (
    MAX_ALL_MATCHES,
    MAX_BACKENDS,
    MAX_MATCHES,
    MAX_RULES,
    HeaderMatch,
    HeaderModifier,
    ParentRef,
    RequestMirror,
    WeightedBackendRef,
    backend_faults,
    filters_faults,
    head_faults,
    mirror_faults,
    modifier_faults,
    names_faults,
    parents_places,
    subdomain_fault,
    too_many,
    unsupported,
)

_SERVICE = re.compile(r"(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*\Z")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\Z")

_FILTERS = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestMirror": "request_mirror",
    "ExtensionRef": "extension_ref",
}


class MethodMatch(Frozen, frozen=True, kw_only=True):
    """At least one of service and method."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    service: str = ""
    method: str = ""


def method_expression(match: MethodMatch) -> str:
    """For the path of a call (`/<service>/<method>`), where no exact path or prefix says the same; else empty."""
    if match.type == "Exact":
        return "" if match.service.removeprefix(".") else f"/[^/]+/{literal(match.method)}"
    # Each in brackets of its own: an alternative inside must not swallow the slash.
    service, name = (f"(?:{text})" if text else "[^/]+" for text in (match.service, match.method))
    return f"/{service}/{name}"


class GrpcMatch(Frozen, frozen=True, kw_only=True):
    """All of it must match."""

    method: MethodMatch | None = None
    headers: tuple[HeaderMatch, ...] = ()


class GrpcFilter(Frozen, frozen=True, kw_only=True):
    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef"]
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_mirror: RequestMirror | None = None
    extension_ref: dict[str, Any] | None = None
    """Refused: there are no extensions of this kind."""


class GrpcBackendRef(WeightedBackendRef, frozen=True, kw_only=True):
    filters: tuple[GrpcFilter, ...] = ()
    """Modifiers of headers only."""


class GrpcRule(Frozen, frozen=True, kw_only=True):
    name: str = ""
    matches: tuple[GrpcMatch, ...] = ()
    """One is enough. Empty: everything."""
    filters: tuple[GrpcFilter, ...] = ()
    backend_refs: tuple[GrpcBackendRef, ...] = ()
    session_persistence: dict[str, Any] | None = None
    """Refused, as in HTTPRoute."""


class GrpcRouteSpec(Frozen, frozen=True, kw_only=True):
    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    """Refused, as in HTTPRoute."""
    rules: tuple[GrpcRule, ...] = ()
    use_default_gateways: str | None = None
    """Refused: there are no default gateways."""


class GRPCRoute(Object, frozen=True, kw_only=True):
    api_version: str = "gateway.networking.k8s.io/v1"
    kind: Literal["GRPCRoute"] = "GRPCRoute"
    spec: GrpcRouteSpec = GrpcRouteSpec()

    def name_fault(self) -> str:
        return subdomain_fault(self.metadata.name)

    def looks_at(self) -> Iterator[Ref]:
        yield from parents_places(self.metadata, self.spec.parent_refs)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        spec = self.spec
        yield from head_faults(self.metadata, existing, spec.parent_refs, spec.use_default_gateways, spec.hostnames)
        yield from too_many("spec.rules", spec.rules, MAX_RULES)
        if sum(len(rule.matches) for rule in spec.rules) > MAX_ALL_MATCHES:
            yield Violation(path="spec.rules", reason=f"more than {MAX_ALL_MATCHES} matches in all")
        yield from names_faults("spec.rules", (rule.name for rule in spec.rules))
        for index, rule in enumerate(spec.rules):
            yield from _rule_faults(f"spec.rules[{index}]", rule)


def _rule_faults(where: str, rule: GrpcRule) -> Iterator[Violation]:
    yield from too_many(f"{where}.matches", rule.matches, MAX_MATCHES)
    for index, match in enumerate(rule.matches):
        here = f"{where}.matches[{index}]"
        if match.method is not None:
            yield from _method_faults(f"{here}.method", match.method)
        yield from too_many(f"{here}.headers", match.headers, 16)
        for number, header in enumerate(match.headers):
            yield from header_match_faults(f"{here}.headers[{number}]", header)
    yield from filters_faults(f"{where}.filters", rule.filters, _FILTERS)
    for index, item in enumerate(rule.filters):
        yield from _filter_faults(f"{where}.filters[{index}]", item)
    yield from too_many(f"{where}.backendRefs", rule.backend_refs, MAX_BACKENDS)
    for index, backend in enumerate(rule.backend_refs):
        here = f"{where}.backendRefs[{index}]"
        yield from backend_faults(here, backend)
        yield from filters_faults(f"{here}.filters", backend.filters, _FILTERS)
        for number, item in enumerate(backend.filters):
            if item.type == "RequestMirror":
                reason = "RequestMirror cannot be honoured for one of several backends: put it into the rule's filters"
                yield Violation(path=f"{here}.filters[{number}].type", reason=reason)
            yield from _filter_faults(f"{here}.filters[{number}]", item)
    hint = "use a TrafficPolicy with a hash on a header"
    yield from unsupported(f"{where}.sessionPersistence", rule.session_persistence, hint)


def _filter_faults(where: str, item: GrpcFilter) -> Iterator[Violation]:
    if item.request_header_modifier:
        yield from modifier_faults(f"{where}.requestHeaderModifier", item.request_header_modifier)
    if item.response_header_modifier:
        yield from modifier_faults(f"{where}.responseHeaderModifier", item.response_header_modifier)
    if item.request_mirror:
        yield from mirror_faults(f"{where}.requestMirror", item.request_mirror)
    if item.type == "ExtensionRef":
        yield Violation(path=f"{where}.type", reason=f"{item.type} cannot be honoured")


def _method_faults(where: str, match: MethodMatch) -> Iterator[Violation]:
    if not match.service and not match.method:
        yield Violation(path=where, reason="a service, a method or both are needed")
        return
    for field, text, form in (("service", match.service, _SERVICE), ("method", match.method, _METHOD)):
        if not text:
            continue
        if match.type == "RegularExpression":
            yield from at(f"{where}.{field}", regex_fault(text))
        elif len(text) > 1024 or not form.match(text):
            yield Violation(path=f"{where}.{field}", reason=f"{shown(text)} is not the name of a gRPC {field}")
    # Both sound can be too much, or something else, together: proxies get one expression.
    if expression := method_expression(match):
        yield from at(where, regex_fault(expression))
