"""Plans through the API: every connected agent is asked, at all replicas, and nothing is written."""

import asyncio
import time

import msgspec
import pytest

from controlplane import asking
from controlplane.api import plans
from mesh import codec
from mesh.model.uplink import Planned, Proposal, ResourceChange
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import agent, mesh, namespace, service
from tests.unit.controlplane.test_api_wait import pair

CHANGED = Planned(revision=3, changes=(ResourceChange(type="lds", name="inbound", action="change"),))


def answering(planned: Planned, seen: list | None = None):
    def reply(body: str) -> str:
        if seen is not None:
            seen.append(codec.decode_struct(Proposal, body))
        return codec.encode_struct(planned).decode()

    return {"plan": reply}


async def plan(cp, *objects, delete=(), **more):
    return await cp.call("POST", "/v1/plan", {"objects": list(objects), "delete": list(delete), **more})


def test_agents_of_all_replicas_are_asked_and_nothing_is_written(tmp_path):
    async def run():
        async with pair(tmp_path) as (one, two):
            for name in ("n1", "n2", "n3", "n4"):
                await one.add_node(name)
            await one.apply(namespace(), service("old"))
            seen = []
            async with (
                agent(one, "n1", answers=answering(Planned(revision=3), seen)),
                agent(two, "n2", answers=answering(CHANGED)),
                agent(two, "n3", answers={}),
            ):
                await aeventually(lambda: len(one.context.mirror.view.replicas["cp2"].connected) == 2)
                await aeventually(lambda: one.context.uplinks.connection("n1"))
                before = await one.store.revision()
                removal = {"kind": "Service", "namespace": "shop", "name": "old"}
                status, found = await plan(one, service(), delete=[removal])
                assert status == 200
                assert await one.store.revision() == before
                assert [r["action"] for r in found["results"]] == ["created", "deleted"]
                assert found["unchanged"] == 1
                assert [(p["node"], [c["name"] for c in p["changes"]]) for p in found["proxies"]] == [
                    ("n2", ["inbound"])
                ]
                unknown = {u["node"]: u["reason"] for u in found["unknown"]}
                assert unknown == {"n3": "I do not know that", "n4": "offline"}
                created, removed = seen[0].objects
                assert (created.kind, created.object["spec"]["serviceAccounts"]) == ("Service", ["api"])
                assert created.object["metadata"]["uid"], "as it would be stored"
                assert (removed.name, removed.object) == ("old", None)

    asyncio.run(run())


def test_one_proxy_may_be_asked_alone(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            await cp.add_node("n2")
            await cp.apply(namespace())
            seen = []
            async with agent(cp, "n1", answers=answering(CHANGED, seen)), agent(cp, "n2", answers={}):
                await aeventually(lambda: len(cp.context.uplinks.connections()) == 2)
                status, found = await plan(cp, service(), proxy="n1")
                assert (status, found["unknown"], len(found["proxies"])) == (200, [], 1)
                assert seen[0].limit == plans.LIMIT_OF_ONE
                assert (await plan(cp, service(), proxy="nobody"))[0] == 404

    asyncio.run(run())


def test_it_is_checked_like_an_apply(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            bad = service()
            bad["spec"]["portz"] = 1
            planned, applied = await plan(cp, bad), await cp.apply(bad)
            assert planned == applied
            assert planned[0] == 422
            stale = service("x", "default")
            stale["metadata"]["resourceVersion"] = "7"
            assert (await plan(cp, stale))[0] == (await cp.apply(stale))[0] == 409
            assert (await cp.call("POST", "/v1/plan", b"{"))[0] == 400

    asyncio.run(run())


def test_what_concerns_no_proxy_is_asked_of_none(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            node = {"apiVersion": "holdfast.dev/v1", "kind": "Node", "metadata": {"name": "n9"}, "spec": {}}
            status, found = await plan(cp, node)
            assert (status, found["proxies"], found["unknown"]) == (200, [], [])

    asyncio.run(run())


@pytest.mark.parametrize("words", ["nonsense", '{"revision": "x"}', "[" * 1000])
def test_an_answer_that_cannot_be_read_is_told_and_hides_no_other(tmp_path, words):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            await cp.add_node("n2")
            await cp.apply(namespace())
            async with agent(cp, "n1", answers={"plan": words}), agent(cp, "n2", answers=answering(CHANGED)):
                await aeventually(lambda: len(cp.context.uplinks.connections()) == 2)
                _, found = await plan(cp, service())
                assert [p["node"] for p in found["proxies"]] == ["n2"]
                assert "cannot be read" in found["unknown"][0]["reason"]

    asyncio.run(run())


def test_one_plan_at_a_time_and_slow_agents_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "EACH_SECONDS", 0.5)

    def slow(_: str) -> str:
        time.sleep(1)
        return "{}"

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            await cp.apply(namespace())
            async with agent(cp, "n1", answers={"plan": slow}):
                await aeventually(lambda: cp.context.uplinks.connections())
                async with asyncio.TaskGroup() as group:
                    both = [group.create_task(plan(cp, service())) for _ in range(2)]
                assert sorted(task.result()[0] for task in both) == [200, 429]
                found = next(body for status, body in (task.result() for task in both) if status == 200)
                assert "did not answer" in found["unknown"][0]["reason"]

    asyncio.run(run())


def test_agents_that_there_is_no_time_for_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "ALL_SECONDS", 0.0001)
    monkeypatch.setattr(asking, "AT_ONCE", 1)

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            await cp.apply(namespace())
            async with agent(cp, "n1", answers=answering(CHANGED)):
                await aeventually(lambda: cp.context.uplinks.connections())
                _, found = await plan(cp, service())
                assert found["unknown"][0]["node"] == "n1"

    asyncio.run(run())


def test_viewers_may_plan_and_only_replicas_ask(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            viewer = await cp.operator("viewer")
            body = {"objects": [namespace()]}
            assert (await cp.call("POST", "/v1/plan", body, token=viewer))[0] == 200
            question = msgspec.json.encode({"what": "config", "eachSeconds": 1, "allSeconds": 1})
            assert (await cp.call("POST", "/v1/ask", question))[0] == 403
            peer = cp.cert_tls("/controlplane/cp9")
            assert (await cp.call("POST", "/v1/ask", question, tls=peer))[0] == 422
            everybody = msgspec.json.encode({"what": "drain", "eachSeconds": 1, "allSeconds": 1})
            assert (await cp.call("POST", "/v1/ask", everybody, tls=peer))[0] == 422

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "order", "what", "status"),
    [("POST", "drain", "drain", 202), ("POST", "undrain", "undrain", 200), ("GET", "drain", "drained", 200)],
)
def test_an_order_reaches_a_host_through_any_replica(tmp_path, method, order, what, status):
    async def run():
        async with pair(tmp_path) as (one, two):
            await one.add_node("n1")
            async with agent(two, "n1", answers={what: lambda _: '{"done": true}'}):
                await aeventually(lambda: one.context.mirror.view.replicas["cp2"].connected)
                assert await one.call(method, f"/v1/nodes/n1/{order}") == (status, {"done": True})

    asyncio.run(run())
