"""What an agent answers to a change that is not written yet, with real compiles and an Envoy that judges as told."""

import asyncio
import threading

import msgspec
import pytest

from agent import planning
from agent.pipeline import Offer, Pipeline, Substitute
from agent.planning import PlanError, Planner
from agent.quarantine import Replacement
from mesh import codec, keys
from mesh.model import World
from mesh.model.uplink import Judged, Planned, Proposal, Proposed
from tests.support import meshes
from tests.support.waiting import aeventually
from tests.unit.agent.test_runtime import Envoy, local, policy, svc, world


class Host:
    def __init__(self, base: World | None = None) -> None:
        self.pipeline = Pipeline(local())
        self.pipeline.world = base or world(svc("api"), policy("web"))
        self.offer: Offer | None = self.pipeline.compile(self.pipeline.inputs())
        self.envoy = Envoy()
        self.planner = Planner(lambda: self.offer, self.envoy.validate)

    def plan(self, *proposed: Proposed) -> Planned:
        return codec.decode_struct(Planned, asyncio.run(self.planner.plan(body(*proposed))))

    def judge(self, *proposed: Proposed) -> Judged:
        return codec.decode_struct(Judged, asyncio.run(self.planner.judge(body(*proposed))))


def body(*proposed: Proposed) -> str:
    return msgspec.json.encode(Proposal(objects=proposed)).decode()


def put(obj) -> Proposed:
    ref = obj.ref
    return Proposed(
        kind=ref.kind, namespace=ref.namespace, name=ref.name, object=msgspec.json.decode(codec.encode(obj))
    )


def gone(obj) -> Proposed:
    return Proposed(kind=obj.ref.kind, namespace=obj.ref.namespace, name=obj.ref.name)


def test_a_plan_names_what_would_change_and_changes_nothing():
    host = Host()
    before = host.pipeline.world, host.offer.snapshot.digest
    found = host.plan(put(meshes.policy("web", "api", meshes.rule("shop/other"))))
    assert {(c.type, c.action) for c in found.changes} == {("lds", "change")}
    assert all(c.before != c.after for c in found.changes)
    assert (host.pipeline.world, host.offer.snapshot.digest) == before
    assert host.pipeline.compile(host.pipeline.inputs()).snapshot.digest == before[1]
    assert host.plan().changes == ()


def test_what_a_plan_says_is_what_comes_of_the_change():
    host = Host()
    new = meshes.service("api", protocol="tcp", target=8081)
    found = host.plan(put(new))
    host.pipeline.world = world(new, base=host.pipeline.world, revision=2)
    then = host.pipeline.compile(host.pipeline.inputs()).snapshot
    versions = {r.name: r.version for resources in then.resources.values() for r in resources.values()}
    assert found.changes
    assert {c.name: c.after for c in found.changes} == {c.name: versions.get(c.name, "") for c in found.changes}


def test_a_deletion_is_planned_by_name_and_its_problems_are_told():
    found = Host().plan(gone(svc("api")))
    assert ("cds", "remove") in {(c.type, c.action) for c in found.changes}
    assert any("api" in problem for problem in found.problems)


def test_objects_that_this_agent_cannot_read_are_named():
    strange = Proposed(kind="AuthorizationPolicy", namespace="shop", name="x", object={"spec": {"surprise": 1}})
    unknown = Proposed(kind="Novelty", namespace="shop", name="x", object={})
    hostile = Proposed(kind="Service", namespace="shop", name="../x", object={})
    problems = " ".join(Host().plan(strange, unknown, hostile).problems)
    assert keys.OBJECTS + "AuthorizationPolicy/shop/x" in problems
    assert "no such kind: 'Novelty'" in problems
    assert "'../x' cannot be a part of a key" in problems


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"objects": [{"kind": "Service"}]}'])
def test_a_body_that_cannot_be_read_is_an_error(text):
    with pytest.raises(PlanError, match="cannot be read"):
        asyncio.run(Host().planner.plan(text))


