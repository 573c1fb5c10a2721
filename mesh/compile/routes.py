"""Entries of rules as Envoy's routes: the first that matches counts.

Each entry becomes up to three: one that answers for the share of backends that cannot be sent to, one for requests that
may be repeated without harm, and one for all others; the latter two differ in what is tried again.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, pairwise

from mesh import pb
from mesh.compile import http, matching, names
from mesh.compile import tries as trying
from mesh.compile.rules import Entry, Mirror, Target
from mesh.model.duration import seconds
from mesh.model.httproute import HttpMatch, HttpRetry
from mesh.model.policyspec import HashKey
from mesh.model.regex import literal
from mesh.model.routing import Cors, Header, HeaderModifier, PathModifier, RequestRedirect, UrlRewrite

Cluster = Callable[[Target], str]
"""The name of the cluster that stands for a target."""

Hashes = Callable[[Iterable[Target]], Iterable[HashKey]]
"""What requests that may go to any of these targets are hashed by."""

Hosts = Mapping[Target, str]
"""What targets outside of the mesh are called in requests, if they have a name."""

_IDEMPOTENT = frozenset(http.IDEMPOTENT.split("|"))

_PROXYS_WORDS = (names.DENIED_BY, names.LIMITED_BY)
"""Headers by which a callee's proxy says why it refuses; a server outside of the mesh has none."""

_MILLION = 1_000_000
_PRIME = 4_294_967_291
"""The greatest sum of weights that Envoy takes and that has no divisor but itself."""
_LOST, _LOST_GRPC = 500, 503  # for gRPC 503 reads UNAVAILABLE, as GRPCRoute wants it
_NO_MATCH = 404  # for gRPC it reads UNIMPLEMENTED

_CODES = {
    301: pb.RedirectAction.MOVED_PERMANENTLY,
    302: pb.RedirectAction.FOUND,
    303: pb.RedirectAction.SEE_OTHER,
    307: pb.RedirectAction.TEMPORARY_REDIRECT,
    308: pb.RedirectAction.PERMANENT_REDIRECT,
}


def routes(
    entries: Iterable[Entry], cluster: Cluster, hashes: Hashes, hosts: Hosts, tries: http.Tries, port: int
) -> Iterator[pb.Route]:
    """All routes of one virtual host; at last the answer to what nothing matches. `port`: the Service's."""
    for entry in entries:
        for route in _of_entry(entry, cluster, tries, port):
            if route.HasField("route"):
                keys = hashes(share.target for share in entry.shares)
                route.route.hash_policy.extend(hash_policies(keys))
                _call_by_name(route.route, entry, hosts)
            yield route
    yield http.answer(_NO_MATCH, "no rule of the routes for this Service matches")


def _of_entry(entry: Entry, cluster: Cluster, tries: http.Tries, port: int) -> Iterator[pb.Route]:
    if entry.redirect is not None:
        yield _finished(entry, pb.Route(redirect=_redirect(entry.redirect, entry.match, port)))
        return
    total = sum(share.weight for share in entry.shares)
    if entry.lost or not total:
        yield _lost(entry, total)
    if not total:
        return
    method = "POST" if entry.grpc else entry.match.method
    if method is None or method in _IDEMPOTENT:
        route = _sent(entry, cluster, tries.idempotent, tries.seconds)
        if method is None:
            http.idempotent(route)
        yield route
    if method is None or method not in _IDEMPOTENT:
        yield _sent(entry, cluster, tries.other, tries.seconds)


def _lost(entry: Entry, total: int) -> pb.Route:
    """The specification has the share of what cannot be reached answered, not sent elsewhere."""
    said = http.answer(_LOST_GRPC if entry.grpc else _LOST, entry.why or "no backend can be sent to")
    route = _finished(entry, said)
    if total:
        part = pb.FractionalPercent(numerator=_answered(entry), denominator=pb.FractionalPercent.MILLION)
        route.match.runtime_fraction.CopyFrom(pb.RuntimeFractionalPercent(default_value=part))
    return route


def _answered(entry: Entry) -> int:
    """Of a million requests, those for backends that cannot be sent to."""
    total = sum(share.weight for share in entry.shares)
    return round(_MILLION * entry.lost / (entry.lost + total)) if entry.lost else 0


def _sent(entry: Entry, cluster: Cluster, retry: pb.RetryPolicy, limit: float) -> pb.Route:
    """What the rule says of times and tries comes before `retry` and `limit`, in seconds."""
    whole = entry.timeouts.request
    action = pb.RouteAction(timeout=pb.duration(seconds(whole) if whole else limit))
    plain = len(entry.shares) == 1 and not (entry.shares[0].request or entry.shares[0].response)
    if plain:
        action.cluster = cluster(entry.shares[0].target)
    else:
        action.weighted_clusters.CopyFrom(_split(entry, cluster))
    action.retry_policy.CopyFrom(retry)
    _try_as_told(action.retry_policy, entry)
    if entry.rewrite is not None:
        _rewrite(action, entry.rewrite, entry.match)
    action.request_mirror_policies.extend(_mirror(mirror, cluster, _answered(entry)) for mirror in entry.mirrors)
    if any(share.target.external for share in entry.shares):
        _believe_nobody(action.retry_policy)
    route = _finished(entry, pb.Route(route=action))
    if plain and entry.shares[0].target.external:
        route.response_headers_to_remove.extend(_PROXYS_WORDS)
    return route


