"""What agents do through the API: join, register, and the uplink; what the leader makes of it."""

import asyncio
import contextlib
import time

import aiohttp
import msgspec
import pytest

from ca import keys as ca_keys
from ca.signer.memory import MemorySigner
from controlplane import uplink
from controlplane.api import guard
from controlplane.setup import InitOptions, init_store
from mesh import keys
from mesh.model import Ref
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import (
    DOMAIN,
    SERVER_NAME,
    agent,
    instance,
    mesh,
    namespace,
    replica,
    say,
    service,
    settings_for,
)

CONFIG = {"apiVersion": "holdfast.dev/v1", "kind": "MeshConfig", "metadata": {"name": "default"}}


def config(grace: float):
    return CONFIG | {"spec": {"trustDomain": DOMAIN, "livenessGraceSeconds": grace}}


async def health(cp, name="api-n1"):
    _, listed = await cp.call("GET", "/v1/objects/endpoints?namespace=shop")
    return {item["metadata"]["name"]: item["spec"]["health"] for item in listed["items"]}.get(name)


def test_a_host_joins_with_its_token_and_registers(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service())
            _, made = await cp.call("POST", "/v1/tokens", {"node": "n1", "identities": ["shop/api"], "ttlSeconds": 60})
            _, roots = await cp.call("GET", "/v1/roots", token=None)
            assert made["token"].endswith(ca_keys.pin(roots["roots"][0]))
            key = ca_keys.new_key()
            body = {"token": made["token"], "node": "n1", "address": "10.0.0.1", "csr": ca_keys.new_csr(key)}
            status, joined = await cp.call("POST", "/v1/join", body, token=None)
            assert status == 200, joined
            assert (joined["trustDomain"], joined["identities"]) == (DOMAIN, ["shop/api"])
            file = tmp_path / "n1.pem"
            file.write_text(key + joined["chain"])
            tls = cp.anonymous_tls()
            tls.load_cert_chain(file)
            status, answer = await cp.call("POST", "/v1/register", {"instances": [instance()]}, tls=tls)
            assert (status, answer.get("refused")) == (200, None)
            assert await health(cp) == "healthy"
            status, signed = await cp.call(
                "POST",
                "/v1/sign",
                {"items": [{"identity": "shop/api", "csr": ca_keys.new_csr(ca_keys.new_key())}]},
                tls=tls,
            )
            assert status == 200
            assert signed["signed"][0]["chain"]
            other = body | {"csr": ca_keys.new_csr(ca_keys.new_key())}
            status, answer = await cp.call("POST", "/v1/join", other, token=None)
            assert status == 403
            assert "not valid" in answer["error"]
            assert made["token"].split(".")[2] not in cp.audit_text()
            assert '"ca.issue"' in cp.audit_text()

    asyncio.run(run())


class Transactions(MemoryStore):
    """Remembers who tried to write."""

    def __init__(self):
        super().__init__()
        self.authors = []

    async def txn(self, compares, ops):
        for op in ops:
            if op.key == keys.COMMIT:
                self.authors.append(msgspec.json.decode(op.value)["author"])
        return await super().txn(compares, ops)


def test_what_registrations_write_leaves_nothing_for_the_leader_to_do(tmp_path):
    """It sees an instance and its endpoint at once, also if another replica wrote them, and puts right nothing."""

    async def run():
        store, signer = Transactions(), MemorySigner(DOMAIN, clock=time.time)
        made = await init_store(store, signer, InitOptions(trust_domain=DOMAIN), time.time())
        taking = {"selector": {"app": "api"}, "serviceAccounts": ["api"]}
        async with replica(store, signer, settings_for(tmp_path, "cp1"), made.admin_token) as leader:
            await leader.context.election.fence()
            async with replica(store, signer, settings_for(tmp_path, "cp2"), made.admin_token) as cp:
                await cp.apply(namespace(), service(), service("all", **taking))
                await cp.add_node("n1", "shop/api")
                tls = cp.node_tls("n1")
                await cp.call("POST", "/v1/register", {"instances": [instance()]}, tls=tls)
                store.authors.clear()
                for turn in range(20):
                    body = {"instances": [instance(health=("unhealthy", "healthy")[turn % 2])]}
                    assert (await cp.call("POST", "/v1/register", body, tls=tls))[0] == 200
                await cp.apply(service("new", **taking))  # this is work, and comes after whatever there was before
                await aeventually(lambda: "controlplane:cp1" in store.authors)
                assert store.authors == ["node:n1"] * 20 + ["operator:admin", "controlplane:cp1"]

    asyncio.run(run())


