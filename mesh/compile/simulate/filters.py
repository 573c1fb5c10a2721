"""HTTP filters, in their order: each lets a request pass, or answers it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mesh import pb
from mesh.compile.simulate import cors, limiting
from mesh.compile.simulate.fields import known, unpack
from mesh.compile.simulate.formats import Metadata
from mesh.compile.simulate.matching import header_holds
from mesh.compile.simulate.request import Request
from mesh.compile.simulate.routing import Chosen
from mesh.compile.simulate.rules import NONE, ruling
from mesh.compile.simulate.run import Run
from mesh.compile.simulate.verdict import Deny, Direct, Fault, Headers, Unsupported

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_SHADOW_RULE = ("envoy.filters.http.rbac", "shadow_effective_policy_id")
_TYPES = (pb.HttpRbac, pb.LocalRateLimit, pb.HttpFault, pb.Cors, pb.Router)


@dataclass(slots=True)
class Passing:
    """What filters leave behind on a request that goes on."""

    rule: str = ""
    metadata: Metadata = field(default_factory=dict)
    delay: float = 0.0
    limits: tuple[str, ...] = ()
    cors: Headers = ()
    preflight: bool = False
    """The answer is a filter's own from head to foot: nothing is done to it on its way out."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A filter in its place: what it is configured with, for this request."""

    name: str
    config: Any
    """The filter's own."""
    route: Any
    """The most specific one of a route, or None."""
    resource: str
    """Of the configuration that counts."""
    field: str


Answer = Deny | Direct | Fault


def first_answer(
    run: Run, hcm: Any, chosen: Chosen | None, request: Request, listener: str, passing: Passing
) -> Answer | None:
    """The first answer of a filter; None: all let it pass. The router is the last, and not asked here."""
    for index, entry in enumerate(hcm.http_filters):
        known(entry)
        config = unpack(entry.typed_config, *_TYPES, where=f"{_HCM}.http_filters")
        if isinstance(config, pb.Router):
            _check_router(config)
            return None
        seat = _seat(entry, config, chosen, (listener, f"http_filters[{index}]"))
        if seat is None:
            continue
        answer = _ASK[type(config)](run, seat, chosen, request, passing)
        if answer is not None:
            return answer
    raise Unsupported(f"{_HCM}.http_filters", "there is no router")


def _check_router(config: Any) -> None:
    if not config.suppress_envoy_headers:
        raise Unsupported("envoy.extensions.filters.http.router.v3.Router.suppress_envoy_headers", "it is not set")


def _seat(entry: Any, config: Any, chosen: Chosen | None, place: tuple[str, str]) -> Seat | None:
    """None: it is disabled for this request."""
    disabled, found, where = None, None, place
    for _, level_field, level in chosen.levels() if chosen else ():
        packed = level.typed_per_filter_config.get(entry.name)
        if packed is None:
            continue
        packed, off = _unwrapped(packed)
        disabled = off if disabled is None else disabled
        if packed is not None and found is None:
            assert chosen is not None
            found = unpack(packed, _PER_ROUTE[type(config)], where="typed_per_filter_config")
            where = (chosen.resource, f"{level_field}.typed_per_filter_config[{entry.name}]".lstrip("."))
    if disabled if disabled is not None else entry.disabled:
        return None
    return Seat(entry.name, config, found, *where)


def _unwrapped(packed: Any) -> tuple[Any, bool]:
    """Without the wrapper that can disable a filter; then nothing is in it."""
    if packed.type_url != pb.TYPE_PREFIX + pb.FilterConfig.DESCRIPTOR.full_name:
        return packed, False
    wrapper = unpack(packed, pb.FilterConfig, where="typed_per_filter_config")
    return (None if wrapper.disabled else wrapper.config), wrapper.disabled


_PER_ROUTE: dict[Any, Any] = {
    pb.HttpRbac: pb.RBACPerRoute,
    pb.LocalRateLimit: pb.LocalRateLimit,
    pb.HttpFault: pb.HttpFault,
    pb.Cors: pb.CorsPolicy,
}