def outside(route: pb.Route) -> pb.Route:
    """For requests that leave the mesh: what a server says there is no proxy's word."""
    _believe_nobody(route.route.retry_policy)
    route.response_headers_to_remove.extend(_PROXYS_WORDS)
    return route


def _believe_nobody(retry: pb.RetryPolicy) -> None:
    """Who says that no application has seen a request."""
    retry.retry_on = ",".join(c for c in retry.retry_on.split(",") if c != "retriable-headers")
    del retry.retriable_headers[:]


def _call_by_name(action: pb.RouteAction, entry: Entry, hosts: Hosts) -> None:
    """Servers outside of the mesh are told the name that they know, unless the rule has another."""
    if action.host_rewrite_literal:
        return
    places = action.weighted_clusters.clusters or [action]
    for place, share in zip(places, entry.shares, strict=True):
        if name := hosts.get(share.target):
            place.host_rewrite_literal = name


def _finished(entry: Entry, route: pb.Route) -> pb.Route:
    """With name, match, and what is done to headers."""
    route.name = entry.id
    route.match.CopyFrom(match(entry.match))
    if entry.request and not entry.redirect:
        route.request_headers_to_add.extend(_added(entry.request))
        route.request_headers_to_remove.extend(entry.request.remove)
    if entry.response:
        route.response_headers_to_add.extend(_added(entry.response))
        route.response_headers_to_remove.extend(entry.response.remove)
    if entry.cors is not None:
        route.typed_per_filter_config[http.CORS_FILTER].CopyFrom(pb.any_of(_cors(entry.cors)))
    return route


def _split(entry: Entry, cluster: Cluster) -> pb.WeightedCluster:
    clusters = []
    for share, weight in zip(entry.shares, _weights(entry), strict=True):
        part = pb.WeightedCluster.ClusterWeight(name=cluster(share.target), weight=pb.uint32(weight))
        if share.request:
            part.request_headers_to_add.extend(_added(share.request))
            part.request_headers_to_remove.extend(share.request.remove)
        if share.response:
            part.response_headers_to_add.extend(_added(share.response))
            part.response_headers_to_remove.extend(share.response.remove)
        if share.target.external:
            part.response_headers_to_remove.extend(_PROXYS_WORDS)
        clusters.append(part)
    return pb.WeightedCluster(clusters=clusters)


