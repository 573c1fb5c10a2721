"""Several clusters of the demo: they share no address, and each calls what there is."""

import pytest

from controlplane.demo import sites
from controlplane.demo import topology as top
from mesh import codec
from mesh.model import Object, ServiceDefinition

NAMES = sites.NAMES[:3]
PLANS = [sites.plan(block, name, NAMES) for block, name in zip(top.BLOCKS, NAMES, strict=False)]


def test_clusters_share_no_address():
    places = [place for plan in PLANS for place in top.bound(plan.topology)]
    assert len(places) == len(set(places))


def test_each_is_a_trust_domain_of_its_own():
    assert len({plan.trust_domain for plan in PLANS}) == len({plan.cluster for plan in PLANS}) == len(NAMES)


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_all_that_is_written_is_good(plan: top.Plan):
    for document in plan.objects:
        assert isinstance(codec.decode_strict(document), Object), document
    for definition in plan.definitions.values():
        found = codec.convert_strict(ServiceDefinition, definition, "")
        assert isinstance(found, ServiceDefinition), found
        assert not list(found.check())


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_a_caller_reaches_api_anywhere_and_in_each_other_cluster_by_each_protocol(plan: top.Plan):
    upstreams = plan.definitions["web-1"]["upstreams"]
    called = {(upstream["service"], upstream["port"]) for upstream in upstreams}
    others = [f"api.{name}" for name in NAMES if name != plan.cluster]
    assert called == {(name, port) for name in ("api", *others) for port in sites.PROTOCOLS.values()}
    assert len({upstream["listen"] for upstream in upstreams}) == len(upstreams)
