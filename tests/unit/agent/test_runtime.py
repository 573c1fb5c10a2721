"""Runtime, pipeline and search with real compiles and an Envoy that judges as it is told."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from agent import events as ev
from agent import kept, metrics
from agent.pipeline import Pipeline, Substitute
from agent.quarantine import Replacement
from agent.runtime import Runtime
from agent.search import find
from agent.state import StoredWorld
from agent.xds.server import Answered, StreamClosed, StreamOpened
from agent.xds.stream import Acked, Nacked, Withheld
from mesh import pb
from mesh.model import LocalPort, Metadata, Object, Revision, Upstream, World
from mesh.model.world import Upserted
from tests.support import meshes
from tests.support.waiting import aeventually


def svc(name: str) -> Object:
    return meshes.service(name, protocol="tcp", target=8080)


def policy(name: str) -> Object:
    return meshes.policy(name, "api", meshes.rule(f"shop/{name}"))


def endpoint(name: str) -> Object:
    return meshes.endpoint("api", name, "10.0.0.1")


def world(*objects: Object, base: World | None = None, revision: int = 1) -> World:
    return meshes.world(meshes.config(), meshes.bundle(meshes.FAKE_ROOT), *objects, base=base, revision=revision)


def local():
    upstream = Upstream(service="api", port=80, listen="127.0.0.1:9000")
    return meshes.local(meshes.definition("api", LocalPort(port=8080), upstreams=[upstream]))


class Parts:
    """Takes down what it is told; publishes into the hands of the test's Envoy."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.published: list = []
        self.warm: list[int | None] = []
        self.stored: list[World] = []
        self.pipeline: Pipeline | None = None

    def __getattr__(self, name: str):
        if name in {"join", "follow", "renew", "ensure_envoy", "look_at_envoy", "stop_envoy", "register", "deregister",
                    "save", "report", "exit", "say_alive"}:  # fmt: skip
            return lambda: self.done.append(name)
        raise AttributeError(name)

    def publish(self, snapshot) -> None:
        self.published.append(snapshot)

    async def warming(self):
        return self.warm.pop(0) if self.warm else 0

    def use_generation(self, number: int) -> ev.WorldChanged:
        self.pipeline.world = self.stored[number] if number >= 0 else World()
        return ev.WorldChanged(self.pipeline.world.revision, live=False)


class Envoy:
    """Refuses every snapshot in which an object stands that it was told to hate."""

    def __init__(self) -> None:
        self.hates: set[str] = set()
        self.trials = 0

    def verdict(self, snapshot) -> str | None:
        names = {str(ref) for resources in snapshot.resources.values() for r in resources.values() for ref in r.sources}
        bad = sorted(names & self.hates)
        return f"I do not like {bad[0]}" if bad else None

    async def validate(self, snapshot) -> str | None:
        self.trials += 1
        return self.verdict(snapshot)


class Rig:
    def __init__(self) -> None:
        self.parts, self.envoy = Parts(), Envoy()
        self.pipeline = Pipeline(local())
        self.parts.pipeline = self.pipeline
        self.runtime = Runtime(self.pipeline, self.parts, self.envoy.validate, metrics.Counters())

    def world(self, new: World) -> None:
        self.pipeline.world = new
        self.runtime.post(ev.WorldChanged(new.revision))

    async def published(self, count: int):
        await aeventually(lambda: len(self.parts.published) >= count)
        return self.parts.published[-1]

    async def begun(self) -> None:
        """A Service is in force."""
        self.world(world(svc("api")))
        self.answer(await self.published(1))
        await aeventually(lambda: self.runtime.state.applied == 1)

    def answer(self, snapshot, *types: str, stream: int = 1) -> None:
        if reason := self.envoy.verdict(snapshot):
            said = Nacked(snapshot.digest, snapshot.revision, pb.LISTENER, ("x",), reason)
        else:
            said = Acked(snapshot.digest, snapshot.revision, types or (pb.LISTENER,))
        self.runtime.on_xds(Answered(stream, said))

    @asynccontextmanager
    async def running(self):
        loops = (self.runtime.compiles, self.runtime.warms, self.runtime.searches)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop()) for loop in loops]
            self.runtime.post(ev.Started(identity=True))
            self.runtime.on_xds(StreamOpened(1, "vm1"))
            yield
            for task in tasks:
                task.cancel()