def test_a_registration_tells_what_was_refused_and_registers_the_rest(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service())
            await cp.add_node("n1", "shop/api", "shop/web")
            body = {"instances": [instance(), instance("bad", address="10.9.9.9"), instance("w", serviceAccount="web")]}
            status, answer = await cp.call("POST", "/v1/register", body, tls=cp.node_tls("n1"))
            assert status == 200
            assert set(answer["refused"]) == {"bad"}
            assert set(answer["notes"]) == {"w"}
            _, listed = await cp.call("GET", "/v1/objects/endpoints")
            assert [item["metadata"]["name"] for item in listed["items"]] == ["api-n1"]
            _, described = await cp.call("GET", "/v1/objects/services/shop/api")
            assert "may not stand behind it" in described["status"]["refused"]["w"]
            _, described = await cp.call("GET", "/v1/objects/instances/shop/w")
            assert "may not stand behind it" in described["status"]["services"]["api.shop"]

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"instances": 5}', b'{"instances": [{}]}', b"\xff"])
def test_unreadable_registrations_are_refused_and_change_nothing(tmp_path, body):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service())
            await cp.add_node("n1", "shop/api")
            tls = cp.node_tls("n1")
            await cp.call("POST", "/v1/register", {"instances": [instance()]}, tls=tls)
            status, answer = await cp.call("POST", "/v1/register", body, tls=tls)
            assert status == 400
            assert answer["error"]
            assert await health(cp) == "healthy"

    asyncio.run(run())


def test_the_leader_follows_services_and_nodes(tmp_path):
    """Endpoints appear when a Service comes, go when it goes, and a deleted Node takes its instances along."""

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            await cp.add_node("n1", "shop/api")
            await cp.call("POST", "/v1/register", {"instances": [instance()]}, tls=cp.node_tls("n1"))
            assert await health(cp) is None
            await cp.apply(service())
            await aeventually(lambda: _is(cp, "healthy"))
            await cp.call("DELETE", "/v1/objects/services/shop/api")
            await aeventually(lambda: _is(cp, None))
            await cp.apply(service())
            await aeventually(lambda: _is(cp, "healthy"))
            await cp.call("DELETE", "/v1/objects/nodes/n1")
            await aeventually(lambda: _is(cp, None))
            assert (await cp.call("GET", "/v1/objects/instances"))[1]["items"] == []

    asyncio.run(run())


async def _is(cp, wanted):
    return await health(cp) == wanted


def test_a_host_that_leaves_is_marked_lost_after_the_grace_and_comes_back(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service(), config(1.0))
            await cp.add_node("n1", "shop/api")
            async with agent(cp):
                await cp.call("POST", "/v1/register", {"instances": [instance()]}, tls=cp.node_tls("n1"))
                await asyncio.sleep(1.5)  # longer than the grace: it is the uplink that keeps it
                assert await health(cp) == "healthy"
                left = time.monotonic()
            await aeventually(lambda: _is(cp, "lost"))
            assert 0.9 <= time.monotonic() - left <= 3.0
            _, status = await cp.call("GET", "/v1/status")
            assert status["nodes"]["lost"] == ["n1"]
            assert (await cp.call("GET", "/v1/objects/instances/shop/api-n1"))[1]["spec"]["health"] == "healthy"
            async with agent(cp):
                await aeventually(lambda: _is(cp, "healthy"))

    asyncio.run(run())


