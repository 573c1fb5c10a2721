"""A large mesh with routes through an agent's pure path: a compile from nothing, one route change, one endpoint change.

The host calls every Service, which is the worst case: an agent watches and compiles for what its own services call.
"""

import time

from agent.pipeline import Pipeline
from bench.compile_cost import WARM_UP, Host, endpoint, event
from bench.progress import Say
from bench.stats import Figure, quantile, spread
from mesh.model import HTTPRoute, Metadata
from mesh.model.httproute import HttpBackendRef, HttpMatch, HttpRouteSpec, HttpRule, PathMatch
from mesh.model.routing import HeaderMatch, ParentRef

SERVICES, PER_SERVICE, ROUTES = 1000, 10, 500
CHANGES, REPEATS = 100, 5


def route(number: int, weight: int) -> HTTPRoute:
    """A canary: by a header to one of two Services, all others by weight."""
    backends = tuple(
        HttpBackendRef(name=f"svc-{n % SERVICES}", port=80, weight=w) for n, w in ((number, weight), (number + 1, 1))
    )
    rules = (
        HttpRule(matches=(HttpMatch(headers=(HeaderMatch(name="version", value="two"),)),), backend_refs=backends[1:]),
        HttpRule(matches=(HttpMatch(path=PathMatch(value="/api")),), backend_refs=backends),
        HttpRule(backend_refs=backends),
    )
    parent = ParentRef(group="", kind="Service", name=f"svc-{number}")
    return HTTPRoute(
        metadata=Metadata(name=f"r-{number}", namespace="shop", creation_timestamp="2026-01-01T00:00:00Z"),
        spec=HttpRouteSpec(parent_refs=(parent,), rules=rules),
    )


def whole(host: Host) -> float:
    """Seconds of a compile from nothing."""
    fresh = Pipeline(host.pipeline.local)
    fresh.world = host.pipeline.world
    started = time.perf_counter()
    fresh.compile(fresh.inputs())
    return time.perf_counter() - started


def route_changes(host: Host, changes: int) -> tuple[float, float]:
    """Median seconds of one, and resources sent for each resource that changed."""
    taken: list[float] = []
    changed = 0
    for number in range(changes + WARM_UP):
        if number == WARM_UP:
            host.resources_sent, changed = 0, 0
        started = time.perf_counter()
        host.put(route(number % ROUTES, 2 + host.revision % 1000))
        taken.append(time.perf_counter() - started)
        changed += sum(len(names) for names in host.pipeline_snapshot.changed.values())
    return quantile(taken[WARM_UP:], 0.5), host.resources_sent / changed


def endpoint_changes(host: Host, changes: int, *, flip: bool) -> tuple[float, float]:
    """The same for endpoints; `flip`: what they turn to."""
    taken: list[float] = []
    changed = 0
    for number in range(changes + WARM_UP):
        if number == WARM_UP:
            host.resources_sent, changed = 0, 0
        name = f"svc-{number % SERVICES}"
        key, made = endpoint(name, number % PER_SERVICE, healthy=flip)
        told = event(key, made, host.revision + 1)
        started = time.perf_counter()
        host.change(name, told)
        taken.append(time.perf_counter() - started)
        changed += sum(len(names) for names in host.pipeline_snapshot.changed.values())
    return quantile(taken[WARM_UP:], 0.5), host.resources_sent / changed


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    changes, repeats = (10, 1) if quick else (CHANGES, REPEATS)
    say(f"traffic: {SERVICES:,} Services of {PER_SERVICE} endpoints, {ROUTES} routes")
    host = Host(SERVICES, PER_SERVICE, [route(number, 1) for number in range(ROUTES)])
    wholes = [whole(host) * 1e3 for _ in range(repeats)]
    say("traffic: one route change")
    routes = [route_changes(host, changes) for _ in range(repeats)]
    say("traffic: one endpoint change")
    endpoints = [endpoint_changes(host, changes, flip=number % 2 == 1) for number in range(repeats)]
    size = f"{SERVICES:,} Services of {PER_SERVICE} endpoints, {ROUTES} routes"
    notes = "through decode, World, project, compile, check, xDS stream and encode"
    return [
        spread(f"traffic: compile from nothing, {size}", "ms", wholes),
        spread("traffic: one route change among them", "ms", [s * 1e3 for s, _ in routes], notes=notes),
        spread("traffic: one endpoint change among them", "ms", [s * 1e3 for s, _ in endpoints], notes=notes),
        spread("traffic: resources sent / resources changed, routes", "ratio", [r for _, r in routes], goal="1.00"),
        spread(
            "traffic: resources sent / resources changed, endpoints", "ratio", [r for _, r in endpoints], goal="1.00"
        ),
    ]