def run(scenario) -> None:
    async def bounded():
        rig = Rig()
        async with rig.running():
            await scenario(rig)

    asyncio.run(bounded())


def test_a_world_is_compiled_published_acknowledged_warm_and_then_in_force():
    async def scenario(rig):
        rig.parts.warm = [2, None, 1]
        rig.world(world(svc("api"), revision=7))
        snapshot = await rig.published(1)
        assert rig.runtime.state.applied == 0
        rig.answer(snapshot)
        assert rig.runtime.state.applied == 0, "acknowledged is not in force"
        await aeventually(lambda: rig.runtime.state.applied == 7)
        assert rig.parts.warm == []
        assert rig.runtime.state.phase == "serving"
        assert "save" in rig.parts.done

    run(scenario)


def test_an_endpoint_change_goes_out_on_the_spot_and_needs_no_question():
    async def scenario(rig):
        first = world(svc("api"))
        rig.world(first)
        rig.answer(await rig.published(1))
        await aeventually(lambda: rig.runtime.state.applied == 1)
        rig.parts.warm = [99] * 1000
        rig.world(first.apply([Upserted(endpoint("a1"), Revision(2))], Revision(2)))
        assert len(rig.parts.published) == 2, "compiled and published before anybody else had a turn"
        rig.answer(rig.parts.published[-1], pb.ENDPOINT)
        assert rig.runtime.state.applied == 2

    run(scenario)


def test_what_comes_while_an_offer_is_unanswered_goes_out_merged():
    async def scenario(rig):
        rig.world(world(svc("api")))
        first = await rig.published(1)
        for n in range(2, 10):
            rig.world(world(svc("api"), policy("p"), endpoint(f"a{n}"), base=rig.pipeline.world, revision=n))
        assert len(rig.parts.published) == 1
        rig.answer(first)
        last = await rig.published(2)
        assert last.revision == 9

    run(scenario)


def test_a_silent_envoy_does_not_hold_up_later_changes(monkeypatch):
    monkeypatch.setattr("agent.runtime.STALLED_SECONDS", 0.05)

    async def scenario(rig):
        rig.world(world(svc("api")))
        await rig.published(1)
        rig.world(world(svc("api"), endpoint("a1"), revision=2))
        assert (await rig.published(2)).revision == 2

    run(scenario)


def test_a_configuration_that_comes_again_has_its_full_time_to_be_answered(monkeypatch):
    """As of an endpoint that flaps: what it was given the first time is over."""

    async def scenario(rig):
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("agent.runtime.STALLED_SECONDS", 0.3)
        began, one, two = loop.time(), world(svc("api")), world(svc("api"), endpoint("a1"), revision=2)
        for count, known in enumerate((one, two), start=1):
            rig.world(known)
            rig.answer(await rig.published(count))
        monkeypatch.setattr("agent.runtime.STALLED_SECONDS", 60)
        rig.world(one)
        again = await rig.published(3)
        assert again.digest == rig.parts.published[0].digest
        await aeventually(lambda: loop.time() > began + 0.5)
        assert rig.runtime.state.in_flight

    run(scenario)


