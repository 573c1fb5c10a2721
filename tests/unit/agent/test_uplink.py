"""The door to the control plane, against whole control-plane nodes with real TLS."""

import asyncio
import random
import time
from contextlib import asynccontextmanager

import msgspec
import pytest

from agent import uplink as module
from agent.register import Registrar
from agent.uplink import REPORTS_AT_ONCE, ControlPlane, Pace, RefusedByControlPlane, Unreachable, Uplink
from controlplane.uplink import AgentError
from mesh.model import Instance, InstancePort, Metadata
from mesh.model.instance import InstanceSpec
from mesh.model.uplink import Hello, RegisterAnswer, RegisterRequest, Report
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service

GONE = "https://127.0.0.1:1"


def instance(name: str = "api-vm1", account: str = "api", address: str = "10.0.0.1") -> Instance:
    return Instance(
        metadata=Metadata(name=name, namespace="shop"),
        spec=InstanceSpec(
            node="vm1", service="api", service_account=account, address=address, ports=(InstancePort(port=8080),),
            health="healthy",
        ),
    )  # fmt: skip


def with_cp(tmp_path, scenario) -> None:
    async def bounded():
        async with asyncio.timeout(60), mesh(tmp_path / "cp") as cp:
            await cp.apply(namespace(), service())
            await cp.add_node("vm1", "shop/api")
            await scenario(cp)

    asyncio.run(bounded())


def door(cp, *urls: str, node: str = "vm1") -> ControlPlane:
    return ControlPlane(lambda: urls or (cp.url,), lambda: cp.node_tls(node), rng=random.Random(1))


def test_instances_are_registered_and_refusals_are_told_by_name(tmp_path):
    async def scenario(cp):
        plane = door(cp)
        bad = instance("other", account="db")
        answer = await plane.register(RegisterRequest(instances=(instance(), bad)))
        assert answer.revision > 0
        assert set(answer.refused) == {"other"}
        listing = await cp.store.list("/holdfast/v1/mesh/endpoints/shop/api/")
        assert [item.key.rsplit("/", 1)[1] for item in listing.items] == ["api-vm1"]
        await plane.register(RegisterRequest(instances=()))
        assert not (await cp.store.list("/holdfast/v1/mesh/endpoints/shop/api/")).items

    with_cp(tmp_path, scenario)


def test_another_node_is_tried_and_the_one_that_answers_is_kept(tmp_path):
    async def scenario(cp):
        plane = door(cp, GONE, GONE + "0", cp.url)
        await plane.register(RegisterRequest(instances=(instance(),)))
        assert plane.targets()[0].url == cp.url
        with pytest.raises(Unreachable):
            await door(cp, GONE).register(RegisterRequest(instances=()))
        with pytest.raises(Unreachable, match="no control-plane node"):
            await ControlPlane(tuple, lambda: None, rng=random.Random(1)).register(RegisterRequest(instances=()))

    with_cp(tmp_path, scenario)


def test_who_is_not_a_node_is_refused_for_good(tmp_path):
    async def scenario(cp):
        with pytest.raises(RefusedByControlPlane, match="40"):
            await ControlPlane(
                lambda: (cp.url,), lambda: cp.cert_tls("/ns/shop/sa/api"), rng=random.Random(1)
            ).register(RegisterRequest(instances=()))

    with_cp(tmp_path, scenario)


def test_a_server_with_another_name_is_not_spoken_to(tmp_path, monkeypatch):
    async def scenario(cp):
        monkeypatch.setattr(module, "SERVER_NAME", "gate.holdfast")
        with pytest.raises(Unreachable, match="certificate"):
            await door(cp).register(RegisterRequest(instances=()))

    with_cp(tmp_path, scenario)


class Agent:
    """What an uplink needs of its agent."""

    def __init__(self, cp, *urls: str, answers=None) -> None:
        self.ups: list[float] = []
        self.downs: list[str] = []
        self.reports = 0
        self.phase = "serving"
        self.uplink = Uplink(
            door(cp, *urls), Hello(node="vm1", version="7"), report=self.report, answers=answers or {},
            on_up=lambda: self.ups.append(time.monotonic()), on_down=self.downs.append, rng=random.Random(1),
        )  # fmt: skip

    def report(self) -> Report:
        self.reports += 1
        return Report(node="vm1", phase=self.phase)

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


