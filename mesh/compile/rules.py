"""HTTP and gRPC routes as one ordered list of what a request may look like and where it goes then.

A gRPC method is a path (`/<service>/<method>`), so one form serves both. Order is the specification's; where that
leaves a place open, regular expressions of paths come after exact paths and before prefixes: whoever writes one means
something more special than a prefix.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from mesh.compile import names
from mesh.compile.attach import AnyRoute, Attached, Resolved, Unresolved, age
from mesh.model import ExternalService, GRPCRoute, HTTPRoute, Ref, ServiceRef, TCPRoute
from mesh.model.grpcroute import GrpcBackendRef, GrpcFilter, GrpcMatch, GrpcRule, MethodMatch, method_expression
from mesh.model.httproute import HttpBackendRef, HttpFilter, HttpMatch, HttpRetry, HttpRule, HttpTimeouts, PathMatch
from mesh.model.routing import BackendRef, Cors, HeaderModifier, RequestMirror, RequestRedirect, UrlRewrite

_PATHS = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}


class Target(NamedTuple):
    """A Service's port, as a place to send to."""

    service: ServiceRef
    port: int
    subset: str = ""
    """Only those of its endpoints; empty: all."""
    external: bool = False
    """An ExternalService's."""


@dataclass(frozen=True, slots=True)
class Share:
    target: Target
    weight: int
    request: HeaderModifier | None = None
    response: HeaderModifier | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    target: Target
    numerator: int
    denominator: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One match of one rule: what it takes, and all that happens then."""

    id: str
    """`<kind>/<namespace>/<route>/<rule's name or index>/<match's index>`."""
    source: Ref
    match: HttpMatch
    grpc: bool
    shares: tuple[Share, ...] = ()
    """Those that can be sent to, with a weight."""
    lost: int = 0
    """Weight of backends that cannot be sent to."""
    why: str = ""
    """Why not, in words for the caller."""
    mirrors: tuple[Mirror, ...] = ()
    request: HeaderModifier | None = None
    response: HeaderModifier | None = None
    redirect: RequestRedirect | None = None
    rewrite: UrlRewrite | None = None
    cors: Cors | None = None
    timeouts: HttpTimeouts = HttpTimeouts()
    retry: HttpRetry | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        return (*(share.target for share in self.shares), *(mirror.target for mirror in self.mirrors))


@dataclass(frozen=True, slots=True)
class TcpSplit:
    """What a TCPRoute says of a Service's connections."""

    source: Ref
    shares: tuple[Share, ...]
    lost: int = 0
    """Weight of backends that cannot be sent to: their share of connections is closed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A backend that cannot be sent to, for the host's status."""

    source: Ref
    path: str
    reason: str


def entries(
    attached: Attached, routes: Iterable[AnyRoute], called: ServiceRef
) -> tuple[tuple[Entry, ...], tuple[Fault, ...]]:
    """All matches of these routes, in the order in which they are tried, for calls of a Service that they are for."""
    found: list[tuple[tuple[object, ...], Entry]] = []
    faults: list[Fault] = []
    for route in routes:
        if not isinstance(route, HTTPRoute | GRPCRoute):
            continue
        for index, rule in enumerate(_rules(route)):
            maker = _Maker(partial(attached.resolve, route, called=called), route, index, rule)
            for number, match in enumerate(_matches(route, index)):
                order = (*match.rank, *age(route), index, number)
                found.append((order, maker.entry(number, match.http)))
            faults.extend(maker.faults)
    found.sort(key=lambda pair: pair[0])
    return tuple(entry for _, entry in found), tuple(faults)


def split(
    attached: Attached, routes: Iterable[AnyRoute], called: ServiceRef
) -> tuple[TcpSplit | None, tuple[Fault, ...]]:
    """The shares of the first TCPRoute: connections have nothing to choose a route by, so the oldest counts."""
    for route in routes:
        if not isinstance(route, TCPRoute):
            continue
        shares: dict[Target, int] = {}
        lost, faults = 0, list[Fault]()
        for number, backend in enumerate(route.spec.rules[0].backend_refs if route.spec.rules else ()):
            outcome = attached.resolve(route, backend, called)
            if isinstance(outcome, Unresolved):
                lost += max(0, backend.weight)
                faults.append(Fault(route.ref, f"spec.rules[0].backendRefs[{number}]", outcome.message))
            elif backend.weight > 0:
                target = _target(outcome)
                shares[target] = shares.get(target, 0) + backend.weight
        ordered = tuple(Share(target, shares[target]) for target in sorted(shares))
        return TcpSplit(route.ref, ordered, lost), tuple(faults)
    return None, ()


def _target(found: Resolved) -> Target:
    return Target(found.service.service, found.port.port, found.subset, isinstance(found.service, ExternalService))


def _rules(route: HTTPRoute | GRPCRoute) -> Iterator[HttpRule | GrpcRule]:
    # A GRPCRoute without rules takes everything, as one without matches does.
    yield from route.spec.rules or (GrpcRule(),)


class _Match(NamedTuple):
    http: HttpMatch
    rank: tuple[object, ...]
    """Smaller is tried earlier."""


