"""What the route kinds of Gateway API have in common: parents, backends, filters.

Fields are those of gateway.networking.k8s.io/v1, spelled as there. What cannot be honoured is refused here, with its
path; what can is never ignored. Where the specification lets an implementation choose, the choice is told beside the
field.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from mesh.model.base import Frozen, Metadata, Object, Ref, ServiceRef, Violation
from mesh.model.checks import at, imported_name_fault, label_fault, number_fault, port_fault, repeated, shown

GROUP = "gateway.networking.k8s.io"
SUBSET = ("holdfast.dev", "ServiceSubset")
"""Group and kind of a backend that is a subset of a Service: `<service>.<subset>`, as a TrafficPolicy names it."""
EXTERNAL = ("holdfast.dev", "ExternalService")
IMPORTED = ("holdfast.dev", "ImportedService")
"""Of another cluster: `<service>.<peer>`."""

MAX_PARENTS, MAX_RULES, MAX_BACKENDS, MAX_FILTERS, MAX_MATCHES, MAX_ALL_MATCHES = 32, 16, 16, 16, 64, 128
MAX_WEIGHT = 1_000_000
MAX_SUBDOMAIN = 253

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}\Z")
_HEADER_VALUE = re.compile(r"[!-~]+([\t ]?[!-~]+)*\Z")
_HOSTNAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
PATH = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+\Z")
_ORIGIN = re.compile(r"(\*\Z)|(https?://(((\*\.)?([a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)\Z)")

_OURS = re.compile(r"(?i)(x-holdfast-|x-envoy-|:)")
"""Headers by which proxies speak with each other; a route that sets them could speak for them."""

_FORWARDED = frozenset({"host", "x-forwarded-client-cert"})


class ParentRef(Frozen, frozen=True, kw_only=True):
    """The Service whose callers the route is for: of one in another namespace, only callers in the route's own."""

    name: str
    group: str = GROUP
    kind: str = "Gateway"
    namespace: str = ""
    """Empty: the route's own."""
    section_name: str = ""
    """Name of one of the Service's ports."""
    port: int = 0
    """One of the Service's ports; 0: all of them."""


class BackendRef(Frozen, frozen=True, kw_only=True):
    """A Service's port as a place to send to."""

    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    """Empty: the route's own. Another one has to allow it by a ReferenceGrant, unless it is the parent's."""
    port: int = 0


class WeightedBackendRef(BackendRef, frozen=True, kw_only=True):
    weight: int = 1
    """Share of the traffic, against the sum of all weights of the rule; 0: none."""


class Header(Frozen, frozen=True, kw_only=True):
    name: str
    value: str


class HeaderModifier(Frozen, frozen=True, kw_only=True):
    set: tuple[Header, ...] = ()
    add: tuple[Header, ...] = ()
    remove: tuple[str, ...] = ()


class Fraction(Frozen, frozen=True, kw_only=True):
    numerator: int
    denominator: int = 100


class RequestMirror(Frozen, frozen=True, kw_only=True):
    """A copy goes there, and its answer is thrown away."""

    backend_ref: BackendRef
    percent: int | None = None
    fraction: Fraction | None = None


class HeaderMatch(Frozen, frozen=True, kw_only=True):
    """Of several with the same name (in any case), the first counts."""

    name: str
    value: str
    type: Literal["Exact", "RegularExpression"] = "Exact"


class PathModifier(Frozen, frozen=True, kw_only=True):
    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RequestRedirect(Frozen, frozen=True, kw_only=True):
    scheme: Literal["http", "https"] | None = None
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    status_code: Literal[301, 302, 303, 307, 308] = 302


class UrlRewrite(Frozen, frozen=True, kw_only=True):
    hostname: str = ""
    path: PathModifier | None = None


class Cors(Frozen, frozen=True, kw_only=True):
    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: int = 5
    """Seconds."""


# --- checks ----------------------------------------------------------------------------------------------------------


def subdomain_fault(text: str) -> str:
    """Is it a DNS subdomain (RFC 1123), as names of routes are?"""
    if text and len(text) <= MAX_SUBDOMAIN and _HOSTNAME.match(text):
        return ""
    return f"{shown(text)} is not a DNS name: a-z, 0-9, '-' and '.' inside, at most {MAX_SUBDOMAIN} characters"