def test_reports_and_questions_go_through_any_replica(tmp_path):
    async def run():
        store, signer = MemoryStore(), MemorySigner(DOMAIN, clock=time.time)
        made = await init_store(store, signer, InitOptions(trust_domain=DOMAIN), time.time())
        async with (
            replica(store, signer, settings_for(tmp_path, "cp1"), made.admin_token) as one,
            replica(store, signer, settings_for(tmp_path, "cp2"), made.admin_token) as two,
        ):
            await one.add_node("n1", "shop/api")
            await one.add_node("n2")
            async with agent(one, answers={"config": '{"clusters": 7}'}) as ws:
                await say(ws, node="n1", phase="serving", applied=5)

                async def seen(cp):
                    _, answer = await cp.call("GET", "/v1/proxies")
                    first, second = answer["items"]
                    assert (first["node"], first["replica"], first["connected"]) == ("n1", "cp1", True)
                    assert first["report"]["applied"] == 5
                    assert (second["node"], second["connected"]) == ("n2", False)
                    assert answer["unreachable"] == []
                    return True

                for cp in (one, two):
                    await aeventually(lambda cp=cp: seen(cp))
                    assert await cp.call("GET", "/v1/proxies/n1/config") == (200, {"clusters": 7})
                    assert (await cp.call("GET", "/v1/proxies/n2/config"))[0] == 404
                    assert (await cp.call("GET", "/v1/proxies/nobody"))[0] == 404

    asyncio.run(run())


