"""Which virtual host, which route of it, which of its weighted clusters."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from mesh import pb
from mesh.compile.simulate.fields import known
from mesh.compile.simulate.matching import conditions
from mesh.compile.simulate.request import Request, port_start
from mesh.compile.simulate.run import Run, shown
from mesh.compile.simulate.text import lower
from mesh.compile.simulate.verdict import Unsupported


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a request was matched with."""

    config: Any
    host: Any
    route: Any
    field: str
    """Of the route."""
    cluster: str = ""
    """Where it goes, if the route sends anywhere."""
    weight: Any = None
    """The weighted cluster, if it is one."""
    weight_field: str = ""

    @property
    def resource(self) -> str:
        return shown(pb.ROUTE, self.config.name)

    def levels(self) -> Iterator[tuple[str, str, Any]]:
        """Name, field and message of all levels that may say how to treat it, the most specific first."""
        if self.weight is not None:
            yield "weighted cluster", self.weight_field, self.weight
        yield "route", self.field, self.route
        yield "virtual host", self.field.rpartition(".")[0], self.host
        yield "route configuration", "", self.config


def choose(run: Run, config: Any, request: Request) -> Chosen | None:
    """None: no route is for it."""
    resource = shown(pb.ROUTE, config.name)
    place = _virtual_host(config, request.host)
    if place is None:
        run.note("virtual host", resource, "virtual_hosts", f"none has the domain {request.host!r}")
        return None
    index, domain = place
    host, field = config.virtual_hosts[index], f"virtual_hosts[{index}]"
    known(host)
    run.note("virtual host", resource, f"{field}.domains", f"{domain!r} is for {request.host!r}")
    for number, route in enumerate(host.routes):
        known(route)
        where = f"{field}.routes[{number}]"
        if _matches(run, resource, where, route.match, request):
            return _with_cluster(run, Chosen(config, host, route, where))
    run.note("route", resource, f"{field}.routes", "none matches")
    return None


def _virtual_host(config: Any, host: str) -> tuple[int, str] | None:
    """Its index, and the domain that decided: exact, else the longest with a star before, else behind."""
    if config.ignore_port_in_host_matching and (place := port_start(host)) >= 0:
        host = host[:place]
    host = lower(host)
    domains = [(lower(domain), index) for index, found in enumerate(config.virtual_hosts) for domain in found.domains]
    for domain, index in domains:
        if domain == host:
            return index, domain
    # A star stands for one character at least.
    before = [d for d in domains if d[0] != "*" and d[0].startswith("*") and _ends(host, d[0][1:])]
    behind = [d for d in domains if d[0] != "*" and d[0].endswith("*") and _begins(host, d[0][:-1])]
    everything = [d for d in domains if d[0] == "*"]
    for those in (before, behind, everything):
        if those:
            domain, index = max(those, key=lambda d: len(d[0]))
            return index, domain
    return None


def _ends(host: str, part: str) -> bool:
    return len(host) > len(part) and host.endswith(part)


def _begins(host: str, part: str) -> bool:
    return len(host) > len(part) and host.startswith(part)


def _matches(run: Run, resource: str, field: str, match: Any, request: Request) -> bool:
    held = []
    for condition in conditions(run, match, request):
        if not condition.holds:
            run.note("route", resource, f"{field}.match.{condition.field}", condition.said, decided=False)
            return False
        held.append(f"{condition.field} {condition.said}")
    run.note("route", resource, f"{field}.match", ", ".join(held))
    return True


def _with_cluster(run: Run, chosen: Chosen) -> Chosen:
    if chosen.route.WhichOneof("action") != "route":
        return chosen
    action = chosen.route.route
    known(action)
    kind = action.WhichOneof("cluster_specifier")
    if kind == "cluster":
        run.note("cluster", chosen.resource, f"{chosen.field}.route.cluster", action.cluster)
        return Chosen(chosen.config, chosen.host, chosen.route, chosen.field, action.cluster)
    if kind != "weighted_clusters":
        raise Unsupported("envoy.config.route.v3.RouteAction.cluster_specifier", str(kind))
    known(action.weighted_clusters)
    field = f"{chosen.field}.route.weighted_clusters"
    index = weighted(run, chosen.resource, field, action.weighted_clusters.clusters, stable=True)
    weight = action.weighted_clusters.clusters[index]
    return Chosen(
        chosen.config, chosen.host, chosen.route, chosen.field, weight.name, weight, f"{field}.clusters[{index}]"
    )


def weighted(run: Run, resource: str, field: str, clusters: Any, *, stable: bool) -> int:
    """The index of one of them, by weight."""
    for cluster in clusters:
        known(cluster)
    weights = [cluster.weight if isinstance(cluster.weight, int) else cluster.weight.value for cluster in clusters]
    total = sum(weights)
    if total == 0:
        raise Unsupported("weighted_clusters", "all weights are 0")
    pick = run.chance.stable if stable else run.chance.fresh
    index = pick(total, list(accumulate(weights))[:-1]) if len(weights) > 1 else 0
    said = f"{clusters[index].name}, {100 * weights[index] / total:.4g} %"
    run.note("cluster", resource, f"{field}.clusters[{index}]", said)
    return index