def _rbac(run: Run, seat: Seat, _chosen: Chosen | None, request: Request, passing: Passing) -> Deny | None:
    config, where = seat.config, seat.field
    if seat.route is not None:
        if not seat.route.HasField("rbac"):
            return None
        config, where = seat.route.rbac, f"{where}.rbac"
        known(config)
    shadow = ""
    if config.HasField("shadow_matcher"):
        said = ruling(config.shadow_matcher, request, f"{where}.shadow_matcher")
        run.note("filter", seat.resource, said.field, f"{seat.name} would be decided by {said.rule}")
        shadow = "" if said == NONE else said.rule
    if config.HasField("matcher"):
        said = ruling(config.matcher, request, f"{where}.matcher")
        word = "allows" if said.allowed else "denies"
        run.note("filter", seat.resource, said.field, f"{seat.name}: {said.rule} {word}")
        if not said.allowed:
            return Deny(rule=said.rule, status=403)
        passing.rule = said.rule
    # What shadow rules said is told only after the filter's own refusal.
    if shadow:
        passing.metadata[_SHADOW_RULE] = shadow
    return None


def _rate_limit(run: Run, seat: Seat, _chosen: Chosen | None, request: Request, passing: Passing) -> None:
    said = tuple(limiting.buckets(seat.config if seat.route is None else seat.route, request))
    if said:
        run.note("filter", seat.resource, seat.field, f"{seat.name}: {'; '.join(said)}; not counted here")
    passing.limits += said


def _seconds(duration: Any) -> float:
    return float(duration.ToTimedelta().total_seconds())


def _fault(run: Run, seat: Seat, chosen: Chosen | None, request: Request, passing: Passing) -> Fault | None:
    config = seat.config if seat.route is None else seat.route
    cluster = chosen.cluster if chosen else ""
    if config.upstream_cluster and config.upstream_cluster != cluster:
        return None
    if not all(header_holds(header, request) for header in config.headers):
        return None
    if config.HasField("delay"):
        known(config.delay)
        if run.happens(config.delay.percentage, stable=False):
            passing.delay += _seconds(config.delay.fixed_delay)
            passing.metadata.update(_metadata(seat, config))
            run.note("filter", seat.resource, f"{seat.field}.delay", f"{seat.name}: {passing.delay:g} s of delay")
    if not config.HasField("abort"):
        return None
    known(config.abort)
    if not run.happens(config.abort.percentage, stable=False):
        return None
    passing.metadata.update(_metadata(seat, config))
    kind = config.abort.WhichOneof("error_type")
    code = getattr(config.abort, kind)
    run.note("filter", seat.resource, f"{seat.field}.abort", f"{seat.name}: aborted with {kind} {code}")
    if kind == "grpc_status":
        return Fault(status=200, grpc_status=code if request.grpc else None, delay=passing.delay)
    return Fault(status=code, delay=passing.delay)


def _metadata(seat: Seat, fault: Any) -> Metadata:
    """What a fault that was injected says of itself, under the name that the filter has here."""
    if any(value.WhichOneof("kind") != "string_value" for value in fault.filter_metadata.fields.values()):
        raise Unsupported("envoy.extensions.filters.http.fault.v3.HTTPFault.filter_metadata", "it is no text")
    return {(seat.name, key): value.string_value for key, value in fault.filter_metadata.fields.items()}


def _cors(run: Run, seat: Seat, chosen: Chosen | None, request: Request, passing: Passing) -> Direct | None:
    policies = _policies(seat, chosen)
    preflight, headers = cors.answer(run, policies, request)
    if preflight or headers:
        run.note(
            "filter", seat.resource, seat.field, f"{seat.name}: {'answers a preflight' if preflight else 'applies'}"
        )
    if preflight:
        passing.preflight = True
        return Direct(status=200, headers=headers)
    passing.cors = headers
    return None


def _policies(seat: Seat, chosen: Chosen | None) -> list[Any]:
    """Of all levels: what one leaves open, the next may say. None of a route that goes to no cluster."""
    if chosen is None or not chosen.cluster:
        return []
    found = []
    for _, _, level in chosen.levels():
        packed = level.typed_per_filter_config.get(seat.name)
        inner = _unwrapped(packed)[0] if packed is not None else None
        if inner is not None:
            found.append(unpack(inner, pb.CorsPolicy, where="typed_per_filter_config"))
    return found


_ASK: dict[Any, Callable[[Run, Seat, Chosen | None, Request, Passing], Answer | None]] = {
    pb.HttpRbac: _rbac,
    pb.LocalRateLimit: _rate_limit,
    pb.HttpFault: _fault,
    pb.Cors: _cors,
}
