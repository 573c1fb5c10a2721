"""Faults that policies have injected, by the proxy that calls.

Envoy's filter takes one fault from the route. So in front of every route stands a copy for each fault, with the fault's
match added: routes keep their order, and of several faults the first that matches a request is the one, whether its
percentage then has it happen or not.

Known limit: a delay is over before a request's time (`timeouts.request`) begins to count.
"""

from collections.abc import Iterable, Iterator

from mesh import pb
from mesh.compile import http, matching, names
from mesh.compile.view import Injection
from mesh.model.duration import seconds
from mesh.model.policyspec import FaultAbort

_MILLION = 1_000_000


def faulted(made: Iterable[pb.Route], injections: tuple[Injection, ...]) -> Iterator[pb.Route]:
    """These routes, with faults."""
    for route in made:
        for injection in injections:
            matchers = matching.request(injection.fault.match)
            yield _with(route, injection, matchers)
            if not matchers:
                break  # nothing gets past it
        else:
            yield route


def _with(route: pb.Route, injection: Injection, matchers: list[pb.HeaderMatcher]) -> pb.Route:
    copy = pb.Route()
    copy.CopyFrom(route)
    copy.match.headers.extend(matchers)
    copy.typed_per_filter_config[http.FAULT_FILTER].CopyFrom(pb.any_of(_filter(injection)))
    return copy


def _filter(injection: Injection) -> pb.HttpFault:
    found = pb.HttpFault(disable_downstream_cluster_stats=True)
    if delay := injection.fault.delay:
        found.delay.fixed_delay.CopyFrom(pb.duration(seconds(delay.duration)))
        found.delay.percentage.CopyFrom(_share(delay.percent))
    if abort := injection.fault.abort:
        found.abort.CopyFrom(_abort(abort))
    # In the request's metadata only if it was injected: the log and the caller read it there.
    found.filter_metadata.update({names.RULE_KEY: injection.id})
    return found


def _abort(abort: FaultAbort) -> pb.FaultAbort:
    share = _share(abort.percent)
    if abort.grpc_status is not None:
        return pb.FaultAbort(grpc_status=abort.grpc_status, percentage=share)
    return pb.FaultAbort(http_status=abort.status, percentage=share)


def _share(percent: float) -> pb.FractionalPercent:
    return pb.FractionalPercent(numerator=round(percent / 100 * _MILLION), denominator=pb.FractionalPercent.MILLION)