def test_an_agent_that_answers_with_an_error_gives_a_502(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            async with agent(cp):
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                status, answer = await cp.call("GET", "/v1/proxies/n1/config")
                assert status == 502
                assert "I do not know that" in answer["error"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "frame", ["garbage", "[]", '{"hello": {"node": "n2"}}', '{"report": 5}', "x" * 100_000, '{"answer": {}}']
)
def test_a_bad_frame_ends_that_uplink_and_no_other(tmp_path, frame):
    async def run():
        async with mesh(tmp_path) as cp:
            for name in ("n1", "n3"):
                await cp.add_node(name)
            async with agent(cp, "n3"), agent(cp, "n1") as ws:
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                await ws.send_str(frame)
                await aeventually(lambda: cp.context.uplinks.connection("n1") is None)
                assert cp.context.uplinks.connection("n3")

    asyncio.run(run())


def test_an_eviction_cuts_the_open_uplink(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            async with agent(cp) as ws:
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                await cp.add_node("n1", evicted=True)
                await aeventually(lambda: ws.closed)

    asyncio.run(run())


def test_an_eviction_between_the_check_and_the_connection_cuts_it_too(tmp_path, monkeypatch):
    async def passed(*_):
        """As it was a moment before the eviction."""

    monkeypatch.setattr(guard, "_check_node", passed)

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1", evicted=True)
            async with agent(cp) as ws:
                await aeventually(lambda: ws.closed)
                assert cp.context.uplinks.connection("n1") is None

    asyncio.run(run())


def test_a_flood_of_frames_ends_that_uplink_and_counts_over_its_connections(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            for name in ("n1", "n3"):
                await cp.add_node(name)
            async with agent(cp, "n3"):
                for frames in (300, 100):  # the second connection begins with what the first one left
                    async with agent(cp, "n1") as ws:
                        with contextlib.suppress(ConnectionError):
                            for _ in range(frames):
                                await ws.send_str("{}")
                        await aeventually(lambda ws=ws: ws.closed)
                assert cp.context.uplinks.connection("n3")

    asyncio.run(run())


def test_who_asks_often_cuts_no_uplink(tmp_path):
    """What was asked for is no flood, and gives nothing for one."""

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            async with agent(cp, answers={"config": "7"}) as ws:
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                for _ in range(3 * uplink.FRAMES.burst):
                    assert await cp.context.uplinks.ask("n1", "config") == "7"
                with contextlib.suppress(ConnectionError):
                    for _ in range(2 * uplink.FRAMES.burst):
                        await ws.send_str("{}")
                await aeventually(lambda: ws.closed)

    asyncio.run(run())


def test_a_large_frame_that_nobody_asked_for_ends_that_uplink(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            async with agent(cp) as ws:
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                await say(ws, node="n1", problems=("x" * 2**20,))
                await aeventually(lambda: ws.closed)
            async with agent(cp, answers={"config": f'"{"x" * 2**20}"'}):
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                assert await cp.call("GET", "/v1/proxies/n1/config") == (200, "x" * 2**20)

    asyncio.run(run())


def test_a_silent_agent_is_cut(tmp_path, monkeypatch):
    """It holds the connection, and answers no ping."""
    monkeypatch.setattr(uplink, "PING_SECONDS", 0.1)
    monkeypatch.setattr(uplink, "CUT_SECONDS", 0.3)

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=cp.node_tls("n1"))) as session,
                session.ws_connect(cp.url + "/v1/uplink", server_hostname=SERVER_NAME, autoping=False),
            ):
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                await aeventually(lambda: cp.context.uplinks.connection("n1") is None)
                presence = cp.context.uplinks.presence(asyncio.get_running_loop().time())
                assert presence.left["n1"] >= 0.3

    asyncio.run(run())


def test_presence_tells_who_is_connected(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")

            async def connected():
                item = await cp.store.get(keys.REPLICAS + "cp1")
                return msgspec.json.decode(item.value).get("connected", []) if item else None

            async with agent(cp):
                await aeventually(lambda: _equals(connected, ["n1"]))
            await aeventually(lambda: _equals(connected, []))

    asyncio.run(run())


async def _equals(read, wanted):
    return await read() == wanted


def test_garbage_among_endpoints_does_not_stop_registrations(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service())
            await cp.add_node("n1", "shop/api")
            for name in ("api-n1", "zzz"):
                key = keys.key_for(Ref("Endpoint", "shop", name), service="api")
                await cp.store.txn((), (Put(key, b"\x00"),))
            body = {"instances": [instance()]}
            status, answer = await cp.call("POST", "/v1/register", body, tls=cp.node_tls("n1"))
            assert (status, answer.get("refused")) == (200, None)
            assert await health(cp) == "healthy"
            _, state = await cp.call("GET", "/v1/status")
            assert [bad["key"].rsplit("/", 1)[1] for bad in state["store"]["bad"]] == ["zzz"]

    asyncio.run(run())


def test_a_node_that_registers_without_pause_is_slowed_down_and_no_other_is(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service())
            await cp.add_node("n1", "shop/api")
            await cp.add_node("n2", "shop/api", address="10.0.0.2")
            body, tls = {"instances": [instance()]}, cp.node_tls("n1")
            assert cp.context.registrations.take("n1", cp.context.wall(), 98.0) == 0  # all but two of the burst
            answers = [await cp.call("POST", "/v1/register", body, tls=tls) for _ in range(2)]
            assert [status for status, _ in answers] == [200, 200]
            soon = cp.context.wall() + 60  # emptied as of then, so that it does not fill while the test is slow
            assert cp.context.registrations.take("n1", soon, cp.context.registrations.level("n1", soon)) == 0
            async with cp.request("POST", "/v1/register", json=body, tls=tls) as response:
                assert response.status == 429
                assert int(response.headers["Retry-After"]) >= 1
            status, _ = await cp.call("POST", "/v1/register", {"instances": []}, tls=cp.node_tls("n2"))
            assert status == 200
            assert await health(cp) == "healthy"

    asyncio.run(run())