def too_many(path: str, items: Sequence[object], most: int, least: int = 0) -> Iterator[Violation]:
    if len(items) > most:
        yield Violation(path=path, reason=f"{len(items)} are more than {most}")
    if len(items) < least:
        yield Violation(path=path, reason=f"at least {least} is needed")


def unsupported(path: str, value: object, hint: str) -> Iterator[Violation]:
    """A field that the mesh cannot honour must not be there."""
    if value not in (None, "", (), 0):
        yield Violation(path=path, reason=f"cannot be honoured: {hint}")


def parents_faults(parents: tuple[ParentRef, ...]) -> Iterator[Violation]:
    yield from too_many("spec.parentRefs", parents, MAX_PARENTS, 1)
    for index, parent in enumerate(parents):
        where = f"spec.parentRefs[{index}]"
        if (parent.group, parent.kind) != ("", "Service"):
            kind = shown(f"{parent.group}/{parent.kind}")
            reason = f"{kind} cannot be a parent: only Services can (group: '', kind: Service)"
            yield Violation(path=f"{where}.kind", reason=reason)
        yield from at(f"{where}.name", label_fault(parent.name))
        yield from _namespace(where, parent.namespace)
        if parent.section_name:
            yield from at(f"{where}.sectionName", label_fault(parent.section_name))
        if parent.port:
            yield from at(f"{where}.port", port_fault(parent.port))
    places: list[Hashable] = [(p.namespace, p.name, p.section_name, p.port) for p in parents]
    yield from repeated("spec.parentRefs", "", places)
    for index, parent in enumerate(parents):
        same = [p for p in parents if (p.namespace, p.name) == (parent.namespace, parent.name)]
        if len(same) > 1 and not (parent.section_name or parent.port):
            reason = "the same Service is a parent twice: sectionName or port must tell them apart"
            yield Violation(path=f"spec.parentRefs[{index}]", reason=reason)


def parents_places(own: Metadata, parents: tuple[ParentRef, ...]) -> Iterator[Ref]:
    """What parents may be: Services, or by mistake ExternalServices."""
    for parent in parents:
        for kind in ("Service", "ExternalService"):
            yield Ref(kind, parent.namespace or own.namespace, parent.name)


def outside_parent(service: ServiceRef, existing: Mapping[Ref, Object]) -> str:
    """Why a route cannot hang on this, if it is a name outside of the mesh; empty: it is not, as far as is known."""
    if Ref("Service", *service) in existing or Ref("ExternalService", *service) not in existing:
        return ""
    return f"{service} is an ExternalService: routes hang on Services only, and may lead to it as a backend"


def head_faults(
    own: Metadata,
    existing: Mapping[Ref, Object],
    parents: tuple[ParentRef, ...],
    gateways: str | None,
    hostnames: tuple[str, ...] = (),
) -> Iterator[Violation]:
    """What all kinds of route say before their rules."""
    yield from parents_faults(parents)
    for index, parent in enumerate(parents):
        place = ServiceRef(parent.namespace or own.namespace, parent.name)
        yield from at(f"spec.parentRefs[{index}].name", outside_parent(place, existing))
    yield from unsupported(
        "spec.hostnames", hostnames, "a Service is called by its name; match the header Host instead"
    )
    yield from unsupported("spec.useDefaultGateways", gateways, "there are no default gateways")


def _namespace(where: str, namespace: str) -> Iterator[Violation]:
    if namespace:
        yield from at(f"{where}.namespace", label_fault(namespace))


