"""HTTPRoute (gateway.networking.k8s.io/v1): where a Service's HTTP requests go, by what they look like.

Which match of which route counts is the specification's order: exact path, then regular expression (the
specification leaves its place open), then the longest prefix; then a method, the number of headers, of query
parameters; then the older route, its name, and the order inside it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mesh.model.base import Frozen, Object, Ref, Violation
from mesh.model.checks import at, number_fault, repeated, shown
from mesh.model.duration import duration_fault, seconds
from mesh.model.regex import regex_fault
from mesh.model.routing import (
    MAX_ALL_MATCHES,
    MAX_BACKENDS,
    MAX_MATCHES,
    MAX_RULES,
    PATH,
    Cors,
    HeaderMatch,
    HeaderModifier,
    ParentRef,
    PathModifier,
    RequestMirror,
    RequestRedirect,
    UrlRewrite,
    WeightedBackendRef,
    backend_faults,
    cors_faults,
    filters_faults,
    head_faults,
    header_name_fault,
    header_value_fault,
    mirror_faults,
    modifier_faults,
    names_faults,
    parents_places,
    redirect_faults,
    rewrite_faults,
    subdomain_fault,
    too_many,
    unsupported,
)

MAX_SECONDS = 86400.0
MAX_ATTEMPTS = 10

_FILTERS = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestMirror": "request_mirror",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "CORS": "cors",
    "ExtensionRef": "extension_ref",
    "ExternalAuth": "external_auth",
}

_OF_RULES = frozenset({"RequestMirror", "RequestRedirect", "URLRewrite", "CORS"})
"""Filters that Envoy does not have for one of several backends."""


class PathMatch(Frozen, frozen=True, kw_only=True):
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = "/"
    """A prefix matches whole elements: /a matches /a, /a/ and /a/b, not /ab. An expression matches the whole path."""


class QueryParamMatch(Frozen, frozen=True, kw_only=True):
    """Of several with the same name, the first counts."""

    name: str
    value: str
    type: Literal["Exact", "RegularExpression"] = "Exact"


class HttpMatch(Frozen, frozen=True, kw_only=True):
    """All of it must match."""

    path: PathMatch = PathMatch()
    headers: tuple[HeaderMatch, ...] = ()
    query_params: tuple[QueryParamMatch, ...] = ()
    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] | None = None


class HttpFilter(Frozen, frozen=True, kw_only=True):
    type: Literal[
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestMirror",
        "RequestRedirect",
        "URLRewrite",
        "CORS",
        "ExtensionRef",
        "ExternalAuth",
    ]
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_mirror: RequestMirror | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None
    cors: Cors | None = None
    extension_ref: dict[str, Any] | None = None
    """Refused: there are no extensions of this kind."""
    external_auth: dict[str, Any] | None = None
    """Refused: not built."""


class HttpBackendRef(WeightedBackendRef, frozen=True, kw_only=True):
    filters: tuple[HttpFilter, ...] = ()
    """Modifiers of headers only."""


class HttpTimeouts(Frozen, frozen=True, kw_only=True):
    request: str = ""
    """The whole, with all tries. 0s: without limit."""
    backend_request: str = ""
    """One try."""


class HttpRetry(Frozen, frozen=True, kw_only=True):
    codes: tuple[int, ...] = ()
    """Statuses to try again on, besides failures to reach anybody."""
    attempts: int | None = None
    """Tries after the first."""
    backoff: str = ""
    """The least pause between tries."""


class HttpRule(Frozen, frozen=True, kw_only=True):
    name: str = ""
    matches: tuple[HttpMatch, ...] = ()
    """One is enough. Empty: everything."""
    filters: tuple[HttpFilter, ...] = ()
    backend_refs: tuple[HttpBackendRef, ...] = ()
    timeouts: HttpTimeouts = HttpTimeouts()
    retry: HttpRetry | None = None
    session_persistence: dict[str, Any] | None = None
    """Refused: a TrafficPolicy with a hash does it without a cookie of ours."""


class HttpRouteSpec(Frozen, frozen=True, kw_only=True):
    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    """Refused: the Service is what is called, whatever the Host (GEP-1294); match the header Host instead."""
    rules: tuple[HttpRule, ...] = (HttpRule(),)
    use_default_gateways: str | None = None
    """Refused: there are no default gateways."""


class HTTPRoute(Object, frozen=True, kw_only=True):
    api_version: str = "gateway.networking.k8s.io/v1"
    kind: Literal["HTTPRoute"] = "HTTPRoute"
    spec: HttpRouteSpec = HttpRouteSpec()

    def name_fault(self) -> str:
        return subdomain_fault(self.metadata.name)

    def looks_at(self) -> Iterator[Ref]:
        yield from parents_places(self.metadata, self.spec.parent_refs)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        spec = self.spec
        yield from head_faults(self.metadata, existing, spec.parent_refs, spec.use_default_gateways, spec.hostnames)
        yield from too_many("spec.rules", spec.rules, MAX_RULES, 1)
        if sum(len(rule.matches) for rule in spec.rules) > MAX_ALL_MATCHES:
            yield Violation(path="spec.rules", reason=f"more than {MAX_ALL_MATCHES} matches in all")
        yield from names_faults("spec.rules", (rule.name for rule in spec.rules))
        for index, rule in enumerate(spec.rules):
            yield from _rule_faults(f"spec.rules[{index}]", rule)


def _rule_faults(where: str, rule: HttpRule) -> Iterator[Violation]:
    yield from too_many(f"{where}.matches", rule.matches, MAX_MATCHES)
    for index, match in enumerate(rule.matches):
        yield from _match_faults(f"{where}.matches[{index}]", match)
    yield from filters_faults(f"{where}.filters", rule.filters, _FILTERS)
    for index, item in enumerate(rule.filters):
        yield from _filter_faults(f"{where}.filters[{index}]", item)
    yield from _together_faults(where, rule)
    yield from too_many(f"{where}.backendRefs", rule.backend_refs, MAX_BACKENDS)
    for index, backend in enumerate(rule.backend_refs):
        yield from _backend_faults(f"{where}.backendRefs[{index}]", backend)
    yield from _timeouts_faults(f"{where}.timeouts", rule.timeouts)
    if rule.retry is not None:
        yield from _retry_faults(f"{where}.retry", rule.retry)
    hint = "use a TrafficPolicy with a hash on a cookie or header"
    yield from unsupported(f"{where}.sessionPersistence", rule.session_persistence, hint)


def _match_faults(where: str, match: HttpMatch) -> Iterator[Violation]:
    yield from at(f"{where}.path.value", path_fault(match.path.type, match.path.value))
    yield from too_many(f"{where}.headers", match.headers, 16)
    for index, header in enumerate(match.headers):
        yield from header_match_faults(f"{where}.headers[{index}]", header)
    yield from too_many(f"{where}.queryParams", match.query_params, 16)
    for index, param in enumerate(match.query_params):
        here = f"{where}.queryParams[{index}]"
        yield from at(f"{here}.name", header_name_fault(param.name))
        if not 1 <= len(param.value) <= 1024 or not param.value.isprintable():
            yield Violation(path=f"{here}.value", reason=f"{shown(param.value)} is not 1 to 1024 printable characters")
        elif param.type == "RegularExpression":
            yield from at(f"{here}.value", regex_fault(param.value))
    if match.method == "CONNECT":
        # It has no path, so not even a rule for everything would match it.
        yield Violation(path=f"{where}.method", reason="CONNECT cannot be honoured: proxies open no tunnels")


def header_match_faults(where: str, header: HeaderMatch) -> Iterator[Violation]:
    yield from at(f"{where}.name", header_name_fault(header.name))
    if header.type == "RegularExpression":
        yield from at(f"{where}.value", regex_fault(header.value))
    else:
        yield from at(f"{where}.value", header_value_fault(header.value))


def path_fault(kind: str, value: str) -> str:
    """Of a match. One spelling only, since proxies and applications would read others differently."""
    if kind == "RegularExpression":
        return regex_fault(value)
    if len(value) > 1024 or not value.startswith("/") or not PATH.match(value):
        return f"{shown(value)} is not an absolute path of at most 1024 characters"
    for bad in ("//", "/./", "/../", "%2f", "%2F", "#"):
        if bad in value:
            return f"{shown(value)} contains {bad!r}"
    return f"{shown(value)} ends with a dot name" if value.endswith(("/.", "/..")) else ""


def _filter_faults(where: str, item: HttpFilter) -> Iterator[Violation]:
    if item.request_header_modifier:
        yield from modifier_faults(f"{where}.requestHeaderModifier", item.request_header_modifier)
    if item.response_header_modifier:
        yield from modifier_faults(f"{where}.responseHeaderModifier", item.response_header_modifier)
    if item.request_mirror:
        yield from mirror_faults(f"{where}.requestMirror", item.request_mirror)
    if item.request_redirect:
        yield from redirect_faults(f"{where}.requestRedirect", item.request_redirect)
    if item.url_rewrite:
        yield from rewrite_faults(f"{where}.urlRewrite", item.url_rewrite)
    if item.cors:
        yield from cors_faults(f"{where}.cors", item.cors)
    if item.type in {"ExtensionRef", "ExternalAuth"}:
        yield Violation(path=f"{where}.type", reason=f"{item.type} cannot be honoured")


def _together_faults(where: str, rule: HttpRule) -> Iterator[Violation]:
    kinds = {item.type for item in rule.filters}
    if {"RequestRedirect", "URLRewrite"} <= kinds:
        yield Violation(path=f"{where}.filters", reason="RequestRedirect and URLRewrite exclude each other")
    if "RequestRedirect" in kinds and rule.backend_refs:
        yield Violation(path=f"{where}.backendRefs", reason="a redirect sends nothing on: leave the backends out")
    for index, item in enumerate(rule.filters):
        for field, path in _modified_paths(item):
            if path.type == "ReplacePrefixMatch" and not _one_prefix(rule):
                reason = "the rule needs exactly one match, with a PathPrefix, for its prefix to be replaced"
                yield Violation(path=f"{where}.filters[{index}].{field}.path", reason=reason)


def _modified_paths(item: HttpFilter) -> Iterator[tuple[str, PathModifier]]:
    if item.request_redirect and item.request_redirect.path:
        yield "requestRedirect", item.request_redirect.path
    if item.url_rewrite and item.url_rewrite.path:
        yield "urlRewrite", item.url_rewrite.path


def _one_prefix(rule: HttpRule) -> bool:
    return len(rule.matches) == 1 and rule.matches[0].path.type == "PathPrefix"


def _backend_faults(where: str, backend: HttpBackendRef) -> Iterator[Violation]:
    yield from backend_faults(where, backend)
    yield from filters_faults(f"{where}.filters", backend.filters, _FILTERS)
    for index, item in enumerate(backend.filters):
        if item.type in _OF_RULES:
            reason = f"{item.type} cannot be honoured for one of several backends: put it into the rule's filters"
            yield Violation(path=f"{where}.filters[{index}].type", reason=reason)
        else:
            yield from _filter_faults(f"{where}.filters[{index}]", item)


def _timeouts_faults(where: str, timeouts: HttpTimeouts) -> Iterator[Violation]:
    faults = {}
    for field, text in (("request", timeouts.request), ("backendRequest", timeouts.backend_request)):
        if text:
            faults[field] = duration_fault(text, 0, MAX_SECONDS)
            yield from at(f"{where}.{field}", faults[field])
    if len(faults) == 2 and not any(faults.values()):
        whole, one = seconds(timeouts.request), seconds(timeouts.backend_request)
        if whole and one > whole:
            yield Violation(path=f"{where}.backendRequest", reason="one try cannot last longer than the whole request")


def _retry_faults(where: str, retry: HttpRetry) -> Iterator[Violation]:
    for index, code in enumerate(retry.codes):
        yield from at(f"{where}.codes[{index}]", number_fault(code, 400, 599))
    yield from repeated(f"{where}.codes", "", retry.codes)
    if retry.attempts is not None:
        yield from at(f"{where}.attempts", number_fault(retry.attempts, 1, MAX_ATTEMPTS))
    if retry.backoff:
        yield from at(f"{where}.backoff", duration_fault(retry.backoff, 0.001, 3600))