def _weights(entry: Entry) -> list[int]:
    """As they are written, if nothing else is left to chance.

    Envoy chooses by remainders of one number: by a million if a request is answered or copied, by the sum of the
    weights where it goes. These are independent only if the two have no divisor in common.
    """
    weights = [share.weight for share in entry.shares]
    total = sum(weights)
    chosen = entry.lost or any(mirror.numerator < mirror.denominator for mirror in entry.mirrors)
    if not chosen or math.gcd(total, _MILLION) == 1:
        return weights
    ends = [_PRIME * end // total for end in accumulate(weights, initial=0)]
    return [end - begin for begin, end in pairwise(ends)]


def _added(modifier: HeaderModifier) -> Iterator[pb.HeaderValueOption]:
    for headers, action in (
        (modifier.set, pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        (modifier.add, pb.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD),
    ):
        for header in headers:
            yield pb.HeaderValueOption(header=_header(header), append_action=action)


def _header(header: Header) -> pb.HeaderValue:
    # A single % would begin one of Envoy's own variables.
    return pb.HeaderValue(key=header.name, value=header.value.replace("%", "%%"))


# --- what a request looks like ---------------------------------------------------------------------------------------


def match(wanted: HttpMatch) -> pb.RouteMatch:
    found = _path(wanted)
    if wanted.method is not None:
        found.headers.append(pb.HeaderMatcher(name=":method", string_match=matching.text(wanted.method)))
    found.headers.extend(matching.headers(wanted.headers))
    params: set[str] = set()
    for param in wanted.query_params:
        if param.name not in params:
            params.add(param.name)
            value = matching.text(param.value, regex=param.type == "RegularExpression")
            found.query_parameters.append(pb.QueryParameterMatcher(name=param.name, string_match=value))
    return found


def _path(wanted: HttpMatch) -> pb.RouteMatch:
    kind, value = wanted.path.type, wanted.path.value
    if kind == "Exact":
        return pb.RouteMatch(path=value)
    if kind == "RegularExpression":
        return pb.RouteMatch(safe_regex=pb.RegexMatcher(regex=value))
    prefix = value.rstrip("/")
    return pb.RouteMatch(path_separated_prefix=prefix) if prefix else pb.RouteMatch(prefix="/")


# --- where it goes ---------------------------------------------------------------------------------------------------


def _redirect(wanted: RequestRedirect, matched: HttpMatch, port: int) -> pb.RedirectAction:
    action = pb.RedirectAction(
        response_code=_CODES[wanted.status_code],
        host_redirect=wanted.hostname,
        port_redirect=_redirect_port(wanted, port),
        scheme_redirect=wanted.scheme or "",
    )
    if wanted.path is not None:
        if wanted.path.type == "ReplaceFullPath":
            action.path_redirect = wanted.path.replace_full_path or "/"
        else:
            _replace_prefix(action, wanted.path, matched)
    return action


def _redirect_port(wanted: RequestRedirect, port: int) -> int:
    """0: as in the request, which may have come through a listener on loopback; or none, if the host is another."""
    if wanted.port or wanted.scheme:
        return wanted.port or {"http": 80, "https": 443}[wanted.scheme or "http"]
    return port if wanted.hostname and port != 80 else 0


def _rewrite(action: pb.RouteAction, wanted: UrlRewrite, matched: HttpMatch) -> None:
    if wanted.hostname:
        action.host_rewrite_literal = wanted.hostname
    if wanted.path is None:
        return
    if wanted.path.type == "ReplaceFullPath":
        action.regex_rewrite.CopyFrom(_regex("^.*$", wanted.path.replace_full_path or "/"))
    else:
        _replace_prefix(action, wanted.path, matched)


def _replace_prefix(action: pb.RouteAction | pb.RedirectAction, wanted: PathModifier, matched: HttpMatch) -> None:
    """Whole elements: no slash is doubled or lost, whatever ends with one (HTTPPathModifier has the table)."""
    prefix = matched.path.value.rstrip("/")
    instead = (wanted.replace_prefix_match or "").rstrip("/")
    if prefix and instead:
        action.prefix_rewrite = instead
    elif prefix:
        action.regex_rewrite.CopyFrom(_regex(f"^{literal(prefix)}/*", "/"))
    elif instead:
        action.regex_rewrite.CopyFrom(_regex("^/", f"{instead}/"))


def _regex(pattern: str, instead: str) -> pb.RegexMatchAndSubstitute:
    return pb.RegexMatchAndSubstitute(pattern=pb.RegexMatcher(regex=pattern), substitution=instead.replace("\\", r"\\"))


def hash_policies(keys: Iterable[HashKey]) -> Iterator[pb.RouteAction.HashPolicy]:
    """All count together. A request has one hash, whichever cluster it is for; one that does not hash ignores it.

    Copies for a mirror have none.
    """
    for key in keys:
        found = pb.RouteAction.HashPolicy()
        if key.cookie is not None:
            found.cookie.name, found.cookie.path = key.cookie.name, key.cookie.path
            if key.cookie.ttl:
                found.cookie.ttl.CopyFrom(pb.duration(seconds(key.cookie.ttl)))
        elif key.header:
            found.header.header_name = key.header
        else:
            found.connection_properties.source_ip = True
        yield found


def _mirror(mirror: Mirror, cluster: Cluster, answered: int) -> pb.RouteAction.RequestMirrorPolicy:
    """Of those sent on. Envoy copies the lower part of a million, and the lowest are the ones that are `answered`."""
    below = answered + round((_MILLION - answered) * mirror.numerator / mirror.denominator) if mirror.numerator else 0
    part = pb.FractionalPercent(numerator=below, denominator=pb.FractionalPercent.MILLION)
    return pb.RouteAction.RequestMirrorPolicy(
        cluster=cluster(mirror.target), runtime_fraction=pb.RuntimeFractionalPercent(default_value=part)
    )


def _try_as_told(policy: pb.RetryPolicy, entry: Entry) -> None:
    if entry.timeouts.backend_request:
        policy.ClearField("per_try_timeout")
        if one := seconds(entry.timeouts.backend_request):
            policy.per_try_timeout.CopyFrom(pb.duration(one))
    if entry.retry is not None:
        _retry(policy, entry.retry)


def _retry(policy: pb.RetryPolicy, wanted: HttpRetry) -> None:
    if wanted.attempts is not None:
        policy.num_retries.value = wanted.attempts
    if wanted.codes:
        trying.retry_statuses(policy, wanted.codes)
    if wanted.backoff:
        trying.back_off(policy, wanted.backoff)


# --- CORS ------------------------------------------------------------------------------------------------------------


def _cors(wanted: Cors) -> pb.CorsPolicy:
    return pb.CorsPolicy(
        allow_origin_string_match=[_origin(origin) for origin in wanted.allow_origins],
        allow_methods=", ".join(wanted.allow_methods),
        allow_headers=", ".join(wanted.allow_headers),
        expose_headers=", ".join(wanted.expose_headers),
        max_age=str(wanted.max_age),
        allow_credentials=pb.BoolValue(value=wanted.allow_credentials),
        forward_not_matching_preflights=pb.BoolValue(value=False),
    )


def _origin(origin: str) -> pb.StringMatcher:
    if "*" not in origin:
        return matching.text(origin)
    return matching.text(literal(origin).replace(r"\*", "[^/]*"), regex=True)
