"""Small configurations to ask about: one listener, one route configuration, clusters `one` and `two`."""

from collections.abc import Iterable, Sequence
from typing import Any

from mesh import pb
from mesh.compile import http
from mesh.compile.parts import access_log, http_filter, network_filter
from mesh.compile.simulate import Share, Verdict, call, calling, shares
from mesh.compile.types import Snapshot
from tests.support.snapshots import listener_on, snapshot_of

LISTENER = "listener"
Pairs = Iterable[tuple[str, str]]


def manager(filters: Sequence[pb.HttpFilter] = (), *, inbound: bool = False, **fields: Any) -> pb.Filter:
    """Ours, with other filters and fields."""
    log = access_log("/dev/null", {})
    spec = http.Manager(stat_prefix="x", route="routes", log=log, filters=tuple(filters), inbound=inbound)
    hcm = pb.HttpConnectionManager.FromString(http.manager(spec).typed_config.value)
    hcm.MergeFrom(pb.HttpConnectionManager(**fields))
    return network_filter("hcm", hcm)


def config(*routes: pb.Route, domains: Sequence[str] = ("*",), **fields: Any) -> pb.RouteConfiguration:
    """One virtual host. Fields of it begin with `host_`."""
    of_host = {name.removeprefix("host_"): fields.pop(name) for name in list(fields) if name.startswith("host_")}
    host = pb.VirtualHost(name="host", domains=domains, routes=routes, **of_host)
    return pb.RouteConfiguration(name="routes", virtual_hosts=[host], **fields)


def snapshot(routes: pb.RouteConfiguration, hcm: pb.Filter | None = None) -> Snapshot:
    clusters = [pb.Cluster(name=name) for name in ("one", "two", "copy")]
    return snapshot_of(listener_on(LISTENER, 80, hcm or manager()), routes, *clusters)


def match(**fields: Any) -> pb.RouteMatch:
    """Of everything, unless a path is told."""
    if not {"prefix", "path", "safe_regex", "path_separated_prefix"} & fields.keys():
        fields["prefix"] = "/"
    return pb.RouteMatch(**fields)


def to(cluster: str = "one", matched: pb.RouteMatch | None = None, *, route: Any = None, **action: Any) -> pb.Route:
    if "weighted_clusters" not in action:
        action["cluster"] = cluster
    return pb.Route(match=matched or match(), route=pb.RouteAction(**action), **(route or {}))


def weights(**of: int) -> dict[str, Any]:
    clusters = [{"name": name, "weight": pb.uint32(weight)} for name, weight in of.items()]
    return {"weighted_clusters": {"clusters": clusters}}


def percent(numerator: int, denominator: str = "HUNDRED") -> pb.FractionalPercent:
    return pb.FractionalPercent(numerator=numerator, denominator=denominator)


def fraction(numerator: int, denominator: str = "HUNDRED") -> pb.RuntimeFractionalPercent:
    return pb.RuntimeFractionalPercent(default_value=percent(numerator, denominator))


def added(name: str, value: str, action: int = 0, *, keep: bool = False) -> pb.HeaderValueOption:
    header = pb.HeaderValue(key=name, value=value)
    return pb.HeaderValueOption(header=header, append_action=action, keep_empty_value=keep)


def filter_of(name: str, message: pb.Message, *, disabled: bool = False) -> pb.HttpFilter:
    found = http_filter(name, message)
    found.disabled = disabled
    return found


def ask(
    found: Snapshot, path: str = "/", headers: Pairs = (), host: str = "h", *, method: str = "GET", draw: float = 0.0
) -> Verdict:
    return call(found, LISTENER, method, path, headers, host, draw=draw)


def outcomes(found: Snapshot, path: str = "/", headers: Pairs = (), host: str = "h") -> tuple[Share, ...]:
    return shares(calling(found, LISTENER, "GET", path, headers, host))


def cluster(verdict: Verdict) -> str:
    """Where it goes; empty: nowhere."""
    return getattr(verdict, "cluster", "")
