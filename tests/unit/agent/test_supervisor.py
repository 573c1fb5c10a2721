"""The supervisor on an Envoy of records: what it tells, and when."""

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import replace

from agent import events as ev
from agent.envoy.admin import ServerInfo
from agent.envoy.process import EnvoyError, EnvoyState
from agent.supervisor import Supervisor
from tests.support.waiting import aeventually

LIVE = EnvoyState(phase="live", pid=10, launcher=5, pids=(10,))


class Envoy:
    def __init__(self) -> None:
        self.now = EnvoyState()
        self.answers = False
        self.error: str | None = None
        self.ensured = 0
        self.stopped = False

    async def ensure(self) -> str:
        self.ensured += 1
        if self.error:
            raise EnvoyError(self.error)
        if self.now.phase in {"down", "orphaned"}:
            self.now = replace(LIVE, phase="starting")
        return "started"

    async def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        self.stopped = True
        self.now = EnvoyState()

    def state(self) -> EnvoyState:
        return self.now

    async def info(self) -> ServerInfo | None:
        return (
            ServerInfo(state="LIVE", version="1.40.0", epoch=self.now.epoch, uptime_seconds=1) if self.answers else None
        )


@asynccontextmanager
async def supervising():
    envoy, told = Envoy(), []
    supervisor = Supervisor(envoy, told.append, rng=random.Random(1))
    task = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(20):
            yield envoy, supervisor, told
    finally:
        task.cancel()
        await asyncio.wait({task})


def kinds(told) -> list[str]:
    return [type(event).__name__ for event in told]


def run(scenario) -> None:
    async def bounded():
        async with supervising() as (envoy, supervisor, told):
            await scenario(envoy, supervisor, told)

    asyncio.run(bounded())


async def live(envoy, supervisor, told) -> None:
    supervisor.ensure()
    await aeventually(lambda: envoy.ensured)
    envoy.now, envoy.answers = LIVE, True
    await aeventually(lambda: kinds(told) == ["EnvoyReady"])


def test_nothing_is_started_before_it_is_wanted():
    async def scenario(envoy, supervisor, told):
        await asyncio.sleep(0)
        assert envoy.ensured == 0
        await live(envoy, supervisor, told)
        assert supervisor.live
        assert supervisor.version == "1.40.0"

    run(scenario)


def test_a_crash_is_told_and_so_is_the_return():
    async def scenario(envoy, supervisor, told):
        await live(envoy, supervisor, told)
        envoy.now, envoy.answers = replace(LIVE, phase="waiting", pid=0, pids=()), False
        supervisor.look()
        await aeventually(lambda: kinds(told)[-1] == "EnvoyGone")
        envoy.now, envoy.answers = replace(LIVE, pid=11, restarts=1), True
        await aeventually(lambda: kinds(told) == ["EnvoyReady", "EnvoyGone", "EnvoyReady"])

    run(scenario)


def test_a_crash_between_two_looks_is_seen_by_its_pid():
    async def scenario(envoy, supervisor, told):
        await live(envoy, supervisor, told)
        envoy.now = replace(LIVE, pid=11, restarts=1)
        supervisor.look()
        await aeventually(lambda: kinds(told) == ["EnvoyReady", "EnvoyGone", "EnvoyReady"])

    run(scenario)


def test_a_stop_that_is_coming_is_told_before_envoy_is_gone_and_taken_back_as_it_is_live_again():
    async def scenario(envoy, supervisor, told):
        await live(envoy, supervisor, told)
        envoy.now = replace(LIVE, phase="draining")
        supervisor.look()
        await aeventually(lambda: told[-1] == ev.EnvoyDrains(begun=True))
        envoy.now = EnvoyState()
        supervisor.look()
        await aeventually(lambda: told[-1] == ev.EnvoyGone())
        assert kinds(told) == ["EnvoyReady", "EnvoyDrains", "EnvoyGone"]
        envoy.now = replace(LIVE, pid=11)
        await aeventually(lambda: told[-1] == ev.EnvoyReady())
        assert ev.EnvoyDrains(begun=False) in told

    run(scenario)


def test_a_hot_restart_is_no_loss():
    async def scenario(envoy, supervisor, told):
        await live(envoy, supervisor, told)
        envoy.now = replace(LIVE, pid=11, epoch=1)
        supervisor.look()
        await aeventually(lambda: supervisor._live.pid == 11)
        assert kinds(told) == ["EnvoyReady"]

    run(scenario)


def test_a_crash_loop_is_told():
    async def scenario(envoy, supervisor, told):
        supervisor.ensure()
        await aeventually(lambda: envoy.ensured)
        envoy.now = replace(LIVE, phase="waiting", pid=0, restarts=3)
        await aeventually(lambda: "EnvoyUnfit" in kinds(told))
        assert kinds(told).count("EnvoyUnfit") == 1

    run(scenario)


def test_an_orphan_is_adopted_without_being_told_gone():
    async def scenario(envoy, supervisor, told):
        await live(envoy, supervisor, told)
        before = envoy.ensured
        envoy.now = replace(LIVE, phase="orphaned", launcher=0)
        supervisor.look()
        await aeventually(lambda: envoy.ensured > before)
        assert "EnvoyGone" not in kinds(told)

    run(scenario)


def test_an_envoy_that_cannot_be_started_is_a_problem_and_is_tried_again():
    async def scenario(envoy, supervisor, told):
        envoy.error = "envoy is not on PATH"
        supervisor.ensure()
        await aeventually(lambda: envoy.ensured >= 2)
        assert "not on PATH" in supervisor.problem
        envoy.error = None
        await aeventually(lambda: supervisor.problem == "")

    run(scenario)


def test_a_stop_ends_it_and_does_not_start_it_again():
    async def scenario(envoy, supervisor, told):
        await live(envoy, supervisor, told)
        await supervisor.stop()
        assert envoy.stopped
        assert isinstance(told[-1], ev.EnvoyGone)
        before = envoy.ensured
        for _ in range(20):
            supervisor.look()
            await asyncio.sleep(0)
        assert envoy.ensured == before

    run(scenario)
