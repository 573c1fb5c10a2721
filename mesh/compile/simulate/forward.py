"""What a route does with a request: sends it on, redirects it, answers it."""

from typing import Any

from mesh import pb
from mesh.compile.simulate import paths
from mesh.compile.simulate.fields import known
from mesh.compile.simulate.filters import Passing
from mesh.compile.simulate.formats import Metadata
from mesh.compile.simulate.headers import REQUEST_SINGLE, edited, edits, value_of
from mesh.compile.simulate.matching import matched
from mesh.compile.simulate.request import Request
from mesh.compile.simulate.routing import Chosen
from mesh.compile.simulate.run import Run
from mesh.compile.simulate.text import replace_all
from mesh.compile.simulate.verdict import Direct, Edits, Redirect, Retry, To, Unsupported

DEFAULT_TIMEOUT = 15.0
"""Seconds: Envoy's, where a route says nothing."""

_REDIRECT_STATUS = {
    pb.RedirectAction.MOVED_PERMANENTLY: 301,
    pb.RedirectAction.FOUND: 302,
    pb.RedirectAction.SEE_OTHER: 303,
    pb.RedirectAction.TEMPORARY_REDIRECT: 307,
    pb.RedirectAction.PERMANENT_REDIRECT: 308,
}
_NOT_FOUND_STATUS = {pb.RouteAction.SERVICE_UNAVAILABLE: 503, pb.RouteAction.NOT_FOUND: 404}


def act(run: Run, chosen: Chosen, request: Request, passing: Passing) -> To | Redirect | Direct:
    """The end of a request that all filters let pass."""
    kind = chosen.route.WhichOneof("action")
    if kind == "redirect":
        return _redirect(run, chosen, request)
    if kind == "direct_response":
        return _direct(run, chosen)
    if kind != "route":
        raise Unsupported("envoy.config.route.v3.Route.action", str(kind))
    action = chosen.route.route
    if run.find(pb.CLUSTER, chosen.cluster) is None:
        run.note("cluster", chosen.resource, f"{chosen.field}.route", f"there is no cluster {chosen.cluster}")
        status = _NOT_FOUND_STATUS.get(action.cluster_not_found_response_code)
        if status is None:
            raise Unsupported("envoy.config.route.v3.RouteAction.cluster_not_found_response_code")
        return Direct(status=status)
    return _send(run, chosen, request, passing)


def edits_of(chosen: Chosen, direction: str, metadata: Metadata) -> tuple[Edits, ...]:
    """In the order in which they are made: of two that set the same header, the last wins.

    A weighted cluster is always first, so it never does.
    """
    weight, route, *outer = [None, *chosen.levels()] if chosen.weight is None else chosen.levels()
    levels = [route, *outer]
    if chosen.config.most_specific_header_mutations_wins:
        levels.reverse()
    return tuple(
        found
        for level in (weight, *levels)
        if level is not None and (found := edits(level[2], direction, level[0], metadata)) is not None
    )


# --- on to a cluster ---


def _send(run: Run, chosen: Chosen, request: Request, passing: Passing) -> To:
    action = chosen.route.route
    headers = edited(request.headers, edits_of(chosen, "request", passing.metadata), REQUEST_SINGLE)
    if chosen.host.include_request_attempt_count:
        headers = (*(pair for pair in headers if pair[0] != "x-envoy-attempt-count"), ("x-envoy-attempt-count", "1"))
    host = _literal(chosen) or request.host
    if host != request.host and action.append_x_forwarded_host:
        raise Unsupported("envoy.config.route.v3.RouteAction.append_x_forwarded_host")
    retry = action.retry_policy if action.HasField("retry_policy") else None
    if retry is None and chosen.host.HasField("retry_policy"):
        retry = chosen.host.retry_policy
    known(action.max_stream_duration)
    timeout = _seconds(action.timeout) if action.HasField("timeout") else DEFAULT_TIMEOUT
    return To(
        cluster=chosen.cluster,
        path=_rewritten(action, matched(chosen.route.match, request), request.path),
        host=host,
        headers=headers,
        route=chosen.route.name,
        rule=passing.rule,
        timeout=timeout or None,
        stream_limit=_seconds(action.max_stream_duration.max_stream_duration) or None,
        retry=_retry(retry) if retry is not None else None,
        hashed_by=tuple(map(_hashed_by, action.hash_policy)),
        mirrors=_mirrors(run, chosen),
        delay=passing.delay,
        limits=passing.limits,
        response=edits_of(chosen, "response", passing.metadata),
        cors=passing.cors,
    )