def test_a_host_without_a_configuration_says_so():
    host = Host()
    host.offer = None
    with pytest.raises(PlanError, match="not compiled anything"):
        host.plan()


def test_a_long_answer_is_cut_and_says_so(monkeypatch):
    monkeypatch.setattr(planning, "MAX_CHANGES", 1)
    found = Host().plan(gone(svc("api")))
    assert (len(found.changes), found.more > 0) == (1, True)
    none = Proposal(objects=(gone(svc("api")),), limit=0)
    told = codec.decode_struct(Planned, asyncio.run(Host().planner.plan(msgspec.json.encode(none).decode())))
    assert (told.changes, told.more) == ((), found.more + 1)


def test_what_stands_in_for_a_refused_object_stays_unless_it_is_changed():
    host = Host()
    refused = policy("bad")
    host.pipeline.world = world(refused, base=host.pipeline.world, revision=2)
    host.pipeline.substitute({refused.ref: Substitute(refused, Replacement(refused.ref, None, "nothing"), "no")})
    host.offer = host.pipeline.compile(host.pipeline.inputs())
    assert host.plan().changes == ()
    assert host.plan(put(refused)).changes, "applied again, it would be tried again"


def test_what_envoy_refuses_is_told_with_the_guilty_object():
    host = Host()
    host.envoy.hates = {"AuthorizationPolicy shop/bad"}
    good, bad = policy("good"), policy("bad")
    found = host.judge(put(good), put(bad))
    assert "I do not like" in found.refused
    assert set(found.objects) == {"AuthorizationPolicy shop/bad"}
    assert host.judge(put(good)) == Judged()


def test_a_change_that_changes_nothing_here_is_not_tried():
    host = Host()
    assert host.judge(put(svc("elsewhere"))) == Judged()
    assert host.envoy.trials == 0


def test_who_is_refused_already_does_not_blame_the_change():
    host = Host()
    host.envoy.hates = {"Service shop/api"}
    found = host.judge(put(policy("good")))
    assert (found.refused, found.objects) == ("", {})
    assert "present configuration is refused" in found.problems[0]


def test_one_question_at_a_time_and_a_late_compile_still_counts(monkeypatch):
    async def run():
        host, hold = Host(), threading.Event()
        original = planning.changed

        def slow(present, proposed):
            hold.wait(10)
            return original(present, proposed)

        monkeypatch.setattr(planning, "changed", slow)
        monkeypatch.setattr(planning, "PLAN_SECONDS", 0.2)
        first = asyncio.create_task(host.planner.plan(body()))
        await asyncio.sleep(0)
        with pytest.raises(PlanError, match="under way"):
            await host.planner.plan(body())
        with pytest.raises(PlanError, match="no answer within"):
            await first
        with pytest.raises(PlanError, match="under way"):
            await host.planner.plan(body())
        hold.set()
        monkeypatch.setattr(planning, "PLAN_SECONDS", 10.0)

        async def again() -> bool:
            try:
                return bool(await host.planner.plan(body()))
            except PlanError:
                return False

        await aeventually(again)

    asyncio.run(run())


def test_a_change_is_judged_after_a_plan_that_is_under_way_and_before_later_ones(monkeypatch):
    async def run():
        host, hold = Host(), threading.Event()
        original, order = planning.changed, []

        def slow(present, proposed):
            order.append([one.name for one in proposed])
            hold.wait(10)
            return original(present, proposed)

        monkeypatch.setattr(planning, "changed", slow)
        looking = asyncio.create_task(host.planner.plan(body(put(policy("looked")))))
        await aeventually(lambda: order)
        judging = asyncio.create_task(host.planner.judge(body(put(policy("wanted")))))
        await asyncio.sleep(0)
        with pytest.raises(PlanError, match="another plan is under way"):
            await host.planner.plan(body())
        with pytest.raises(PlanError, match="another change is being judged"):
            await host.planner.judge(body())
        hold.set()
        assert codec.decode_struct(Judged, await judging) == Judged()
        await looking
        assert order == [["looked"], ["wanted"]]
        assert await host.planner.plan(body())

    asyncio.run(run())