def test_a_refused_object_is_found_and_its_neighbours_go_on():
    async def scenario(rig):
        await rig.begun()
        bad = policy("bad")
        rig.envoy.hates = {str(bad.ref)}
        rig.world(world(svc("api"), bad, policy("good"), base=rig.pipeline.world, revision=5))
        refused = await rig.published(2)
        rig.answer(refused)
        assert "do not like" in rig.runtime.state.failure
        repaired = await rig.published(3)
        assert rig.envoy.verdict(repaired) is None
        assert repaired.digest != refused.digest
        rig.answer(repaired)
        await aeventually(lambda: rig.runtime.state.applied == 5)
        (rejected,) = rig.pipeline.rejected()
        assert rejected.object == str(bad.ref)
        assert "do not like" in rejected.reason
        assert rejected.in_force == "nothing"
        # An endpoint change keeps it out.
        rig.world(rig.pipeline.world.apply([Upserted(endpoint("a1"), Revision(6))], Revision(6)))
        assert rig.envoy.verdict(await rig.published(4)) is None
        rig.answer(rig.parts.published[-1], pb.ENDPOINT)
        # A new version of it gets its own try.
        rig.envoy.hates = set()
        better = msgspec.structs.replace(bad, metadata=msgspec.structs.replace(bad.metadata, labels={"v": "2"}))
        rig.world(rig.pipeline.world.apply([Upserted(better, Revision(9))], Revision(9)))
        assert rig.pipeline.rejected() == ()

    run(scenario)


def test_a_refusal_without_a_guilty_object_leaves_the_last_good_in_force():
    async def scenario(rig):
        await rig.begun()
        rig.world(world(svc("api"), policy("p"), revision=2))
        snapshot = await rig.published(2)
        rig.runtime.on_xds(
            Answered(1, Nacked(snapshot.digest, snapshot.revision, pb.LISTENER, ("x",), "address in use"))
        )
        await aeventually(lambda: not rig.runtime.state.searching)
        assert rig.runtime.state.applied == 1
        assert "address in use" in rig.runtime.state.failure
        rig.runtime.post(ev.WorldChanged(Revision(3)))
        await aeventually(lambda: not rig.runtime.state.compiling)
        assert len(rig.parts.published) == 2, "refused input is not offered again"

    run(scenario)


def test_endpoints_that_change_during_a_search_hold_up_nobody():
    """Envoy is not offered again what it refused, so it does not answer; what is found goes out all the same."""

    async def scenario(rig):
        await rig.begun()
        bad = policy("bad")
        rig.envoy.hates = {str(bad.ref)}
        rig.world(world(svc("api"), bad, base=rig.pipeline.world, revision=5))
        rig.answer(await rig.published(2))
        rig.world(rig.pipeline.world.apply([Upserted(endpoint("a1"), Revision(6))], Revision(6)))
        held = await rig.published(3)
        rig.runtime.on_xds(Answered(1, Withheld(held.digest, held.revision, pb.LISTENER, "I do not like it")))
        repaired = await rig.published(4)
        assert rig.envoy.verdict(repaired) is None
        rig.answer(repaired)
        await aeventually(lambda: rig.runtime.state.applied == rig.runtime.state.observed)

    run(scenario)


def test_during_a_hot_restart_both_envoys_must_agree():
    async def scenario(rig):
        rig.world(world(svc("api")))
        snapshot = await rig.published(1)
        rig.runtime.on_xds(StreamOpened(2, "vm1"))
        rig.answer(snapshot, stream=1)
        await aeventually(lambda: not rig.parts.warm)
        assert rig.runtime.state.acked == b""
        rig.runtime.on_xds(StreamClosed(1))
        assert "look_at_envoy" in rig.parts.done
        rig.answer(snapshot, stream=2)
        await aeventually(lambda: rig.runtime.state.applied == 1)

    run(scenario)


def test_a_fault_of_compile_ends_nothing():
    async def scenario(rig):
        await rig.begun()
        good, rig.pipeline.local = rig.pipeline.local, object()
        rig.runtime.post(ev.DefinitionsChanged())
        await aeventually(lambda: "compile failed" in rig.runtime.state.failure)
        assert rig.runtime.state.phase == "serving"
        rig.pipeline.local = good
        rig.world(world(svc("api"), endpoint("a1"), revision=3))
        assert (await rig.published(2)).revision == 3
        assert rig.runtime.state.failure == ""

    run(scenario)


