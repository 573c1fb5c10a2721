"""Waiting through the API until a revision is in force, over several replicas."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from ca.signer.memory import MemorySigner
from controlplane.setup import InitOptions, init_store
from mesh import keys
from mesh.model.uplink import Rejected
from mesh.store.memory import MemoryStore
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import DOMAIN, agent, mesh, namespace, replica, say, service, settings_for

API = "/v1/objects/services/shop/api"


async def epoch(cp) -> str:
    return (await cp.store.get(keys.EPOCH)).value.decode().strip('"')


async def report(cp, ws, revision: int, **more) -> None:
    values = {"epoch": await epoch(cp), "observed": revision, "applied": revision, "phase": "serving", "envoy": "live"}
    await say(ws, node="n1", **values | more)


async def ask(cp, revision: int, **more):
    status, found = await cp.call("POST", "/v1/wait", {"revision": revision, **more})
    assert status == 200, found
    return found


@asynccontextmanager
async def pair(tmp_path):
    store, signer = MemoryStore(), MemorySigner(DOMAIN, clock=time.time)
    made = await init_store(store, signer, InitOptions(trust_domain=DOMAIN), time.time())
    async with (
        replica(store, signer, settings_for(tmp_path, "cp1"), made.admin_token) as one,
        replica(store, signer, settings_for(tmp_path, "cp2"), made.admin_token) as two,
    ):
        await aeventually(lambda: len(one.context.mirror.view.replicas) == len(two.context.mirror.view.replicas) == 2)
        yield one, two


def test_it_answers_when_the_last_proxy_of_any_replica_has_it(tmp_path):
    async def run():
        async with pair(tmp_path) as (one, two):
            for name in ("n1", "n2"):
                await one.add_node(name)
            async with agent(one, "n1") as first, agent(two, "n2") as second:
                _, done = await one.apply(namespace(), service())
                revision = done["waitFor"]
                assert revision == done["revision"]
                await report(one, first, revision)
                await report(one, second, revision - 1)

                async def lacking():
                    found = await ask(one, revision)
                    assert (found["state"], found["inForce"], found["live"]) == ("waiting", 1, 2)
                    return found["waiting"] == [{"node": "n2", "reason": "has not seen it yet"}]

                await aeventually(lacking)
                waiting = asyncio.create_task(ask(one, revision, seconds=15))
                await asyncio.sleep(0.5)
                assert not waiting.done()
                await report(one, second, revision)
                said = time.monotonic()
                found = await waiting
                assert (found["state"], found["inForce"]) == ("in force", 2)
                assert time.monotonic() - said < 1
                assert (await ask(two, revision))["state"] == "in force"

    asyncio.run(run())


def test_a_replica_that_does_not_answer_keeps_its_proxies_waited_for(tmp_path):
    async def run():
        async with pair(tmp_path) as (one, two):
            await one.add_node("n1")
            async with agent(two, "n1") as ws:
                await report(one, ws, 10**6)
                await aeventually(lambda: one.context.mirror.view.replicas["cp2"].connected)
                assert (await ask(one, 5, seconds=5))["state"] == "in force"
                for site in list(two.node._runner.sites):
                    await site.stop()
                found = await ask(one, 5)
                assert found["state"] == "waiting"

    asyncio.run(run())


def test_a_refused_object_ends_the_wait(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            async with agent(cp) as ws:
                _, done = await cp.apply(namespace(), service())
                waiting = asyncio.create_task(
                    ask(cp, done["waitFor"], objects=["Service shop/api", "Namespace shop"], seconds=15)
                )
                refused = Rejected(object="Service shop/api", reason="bad regex")
                await report(cp, ws, done["revision"], applied=1, rejected=(refused,))
                found = await waiting
                assert found["state"] == "rejected"
                assert found["rejected"] == [{"node": "n1", "object": "Service shop/api", "reason": "bad regex"}]

    asyncio.run(run())


def test_hosts_that_were_away_for_long_are_named_and_not_waited_for(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            config = (await cp.call("GET", "/v1/objects/meshconfigs/default"))[1]
            config["spec"]["livenessGraceSeconds"] = 1.0
            _, done = await cp.apply(config)
            await cp.add_node("n1")
            await cp.add_node("evicted", evicted=True)
            started = time.monotonic()
            found = await ask(cp, done["waitFor"], seconds=10)
            assert time.monotonic() - started < 5
            assert (found["state"], found["live"]) == ("in force", 0)
            assert [one["node"] for one in found["offline"]] == ["n1"]
            found = await ask(cp, done["waitFor"], requireAll=True)
            assert found["state"] == "waiting"

    asyncio.run(run())


def test_what_concerns_no_proxy_is_not_waited_for(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            _, first = await cp.apply(namespace(), service())
            node = {"apiVersion": "holdfast.dev/v1", "kind": "Node", "metadata": {"name": "n9"}, "spec": {}}
            _, done = await cp.apply(node)
            assert (done["waitFor"], bool(done["entry"])) == (0, True)
            # What is as it was has been in force since it was written.
            _, again = await cp.apply(node, service())
            assert (again["waitFor"], again["entry"]) == (first["revision"], "")

    asyncio.run(run())


def test_an_object_says_at_how_many_proxies_it_is_in_force(tmp_path):
    async def run():
        async with pair(tmp_path) as (one, two):
            await one.add_node("n1")
            await one.add_node("n2")
            async with agent(one, "n1") as first, agent(two, "n2") as second:
                _, done = await one.apply(namespace(), service())
                await report(one, first, done["revision"])
                await report(one, second, done["revision"] - 1)

                async def programmed(count):
                    _, got = await one.call("GET", API)
                    wanted = {"proxies": count, "of": 2, "revision": done["revision"]}
                    return got["status"]["programmed"] == wanted

                await aeventually(lambda: programmed(1))
                await report(one, second, done["revision"])
                await aeventually(lambda: programmed(2))
                assert "programmed" not in str((await one.call("GET", "/v1/objects/nodes/n1"))[1])

    asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"revision": -1}', b'{"revision": 1, "seconds": 1000}', b'{"revision": "x"}', b'{"revision": 1, "x": 2}'],
)
def test_bad_questions_get_a_clear_answer(tmp_path, body):
    async def run():
        async with mesh(tmp_path) as cp:
            status, answer = await cp.call("POST", "/v1/wait", body)
            assert status == 422
            assert answer["violations"]

    asyncio.run(run())


ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "r", "namespace": "shop"},
    "spec": {
        "parentRefs": [{"group": "", "kind": "Service", "name": "api"}],
        "rules": [{"backendRefs": [{"name": "gone", "port": 80}]}],
    },
}


def test_a_route_says_what_became_of_it_and_can_be_applied_as_it_was_got(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            async with agent(cp, "n1") as one:
                _, done = await cp.apply(namespace(), service(), ROUTE)
                await report(cp, one, done["revision"])

                async def told():
                    _, got = await cp.call("GET", "/v1/objects/httproutes/shop/r")
                    conditions = got["status"]["parents"][0]["conditions"]
                    found = {c["type"]: (c["status"], c["reason"], c["message"]) for c in conditions}
                    assert found["ResolvedRefs"][:2] == ("False", "BackendNotFound")
                    return found["Programmed"] == ("True", "Programmed", f"1/1 @{done['revision']}") and got

                got = await aeventually(told)
                assert got["status"]["parents"][0]["conditions"][0]["type"] == "Accepted"
                _, again = await cp.apply(got)
                assert [result["action"] for result in again["results"]] == ["unchanged"]

    asyncio.run(run())
