"""What an agent remembers of what came into force: endpoint by endpoint, and of no other."""

from dataclasses import replace

from agent import applied
from agent.applied import Applied, Standing
from mesh.compile import Compiler
from mesh.model import LocalPort, Metadata, Revision, Upstream
from mesh.model.instance import Endpoint, EndpointSpec
from tests.support.meshes import (
    FAKE_ROOT,
    bundle,
    config,
    definition,
    endpoint,
    export,
    imported,
    local,
    peering,
    service,
    world,
)

CALLS = (Upstream(service="api", port=80, listen="127.0.0.1:9001"),)
HERE = local(definition("web", LocalPort(port=8080), upstreams=CALLS))
API = service("api", clusters=("*",))


def far(weight=2):
    """What a peer told: a gateway of it, and how many are behind."""
    spec = EndpointSpec(
        service="api.west", node="gw1", address="10.1.0.1", port=15444, service_account="gateway", ports=(80,),
        health="healthy", weight=weight,
    )  # fmt: skip
    return Endpoint(metadata=Metadata(name="gw1", namespace="shop"), spec=spec)


FIRST = world(
    config(),
    API,
    bundle(FAKE_ROOT, domain="west.test"),
    export("*"),
    peering("west"),
    imported(API, "west"),
    endpoint("api", "a", "10.0.0.1"),
    endpoint("api", "b", "10.0.0.2"),
    far(),
)


class Host:
    def __init__(self):
        self.compiler, self.log = Compiler(), Applied()

    def applies(self, state):
        snapshot = self.compiler.compile(self.compiler.project(state, HERE))
        self.log.note(10.0, Revision(state.revision), snapshot)
        return snapshot

    def last(self):
        found = self.log.document()["entries"][-1]
        return {c["endpoint"]: (c["before"], c["after"]) for c in found["changes"]}


def test_what_is_in_force_first_is_all_new_and_those_of_others_are_marked():
    host = Host()
    host.applies(FIRST)
    said = host.last()
    assert {name.partition(" ")[0]: after["far"] for name, (_, after) in said.items()} == {
        "10.0.0.1:15443": False,
        "10.0.0.2:15443": False,
        "10.1.0.1:15444": True,
    }
    assert all(before is None for before, _ in said.values())


def test_an_endpoint_of_ipv6_is_told_from_its_port():
    host = Host()
    host.applies(world(config(), API, endpoint("api", "a", "fd12::a")))
    assert [name.partition(" ")[0] for name in host.last()] == ["[fd12::a]:15443"]


def test_health_and_removal_are_told_of_the_endpoint_alone():
    host = Host()
    host.applies(FIRST)
    sick = world(endpoint("api", "a", "10.0.0.1", health="unhealthy"), base=FIRST, revision=7)
    host.applies(sick)
    ((name, (before, after)),) = host.last().items()
    assert name.startswith("10.0.0.1:15443")
    assert (before["health"], after["health"]) == ("healthy", "unhealthy")
    assert {**before, "health": ""} == {**after, "health": ""}
    entry = host.log.document()["entries"][-1]
    assert (entry["number"], entry["revision"], entry["at"]) == (2, 7, 10.0)

    without = world(
        *(o for o in FIRST.objects.values()),
        *(e for of in FIRST.endpoints.values() for e in of.values() if e.metadata.name != "api-a"),
        revision=9,
    )
    host.applies(without)
    ((name, (before, after)),) = host.last().items()
    assert (name.partition(" ")[0], after) == ("10.0.0.1:15443", None)


def test_what_a_peer_tells_changes_no_standing_of_local_endpoints():
    host = Host()
    host.applies(FIRST)
    host.applies(world(far(weight=1), base=FIRST, revision=8))
    ((_, (before, after)),) = host.last().items()
    assert (before["weight"], after["weight"], after["far"]) == (2, 1, True)


def test_the_same_again_is_no_news_and_what_no_assignment_sees_has_no_entry():
    host = Host()
    host.applies(FIRST)
    host.applies(FIRST)
    assert host.log.document()["snapshots"] == 1
    host.applies(world(service("web"), service("other", port=99), base=FIRST, revision=3))
    assert len(host.log.document()["entries"]) == 1


def test_a_comparison_that_was_offered_finds_what_a_comparison_of_all_finds():
    host = Host()
    before = host.applies(FIRST)
    after = host.applies(world(endpoint("api", "c", "10.0.0.3"), base=FIRST, revision=4))
    assert after.base == before.digest
    found = list(applied.changes(applied.assignments(before, after)))
    assert found == list(applied.changes(applied.assignments(before, replace(after, base=b"", changed={}))))
    ((_, _, old, new),) = found
    assert (old, new) == (None, Standing(far=False, health="healthy", weight=1, priority=0, share=0))


def test_it_is_bounded_and_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr(applied, "MAX_BYTES", 5000)
    host = Host()
    for number in range(100):
        health = ("healthy", "unhealthy")[number % 2]
        host.applies(world(endpoint("api", "a", "10.0.0.1", health=health), base=FIRST, revision=number + 1))
    told = host.log.document()
    assert told["snapshots"] == 100
    assert told["entries"][-1]["number"] == 100
    assert told["forgotten"] == told["entries"][0]["number"] - 1
    assert 2 < len(told["entries"]) < 50