def test_an_older_world_is_taken_when_envoy_cannot_live_with_the_newest():
    async def scenario():
        rig = Rig()
        bad = policy("bad")
        rig.envoy.hates = {str(bad.ref)}
        rig.parts.stored = [world(svc("api"), bad, revision=9), world(svc("api"), revision=8)]
        loops = (rig.runtime.compiles, rig.runtime.warms, rig.runtime.searches)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop()) for loop in loops]
            rig.runtime.on_xds(StreamOpened(1, "vm1"))
            rig.runtime.post(ev.Started(identity=True, generations=2))
            rig.answer(await rig.published(1))
            rig.answer(await rig.published(2))
            await aeventually(lambda: rig.runtime.state.applied == 8)
            assert rig.runtime.state.phase == "stale"
            for task in tasks:
                task.cancel()

    asyncio.run(scenario())


def test_several_guilty_objects_are_found_among_many():
    async def scenario():
        envoy = Envoy()
        bad = [policy(f"p{n}") for n in (3, 17)]
        envoy.hates = {str(p.ref) for p in bad}
        pipeline = Pipeline(local())
        pipeline.world = world(svc("api"), revision=1)
        before = pipeline.compile(pipeline.inputs())
        pipeline.remember(before)
        pipeline.world = world(svc("api"), *(policy(f"p{n}") for n in range(30)), revision=2)
        after = pipeline.compile(pipeline.inputs())
        found = await find(after, before, envoy.validate, {before.snapshot.digest: None})
        assert set(found) == {p.ref for p in bad}
        assert envoy.trials < 30
        pipeline.substitute(found)
        repaired = pipeline.compile(pipeline.inputs())
        assert envoy.verdict(repaired.snapshot) is None
        assert len(repaired.world.objects) == len(after.world.objects) - 2

    asyncio.run(scenario())


def at(obj, revision):
    return msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, resource_version=str(revision)))


@pytest.mark.parametrize(("others", "envoys"), [(0, 1), (1, 2), (40, 2)])
def test_what_changed_last_is_tried_first_and_what_envoy_has_is_not_tried(others, envoys):
    """And what this proxy has nothing of costs no Envoy."""

    async def scenario():
        envoy, bad = Envoy(), at(policy("a-bad"), 9)
        envoy.hates = {str(bad.ref)}
        pipeline = Pipeline(local())
        pipeline.world = world(svc("api"), revision=1)
        before = pipeline.compile(pipeline.inputs())
        elsewhere = [at(svc(f"elsewhere-{n}"), 8) for n in range(20)]
        rest = [at(policy(f"p{n}"), 8) for n in range(others)]
        pipeline.world = world(svc("api"), bad, *rest, *elsewhere, revision=9)
        after = pipeline.compile(pipeline.inputs())
        found = await find(after, before, envoy.validate, {before.snapshot.digest: None})
        assert set(found) == {bad.ref}
        assert envoy.trials == envoys

    asyncio.run(scenario())


def test_an_envoy_that_refuses_what_no_trial_shows_blames_nobody():
    async def scenario():
        envoy, pipeline = Envoy(), Pipeline(local())
        pipeline.world = world(svc("api"), revision=1)
        before = pipeline.compile(pipeline.inputs())
        pipeline.world = world(svc("api"), policy("p"), revision=2)
        after = pipeline.compile(pipeline.inputs())
        assert await find(after, before, envoy.validate, {before.snapshot.digest: None}) == {}

    asyncio.run(scenario())


def test_substitutes_survive_a_restart():
    old, new = (
        policy("p"),
        msgspec.structs.replace(policy("p"), metadata=Metadata(name="p", namespace="shop", resource_version="9")),
    )
    found = {
        new.ref: Substitute(new, Replacement(new.ref, old, "last accepted version"), "because"),
        svc("x").ref: Substitute(None, Replacement(svc("x").ref, svc("x"), "last accepted version"), "deleted"),
    }
    stored = kept.with_substitutes(StoredWorld(), found)
    raw = msgspec.msgpack.encode(stored)
    assert kept.substitutes(msgspec.msgpack.decode(raw, type=StoredWorld)) == found