def _matches(route: HTTPRoute | GRPCRoute, index: int) -> list[_Match]:
    if isinstance(route, HTTPRoute):
        return [_Match(match, _http_rank(match)) for match in route.spec.rules[index].matches or (HttpMatch(),)]
    rules = route.spec.rules or (GrpcRule(),)
    return [_grpc_match(match) for match in rules[index].matches or (GrpcMatch(),)]


def _grpc_match(match: GrpcMatch) -> _Match:
    http = HttpMatch(path=_method_path(match.method), headers=match.headers)
    method = match.method or MethodMatch()
    service = len(method.service.removeprefix(".")) if method.type == "Exact" else len(method.service)
    # GRPCRoute, rules: characters of the service, then of the method, then headers. An exact one before an expression
    # of the same length.
    headers = {h.name.lower() for h in match.headers}
    return _Match(http, (-service, -len(method.method), method.type != "Exact", -len(headers)))


def _method_path(method: MethodMatch | None) -> PathMatch:
    if method is None:
        return PathMatch()
    if expression := method_expression(method):
        return PathMatch(type="RegularExpression", value=expression)
    service = method.service.removeprefix(".")
    if method.method:
        return PathMatch(type="Exact", value=f"/{service}/{method.method}")
    return PathMatch(type="PathPrefix", value=f"/{service}")


def _http_rank(match: HttpMatch) -> tuple[object, ...]:
    headers = {h.name.lower() for h in match.headers}
    params = {p.name for p in match.query_params}
    length = len(match.path.value.rstrip("/"))
    kind = _PATHS[match.path.type]
    if match.path.type == "PathPrefix" and not length:
        kind = len(_PATHS)  # everything: after whatever says something of the path
    return (kind, -length, match.method is None, -len(headers), -len(params))


class _Maker:
    """Makes the entries of one rule."""

    def __init__(
        self,
        resolve: Callable[[BackendRef], Resolved | Unresolved],
        route: HTTPRoute | GRPCRoute,
        index: int,
        rule: HttpRule | GrpcRule,
    ) -> None:
        self._resolve, self._route, self._index, self._rule = resolve, route, index, rule
        self.faults: list[Fault] = []
        self._shares: list[Share] = []
        self._lost = 0
        self._why = ""
        self._mirrors: list[Mirror] = []
        backends: Sequence[HttpBackendRef | GrpcBackendRef] = rule.backend_refs
        filters: Sequence[HttpFilter | GrpcFilter] = rule.filters
        for number, backend in enumerate(backends):
            outcome = resolve(backend)
            if isinstance(outcome, Unresolved):
                self._lose(f"backendRefs[{number}]", outcome)
                self._lost += max(0, backend.weight)
            elif backend.weight > 0:
                target = _target(outcome)
                request, response = _modifiers(backend.filters)
                self._shares.append(Share(target, backend.weight, request, response))
        if not backends:
            self._why = "the rule has no backends"
        elif not self._shares and not self._lost:
            self._why = "all backends of the rule have weight 0"
        for number, item in enumerate(filters):
            if item.request_mirror is not None:
                self._mirror(number, item.request_mirror)

    def _lose(self, path: str, outcome: Unresolved) -> None:
        self._why = self._why or outcome.message
        self.faults.append(Fault(self._route.ref, f"spec.rules[{self._index}].{path}", outcome.message))

    def _mirror(self, number: int, mirror: RequestMirror) -> None:
        outcome = self._resolve(mirror.backend_ref)
        if isinstance(outcome, Unresolved):
            self._lose(f"filters[{number}]", outcome)
            return
        share = (100, 100) if mirror.percent is None else (mirror.percent, 100)
        if mirror.fraction is not None:
            share = (mirror.fraction.numerator, mirror.fraction.denominator)
        self._mirrors.append(Mirror(_target(outcome), *share))

    def entry(self, number: int, match: HttpMatch) -> Entry:
        rule, meta = self._rule, self._route.metadata
        request, response = _modifiers(rule.filters)
        http = rule if isinstance(rule, HttpRule) else HttpRule()
        return Entry(
            id="/".join(
                (
                    self._route.kind,
                    names.safe(meta.namespace),
                    names.safe(meta.name),
                    names.safe(rule.name) if rule.name else str(self._index),
                    str(number),
                )
            ),
            source=self._route.ref,
            match=match,
            grpc=isinstance(self._route, GRPCRoute),
            shares=tuple(self._shares),
            lost=self._lost,
            why=self._why,
            mirrors=tuple(self._mirrors),
            request=request,
            response=response,
            redirect=next((f.request_redirect for f in http.filters if f.request_redirect), None),
            rewrite=next((f.url_rewrite for f in http.filters if f.url_rewrite), None),
            cors=next((f.cors for f in http.filters if f.cors), None),
            timeouts=http.timeouts,
            retry=http.retry,
        )


class _Filter(Protocol):
    """What filters of both kinds of route have."""

    @property
    def request_header_modifier(self) -> HeaderModifier | None: ...
    @property
    def response_header_modifier(self) -> HeaderModifier | None: ...


def _modifiers(filters: Iterable[_Filter]) -> tuple[HeaderModifier | None, HeaderModifier | None]:
    request: HeaderModifier | None = None
    response: HeaderModifier | None = None
    for item in filters:
        request = request or item.request_header_modifier
        response = response or item.response_header_modifier
    return request, response