def backend_faults(where: str, backend: BackendRef) -> Iterator[Violation]:
    """Form only. A kind that does not exist is not refused: the specification has its share answered with 500."""
    if (backend.group, backend.kind) in {("", "Service"), EXTERNAL, IMPORTED}:
        imported = (backend.group, backend.kind) == IMPORTED
        yield from at(f"{where}.name", (imported_name_fault if imported else label_fault)(backend.name))
        if not backend.port:
            yield Violation(path=f"{where}.port", reason="is missing: a Service is called on a port")
    elif (backend.group, backend.kind) == SUBSET:
        labels = backend.name.split(".")
        if len(labels) != 2 or any(label_fault(label) for label in labels):
            yield Violation(path=f"{where}.name", reason=f"{shown(backend.name)} is not <service>.<subset>")
        if not backend.port:
            yield Violation(path=f"{where}.port", reason="is missing: a Service is called on a port")
    else:
        yield from at(f"{where}.name", subdomain_fault(backend.name))
    if backend.port:
        yield from at(f"{where}.port", port_fault(backend.port))
    yield from _namespace(where, backend.namespace)
    if isinstance(backend, WeightedBackendRef):
        yield from at(f"{where}.weight", number_fault(backend.weight, 0, MAX_WEIGHT))


def header_name_fault(name: str) -> str:
    return "" if _HEADER_NAME.match(name) else f"{shown(name)} is not the name of a header"


def header_value_fault(value: str) -> str:
    if len(value) <= 4096 and _HEADER_VALUE.match(value):
        return ""
    return f"{shown(value)} is not a header's value: visible ASCII, single blanks inside, at most 4096 characters"


def modifier_faults(where: str, modifier: HeaderModifier) -> Iterator[Violation]:
    """The three lists may not name a header twice: what would be done to it first is not said anywhere."""
    for field, headers in (("set", modifier.set), ("add", modifier.add)):
        yield from too_many(f"{where}.{field}", headers, 16)
        for index, header in enumerate(headers):
            yield from at(f"{where}.{field}[{index}].name", _settable_fault(header.name))
            yield from at(f"{where}.{field}[{index}].value", header_value_fault(header.value))
        yield from repeated(f"{where}.{field}", ".name", (h.name.lower() for h in headers))
    yield from too_many(f"{where}.remove", modifier.remove, 16)
    for index, name in enumerate(modifier.remove):
        yield from at(f"{where}.remove[{index}]", _settable_fault(name))
    yield from repeated(f"{where}.remove", "", (name.lower() for name in modifier.remove))
    both = [*(h.name.lower() for h in modifier.set), *(h.name.lower() for h in modifier.add)]
    both += [name.lower() for name in modifier.remove]
    if len(both) > len(set(both)):
        yield Violation(path=where, reason="the same header is set, added or removed at once")


def _settable_fault(name: str) -> str:
    if fault := header_name_fault(name):
        return fault
    if _OURS.match(name) or name.lower() in _FORWARDED:
        return f"{shown(name)} is the proxies' own, or has a field of its own: it cannot be changed as a header"
    return ""


def mirror_faults(where: str, mirror: RequestMirror) -> Iterator[Violation]:
    yield from backend_faults(f"{where}.backendRef", mirror.backend_ref)
    if mirror.percent is not None:
        yield from at(f"{where}.percent", number_fault(mirror.percent, 0, 100))
        if mirror.fraction is not None:
            yield Violation(path=where, reason="only one of percent and fraction may be there")
    if mirror.fraction is not None:
        fraction = mirror.fraction
        if not 1 <= fraction.denominator <= 0x7FFFFFFF:
            yield Violation(path=f"{where}.fraction.denominator", reason="must be at least 1")
        elif not 0 <= fraction.numerator <= fraction.denominator:
            yield Violation(path=f"{where}.fraction.numerator", reason="must be from 0 to the denominator")


def path_modifier_faults(where: str, path: PathModifier) -> Iterator[Violation]:
    fields = {"ReplaceFullPath": "replaceFullPath", "ReplacePrefixMatch": "replacePrefixMatch"}
    values = {"replaceFullPath": path.replace_full_path, "replacePrefixMatch": path.replace_prefix_match}
    for kind, field in fields.items():
        value = values[field]
        if (value is not None) != (kind == path.type):
            yield Violation(path=f"{where}.{field}", reason=f"belongs to type {kind}, and to no other")
        elif value is not None and not _replacement(field, value):
            yield Violation(path=f"{where}.{field}", reason=f"{shown(value)} is not an absolute path")


