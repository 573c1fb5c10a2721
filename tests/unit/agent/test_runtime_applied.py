"""Whoever waits for a revision to be in force is told when Envoy has acknowledged it, and not before."""

import asyncio

from agent import events as ev
from agent.metrics import Counters
from agent.pipeline import Pipeline
from agent.runtime import Runtime
from agent.xds.server import Answered, StreamOpened
from agent.xds.stream import Acked
from mesh import pb
from mesh.model import LocalPort, Revision, Upstream
from tests.support.meshes import config, definition, endpoint, local, service, world

WEB = definition("web", LocalPort(port=8080), upstreams=[Upstream(service="api", port=80, listen="127.0.0.1:9001")])
BASE = world(config(), service("api"), endpoint("api", "a", "10.0.0.1"))


class Parts:
    """Nothing is outside; what is published is kept."""

    def __init__(self) -> None:
        self.published = []

    def publish(self, snapshot):
        self.published.append(snapshot)

    async def warming(self):
        return 0

    def use_generation(self, number):
        raise AssertionError("there is no disk")

    def _nothing(self):
        """An instruction that matters to others."""

    join = follow = renew = ensure_envoy = look_at_envoy = stop_envoy = _nothing
    register = deregister = save = report = exit = say_alive = _nothing


async def validate(_snapshot):
    return None


async def published(parts, count):
    async with asyncio.timeout(5):
        while len(parts.published) < count:
            await asyncio.sleep(0.001)
    return parts.published[-1]


def acknowledge(runtime, snapshot, *types):
    runtime.on_xds(Answered(1, Acked(snapshot.digest, snapshot.revision, types)))


def test_growth_is_told_when_it_is_in_force():
    async def run():
        parts, pipeline = Parts(), Pipeline(local(WEB))
        runtime = Runtime(pipeline, parts, validate, Counters())
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(loop()) for loop in (runtime.compiles, runtime.warms)]
            runtime.post(ev.Started(identity=True, generations=0, gate=False, envoy=True))
            runtime.on_xds(StreamOpened(1, "web-1"))
            waiting = group.create_task(runtime.growth())
            pipeline.world, pipeline.newest = BASE, Revision(1)
            runtime.post(ev.WorldChanged(Revision(1)))
            first = await published(parts, 1)
            assert not waiting.done()
            acknowledge(runtime, first, *pb.SHORT)
            async with asyncio.timeout(5):
                await waiting
            assert runtime.applied_newest == 1

            waiting = group.create_task(runtime.growth())
            await asyncio.sleep(0)
            pipeline.world = world(endpoint("api", "a", "10.0.0.1", health="unhealthy"), base=BASE, revision=7)
            pipeline.newest = Revision(7)
            runtime.post(ev.WorldChanged(Revision(1)))
            second = await published(parts, 2)
            await asyncio.sleep(0)
            assert not waiting.done()
            acknowledge(runtime, second, pb.ENDPOINT)
            async with asyncio.timeout(5):
                await waiting
            assert runtime.applied_newest == 7
            for task in loops:
                task.cancel()

    asyncio.run(run())