def _literal(chosen: Chosen) -> str:
    """The name that the request's is replaced with; the route's comes after the weighted cluster's."""
    of_weight = chosen.weight.host_rewrite_literal if chosen.weight is not None else ""
    return chosen.route.route.host_rewrite_literal or of_weight


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def _rewritten(action: Any, part: str, target: str) -> str:
    """By a RouteAction or a RedirectAction; the query stays."""
    if action.prefix_rewrite:
        return str(action.prefix_rewrite) + target[len(part) :]
    if action.HasField("regex_rewrite"):
        path, query = paths.split(target)
        return replace_all(action.regex_rewrite, path) + query
    return target


def _retry(policy: Any) -> Retry:
    known(policy)
    return Retry(
        on=tuple(part for part in policy.retry_on.split(",") if part),
        retries=policy.num_retries.value if policy.HasField("num_retries") else 1,
        per_try_seconds=_seconds(policy.per_try_timeout) or None,
    )


def _hashed_by(policy: Any) -> str:
    known(policy)
    match policy.WhichOneof("policy_specifier"):
        case "header":
            known(policy.header)
            return f"header {policy.header.header_name}"
        case "cookie":
            known(policy.cookie)
            return f"cookie {policy.cookie.name}"
        case _:
            known(policy.connection_properties)
            return "source address"


def _mirrors(run: Run, chosen: Chosen) -> tuple[str, ...]:
    """Those of the most specific level that has any."""
    levels = [chosen.route.route, chosen.host, chosen.config]
    policies = next((level.request_mirror_policies for level in levels if level.request_mirror_policies), ())
    found = []
    for policy in policies:
        known(policy)
        # A copy for a cluster that is not there is not made.
        if run.find(pb.CLUSTER, policy.cluster) is None:
            continue
        if not policy.HasField("runtime_fraction") or run.met(policy.runtime_fraction, stable=True):
            run.note("cluster", chosen.resource, "request_mirror_policies", f"a copy goes to {policy.cluster}")
            found.append(policy.cluster)
    return tuple(found)


# --- answers ---


def _direct(run: Run, chosen: Chosen) -> Direct:
    found = chosen.route.direct_response
    known(found)
    known(found.body)
    body = found.body.inline_string or found.body.inline_bytes.decode("utf-8", "surrogateescape")
    run.note("reply", chosen.resource, f"{chosen.field}.direct_response", f"{found.status}: {body.strip()[:200]}")
    return Direct(status=found.status, body=body)


def _redirect(run: Run, chosen: Chosen, request: Request) -> Redirect:
    found = chosen.route.redirect
    known(found)
    target = _rewritten(found, matched(chosen.route.match, request), request.path)
    location = _location(found, request, target)
    status = _REDIRECT_STATUS[found.response_code]
    run.note("reply", chosen.resource, f"{chosen.field}.redirect", f"{status} to {location}")
    return Redirect(status=status, location=location)


def _location(found: Any, request: Request, target: str) -> str:
    scheme = found.scheme_redirect or ("https" if found.https_redirect else request.scheme)
    port = f":{found.port_redirect}" if found.port_redirect else ""
    host = found.host_redirect or _host_of(request, scheme, port)
    if found.path_redirect:
        path, query = paths.split(found.path_redirect)
        # A query of the configuration is meant, and so takes the place of the request's, stripped or not.
        if query:
            return f"{scheme}://{host}{port}{path}{query}"
        target = path + paths.split(target)[1]
    target = paths.split(target)[0] if found.strip_query else target
    return f"{scheme}://{host}{port}{'' if target.startswith('/') else '/'}{target}"


def _host_of(request: Request, scheme: str, port: str) -> str:
    """Without its port where another one is told, or where it was the default one of a scheme that changes."""
    host = request.host
    place = host.rfind("]:") + 1 if host.startswith("[") else host.rfind(":")
    if place < 1 and not (place == 0 and not host.startswith("[")):
        return host
    came = value_of(request.headers, "x-forwarded-proto")
    default = {"http": ":80", "https": ":443"}.get(came or "")
    if port or (scheme != came and host[place:] == default):
        return host[:place]
    return host