async def phase(cp) -> str:
    status, body = await cp.call("GET", "/v1/proxies/vm1")
    return (body.get("report") or {}).get("phase", "") if status == 200 else ""


def test_the_first_reports_go_at_once_and_then_one_a_second():
    pace = Pace()
    assert [pace.after(1000.0) for _ in range(REPORTS_AT_ONCE)] == [0.0] * (REPORTS_AT_ONCE - 1) + [1.0]
    assert pace.after(1001.0) == 1.0
    assert pace.after(1001.5) == 1.5, "who does not wait, waits longer"
    assert pace.after(1010.0) == 0.0, "a quiet time makes up for it"
    now, sent = 2000.0, 0
    while now < 2060.0:
        now, sent = now + pace.after(now), sent + 1
    assert sent <= 60 + REPORTS_AT_ONCE


def test_a_flood_of_changes_reaches_the_control_plane_as_few_reports(tmp_path):
    async def scenario(cp):
        agent = Agent(cp, GONE, cp.url)
        async with agent.running():
            await aeventually(lambda: agent.ups)
            assert await aeventually(lambda: phase(cp)) == "serving"
            agent.phase = "stale"
            before, since = agent.reports, time.monotonic()
            for _ in range(50):
                agent.uplink.changed()
                await asyncio.sleep(0.01)

            async def stale():
                return await phase(cp) == "stale"

            await aeventually(stale)
            assert agent.reports - before <= REPORTS_AT_ONCE + 1 + (time.monotonic() - since)

    with_cp(tmp_path, scenario)


def test_a_change_and_its_coming_into_force_are_both_reported_at_once(tmp_path):
    async def scenario(cp):
        agent = Agent(cp)
        async with agent.running():
            await aeventually(lambda: phase(cp))
            for number in range(2):
                agent.phase = f"step{number}"
                agent.uplink.changed()
                said = time.monotonic()
                await aeventually(lambda number=number: _is(cp, f"step{number}"))
                assert time.monotonic() - said < 0.8

    with_cp(tmp_path, scenario)


async def _is(cp, wanted: str) -> bool:
    return await phase(cp) == wanted


def test_questions_are_answered_and_unknown_ones_refused(tmp_path):
    async def scenario(cp):
        async def config(_: str) -> str:
            return '{"configs": [1]}'

        async def broken(_: str) -> str:
            raise RuntimeError("no proxy here")

        agent = Agent(cp, answers={"config": config})
        async with agent.running():
            await aeventually(lambda: phase(cp))
            status, body = await cp.call("GET", "/v1/proxies/vm1/config")
            assert status == 200
            assert body["configs"] == [1]
        for answers in ({"config": broken}, {}):
            agent = Agent(cp, answers=answers)
            async with agent.running():
                await aeventually(lambda agent=agent: agent.ups)

                async def told() -> bool:
                    status, body = await cp.call("GET", "/v1/proxies/vm1/config")
                    words = msgspec.json.encode(body).decode()
                    return status >= 400 and ("no proxy here" in words or "does not know" in words)

                await aeventually(told)

    with_cp(tmp_path, scenario)


def test_a_slow_answer_holds_up_no_other_and_bodies_come_through(tmp_path):
    async def scenario(cp):
        release = asyncio.Event()

        async def slow(_: str) -> str:
            await release.wait()
            return '"late"'

        async def echo(body: str) -> str:
            return body

        async def huge(_: str) -> str:
            return " " * (module.MAX_ANSWER_BYTES + 1)

        agent = Agent(cp, answers={"slow": slow, "echo": echo, "huge": huge})
        async with agent.running():
            await aeventually(lambda: phase(cp))
            ask = cp.context.uplinks.ask
            async with asyncio.TaskGroup() as group:
                late = [group.create_task(ask("vm1", "slow")) for _ in range(module.ANSWERS_AT_ONCE - 1)]
                assert await ask("vm1", "echo", '{"a": "\u00fc"\\"}') == '{"a": "\u00fc"\\"}'
                with pytest.raises(AgentError, match="larger than"):
                    await ask("vm1", "huge")
                release.set()
            assert [task.result() for task in late] == ['"late"'] * len(late)
            with pytest.raises(AgentError, match="bytes; an agent takes"):
                await ask("vm1", "echo", '"' * 3_000_000)
            assert await ask("vm1", "echo", '"' * 1_500_000) == '"' * 1_500_000

    with_cp(tmp_path, scenario)


