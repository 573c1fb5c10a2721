"""Explaining a call through the API: the caller's host is found and asked, then the hosts that the call reaches."""

import asyncio

import msgspec

from mesh import codec, keys
from mesh.model import Ref
from mesh.model.explained import Answered, AnswerQuestion, Called, CallQuestion, Outcome, Reached
from mesh.store.protocol import Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import agent, instance, mesh, namespace, service
from tests.unit.controlplane.test_api_wait import pair

V1 = "v1.shop:80"
WANTED = {"name": "web", "namespace": "shop", "service": "api", "path": "/x", "headers": {"a": "b"}}


def reached(instance_name: str, node: str) -> Reached:
    return Reached(
        service=V1, instance=instance_name, node=node, address="10.0.0.1:15443", health="healthy", service_account="v1"
    )


CALLED = Called(
    node="n1", spiffe_id="spiffe://mesh.test/ns/shop/sa/web", listen="127.0.0.1:9000", revision=7,
    outcomes=(
        Outcome(share=0.9, verdict="to", service=V1, path="/y", host="api", headers=(("a", "b"), ("c", "d"))),
        Outcome(share=0.1, verdict="answer", status=500, words="no"),
    ),
    endpoints=(reached("v1-a", "n2"), reached("v1-b", "n3")),
)  # fmt: skip
ANSWERED = Answered(
    node="n2", sni="80.v1", revision=6, outcomes=(Outcome(share=1.0, verdict="deny", rule="default-deny"),)
)


def answers(struct: type, answer: msgspec.Struct, seen: list):
    def reply(body: str) -> str:
        seen.append(codec.decode_struct(struct, body))
        return codec.encode_struct(answer).decode()

    return reply


async def add_web(cp, node: str) -> None:
    document = instance(f"web-{node}", node, service="web")
    await cp.store.txn((), (Put(keys.key_for(Ref("Instance", "shop", f"web-{node}")), msgspec.json.encode(document)),))


def test_both_sides_are_asked_wherever_they_are_connected(tmp_path):
    async def run():
        async with pair(tmp_path) as (one, two):
            for name in ("n1", "n2", "n3"):
                await one.add_node(name)
            await add_web(one, "n1")
            calls, called = [], []
            async with (
                agent(two, "n1", answers={"explain-call": answers(CallQuestion, CALLED, calls)}),
                agent(one, "n2", answers={"explain-answer": answers(AnswerQuestion, ANSWERED, called)}),
            ):
                await aeventually(lambda: "n1" in one.context.mirror.view.replicas["cp2"].connected)
                await aeventually(lambda: one.context.uplinks.connection("n2"))
                await aeventually(lambda: one.context.mirror.view.instances)
                status, found = await one.call("POST", "/v1/explain", WANTED, token=await one.operator("viewer"))
                assert status == 200, found
                assert found["caller"]["outcomes"][0]["service"] == V1
                sides = {side["node"]: side for side in found["callees"]}
                assert sides["n2"]["outcomes"][0]["rule"] == "default-deny"
                assert sides["n3"]["error"] == "offline"
                assert (calls[0].service_namespace, calls[0].headers) == ("shop", (("a", "b"),))
                # The callee is asked about the request as it reaches it.
                assert (called[0].path, called[0].headers, called[0].port) == ("/y", (("a", "b"), ("c", "d")), 80)
                assert called[0].caller == CALLED.spiffe_id

    asyncio.run(run())


def test_who_cannot_be_asked_is_named(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            status, found = await cp.call("POST", "/v1/explain", WANTED)
            assert (status, "no host runs web.shop" in found["error"]) == (404, True)
            await cp.add_node("n1")
            await add_web(cp, "n1")
            await aeventually(lambda: cp.context.mirror.view.instances)
            status, found = await cp.call("POST", "/v1/explain", WANTED)
            assert (status, found["error"]) == (409, "n1: offline")
            async with agent(cp, "n1", answers={"explain-call": "{"}):
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                status, found = await cp.call("POST", "/v1/explain", WANTED)
                assert (status, "cannot be read" in found["error"]) == (409, True)
            status, _ = await cp.call("POST", "/v1/explain", {**WANTED, "surprise": 1})
            assert status == 422
            assert (await cp.call("POST", "/v1/explain", WANTED, token=None))[0] == 401

    asyncio.run(run())


def test_a_host_that_names_what_is_no_service_stops_nothing(tmp_path):
    strange = msgspec.structs.replace(
        CALLED,
        outcomes=(CALLED.outcomes[0], msgspec.structs.replace(CALLED.outcomes[0], service="v2.shop:x")),
        endpoints=(
            reached("v1-a", ""),
            msgspec.structs.replace(reached("v2-a", "n1"), service="v2.shop:x"),
            msgspec.structs.replace(reached("v3-a", "n1"), service="never.sent:80"),
        ),
    )

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            await add_web(cp, "n1")
            async with agent(cp, "n1", answers={"explain-call": answers(CallQuestion, strange, [])}):
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                await aeventually(lambda: cp.context.mirror.view.instances)
                status, found = await cp.call("POST", "/v1/explain", WANTED)
                assert status == 200, found
                reasons = {side["instance"]: side["error"] for side in found["callees"]}
                assert reasons["v1-a"] == "there is no such node"
                assert "no Service's port" in reasons["v2-a"]
                assert "no Service's port" in reasons["v3-a"]

    asyncio.run(run())


def test_a_caller_of_another_cluster_is_asked_about_at_the_callees_alone(tmp_path):
    who = "spiffe://west.test/ns/shop/sa/web"
    wanted = {"caller": who, "service": "api", "serviceNamespace": "shop", "path": "/x"}

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1", "shop/api")
            await cp.apply(namespace(), service("api"))
            body = {"instances": [instance()]}
            assert (await cp.call("POST", "/v1/register", body, tls=cp.node_tls("n1")))[0] == 200
            seen = []
            async with agent(cp, "n1", answers={"explain-answer": answers(AnswerQuestion, ANSWERED, seen)}):
                await aeventually(lambda: cp.context.mirror.view.endpoints)
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                status, found = await cp.call("POST", "/v1/explain", wanted)
                assert status == 200, found
                assert [(c["instance"], c["outcomes"][0]["rule"]) for c in found["callees"]] == [
                    ("api-n1", "default-deny")
                ]
                assert (seen[0].caller, seen[0].service, seen[0].port, seen[0].path) == (who, "api", 80, "/x")
            for change, status in (
                ({"caller": "web"}, 422), ({"name": "web"}, 422), ({"service": "gone"}, 404), ({"port": 81}, 422),
            ):  # fmt: skip
                assert (await cp.call("POST", "/v1/explain", wanted | change))[0] == status, change

    asyncio.run(run())
