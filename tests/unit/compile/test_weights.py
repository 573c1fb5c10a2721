"""What a route leaves to chance: each share is what the rule says, whatever else is chosen by the same number."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import pb
from mesh.compile import http, routes
from mesh.compile.rules import Entry, Mirror, Share, Target
from mesh.compile.simulate import Direct, To
from mesh.model import Ref, ServiceRef
from mesh.model.httproute import HttpMatch
from tests.sim.traffic.build import manager, outcomes
from tests.support.snapshots import listener_on, snapshot_of

NAMES = ("one", "two", "three")


def target(name: str) -> Target:
    return Target(ServiceRef("shop", name), 80)


def compiled(weights: list[int], lost: int, percents: list[int]) -> list[pb.Route]:
    tries = http.Tries(pb.RetryPolicy(), pb.RetryPolicy(), 15.0)
    entry = Entry(
        id="r",
        source=Ref("HTTPRoute", "shop", "r"),
        match=HttpMatch(method="GET"),
        grpc=False,
        shares=tuple(Share(target(name), weight) for name, weight in zip(NAMES, weights, strict=False)),
        lost=lost,
        mirrors=tuple(Mirror(target(f"copy{n}"), percent, 100) for n, percent in enumerate(percents)),
    )
    return list(routes.routes([entry], lambda found: found.service.name, lambda _: (), {}, tries, 80))


WEIGHTS = st.integers(1, 1_000_000) | st.sampled_from([1, 100_000, 400_000, 500_000])


@given(st.lists(WEIGHTS, min_size=1, max_size=3), st.just(0) | WEIGHTS, st.lists(st.integers(0, 100), max_size=1))
def test_shares_are_as_written(weights: list[int], lost: int, percents: list[int]):
    names = [*NAMES, "copy0"]
    config = pb.RouteConfiguration(
        name="routes", virtual_hosts=[pb.VirtualHost(name="h", domains=["*"], routes=compiled(weights, lost, percents))]
    )
    clusters = [pb.Cluster(name=name) for name in names]
    found = Counter[str]()
    for share in outcomes(snapshot_of(listener_on("listener", 80, manager()), config, *clusters)):
        verdict, part = share.verdict, float(share.probability)
        assert isinstance(verdict, Direct | To)
        found["lost" if isinstance(verdict, Direct) else verdict.cluster] += part
        if isinstance(verdict, To):
            for copy in verdict.mirrors:
                found[copy] += part
    whole = sum(weights) + lost
    wanted = {name: weight / whole for name, weight in zip(NAMES, weights, strict=False)} | {"lost": lost / whole}
    if percents:
        wanted["copy0"] = (whole - lost) / whole * percents[0] / 100
    for name, part in wanted.items():
        assert found[name] == pytest.approx(part, abs=3e-6), (name, found, wanted)


def test_weights_stay_as_they_are_written_where_nothing_else_is_left_to_chance():
    def given_(routes_: list[pb.Route]) -> list[int]:
        return [c.weight.value for c in routes_[-2].route.weighted_clusters.clusters]

    assert given_(compiled([70, 30], 0, [])) == [70, 30]
    assert given_(compiled([70, 30], 0, [100])) == [70, 30]
    assert given_(compiled([1, 2], 3, [])) == [1, 2]
    assert sum(given_(compiled([70, 30], 5, []))) == 4_294_967_291