def test_more_questions_than_an_agent_works_on_are_refused(tmp_path):
    async def scenario(cp):
        release = asyncio.Event()

        async def slow(_: str) -> str:
            await release.wait()
            return "1"

        agent = Agent(cp, answers={"slow": slow})
        async with agent.running():
            await aeventually(lambda: phase(cp))
            outcomes = []

            async def one() -> None:
                try:
                    outcomes.append(await cp.context.uplinks.ask("vm1", "slow"))
                except AgentError as exc:
                    outcomes.append(str(exc))

            async with asyncio.TaskGroup() as group:
                for _ in range(12):
                    group.create_task(one())
                await aeventually(lambda: len(outcomes) == 4)
                release.set()
            assert outcomes.count("1") == 8
            assert sum("unanswered questions" in o for o in outcomes) == 4

    with_cp(tmp_path, scenario)


def test_a_new_certificate_means_a_new_connection(tmp_path):
    async def scenario(cp):
        agent = Agent(cp)
        async with agent.running():
            await aeventually(lambda: len(agent.ups) == 1)
            agent.uplink.reconnect()
            await aeventually(lambda: len(agent.ups) == 2)
            assert len(agent.downs) == 1

    with_cp(tmp_path, scenario)


# --- registrar ---


class Registry:
    """Fails, refuses or takes registrations, as it is told."""

    def __init__(self) -> None:
        self.taken: list[tuple[Instance, ...]] = []
        self.error: Exception | None = None
        self.tries = 0

    async def register(self, request: RegisterRequest) -> RegisterAnswer:
        self.tries += 1
        if self.error:
            raise self.error
        self.taken.append(request.instances)
        return RegisterAnswer(revision=1, refused={"x": "why"})


def with_registrar(scenario) -> None:
    async def bounded():
        registry, done, instances = Registry(), [], [instance()]
        registrar = Registrar(
            registry, lambda: tuple(instances), on_registered=lambda: done.append(1), rng=random.Random(1)
        )
        task = asyncio.create_task(registrar.run())
        async with asyncio.timeout(20):
            await scenario(registrar, registry, instances, done)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(bounded())


def test_a_registration_is_retried_with_what_is_true_then():
    async def scenario(registrar, registry, instances, done):
        registry.error = Unreachable("nobody")
        registrar.request()
        await aeventually(lambda: registry.tries >= 2)
        assert registrar.problem == "nobody"
        instances.append(instance("late"))
        registry.error = None
        await aeventually(lambda: done)
        assert [len(taken) for taken in registry.taken] == [2]
        assert registrar.problem == ""
        assert registrar.refused == {"x": "why"}

    with_registrar(scenario)


def test_what_was_refused_waits_for_a_change():
    async def scenario(registrar, registry, instances, done):
        registry.error = RefusedByControlPlane("no")
        registrar.request()
        await aeventually(lambda: registrar.problem == "no")
        assert registry.tries == 1
        registry.error = None
        registrar.request()
        await aeventually(lambda: done)
        assert registry.tries == 2

    with_registrar(scenario)


def test_a_host_that_left_does_not_register_again():
    async def scenario(registrar, registry, instances, done):
        registry.error = Unreachable("nobody")
        registrar.request()
        await aeventually(lambda: registry.tries >= 1)
        registry.error = None
        await registrar.withdraw()
        registrar.request()
        await aeventually(lambda: len(registry.taken) >= 2)
        assert set(registry.taken) == {()}

    with_registrar(scenario)