def _replacement(field: str, value: str) -> bool:
    """May it stand in for a path? A prefix may also be replaced by nothing."""
    if not value:
        return field == "replacePrefixMatch"
    return len(value) <= 1024 and value.startswith("/") and bool(PATH.match(value))


def redirect_faults(where: str, redirect: RequestRedirect) -> Iterator[Violation]:
    if redirect.hostname:
        yield from at(f"{where}.hostname", subdomain_fault(redirect.hostname))
    if redirect.port:
        yield from at(f"{where}.port", port_fault(redirect.port))
    if redirect.path:
        yield from path_modifier_faults(f"{where}.path", redirect.path)


def rewrite_faults(where: str, rewrite: UrlRewrite) -> Iterator[Violation]:
    if rewrite.hostname:
        yield from at(f"{where}.hostname", subdomain_fault(rewrite.hostname))
    if rewrite.path:
        yield from path_modifier_faults(f"{where}.path", rewrite.path)


def _credentials_faults(where: str, cors: Cors) -> Iterator[Violation]:
    for field, values in (("allowMethods", cors.allow_methods), ("allowHeaders", cors.allow_headers)):
        if cors.allow_credentials and "*" in values:
            reason = "with credentials browsers take '*' for a name (Fetch, CORS protocol): list them"
            yield Violation(path=f"{where}.{field}", reason=reason)


def cors_faults(where: str, cors: Cors) -> Iterator[Violation]:
    for field, values, most in (
        ("allowOrigins", cors.allow_origins, 64),
        ("allowMethods", cors.allow_methods, 9),
        ("allowHeaders", cors.allow_headers, 64),
        ("exposeHeaders", cors.expose_headers, 64),
    ):
        yield from too_many(f"{where}.{field}", values, most)
        if "*" in values and len(values) > 1 and field != "exposeHeaders":
            yield Violation(path=f"{where}.{field}", reason="'*' stands alone")
    yield from _credentials_faults(where, cors)
    for index, origin in enumerate(cors.allow_origins):
        if len(origin) > MAX_SUBDOMAIN or not _ORIGIN.match(origin):
            yield Violation(path=f"{where}.allowOrigins[{index}]", reason=f"{shown(origin)} is not an origin")
    for index, method in enumerate(cors.allow_methods):
        if method != "*" and method not in METHODS:
            yield Violation(path=f"{where}.allowMethods[{index}]", reason=f"{shown(method)} is not a method")
    for field, names in (("allowHeaders", cors.allow_headers), ("exposeHeaders", cors.expose_headers)):
        for index, name in enumerate(names):
            yield from at(f"{where}.{field}[{index}]", header_name_fault(name))
    if not 1 <= cors.max_age <= 0x7FFFFFFF:
        yield Violation(path=f"{where}.maxAge", reason="must be at least 1")


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


def filters_faults(where: str, filters: Sequence[Any], fields: dict[str, str]) -> Iterator[Violation]:
    """A filter has the one field of its type. `fields`: type -> name of its field, as in the Struct."""
    yield from too_many(where, filters, MAX_FILTERS)
    for index, item in enumerate(filters):
        for kind, field in fields.items():
            there = getattr(item, field) is not None
            if there != (kind == item.type):
                reason = f"belongs to a filter of type {kind}" if there else f"is missing: the filter is of type {kind}"
                yield Violation(path=f"{where}[{index}].{camel(field)}", reason=reason)
    for kind in dict.fromkeys(item.type for item in filters):
        if kind != "RequestMirror" and sum(item.type == kind for item in filters) > 1:
            yield Violation(path=where, reason=f"a filter of type {kind} cannot be repeated")


def names_faults(where: str, names: Iterable[str]) -> Iterator[Violation]:
    """Names of rules: each once."""
    listed = list(names)
    for index, name in enumerate(listed):
        if name:
            yield from at(f"{where}[{index}].name", subdomain_fault(name))
    yield from repeated(where, ".name", listed)


def camel(field: str) -> str:
    """As the field is written."""
    head, *rest = field.split("_")
    return head + "".join(word.capitalize() for word in rest)
