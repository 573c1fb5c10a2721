"""A host that joins voids what an earlier host held under its name, at every door of the API."""

import asyncio
import contextlib
import time

import aiohttp
import pytest

from ca import keys as ca_keys
from ca.joins import Join
from ca.signer.memory import MemorySigner
from controlplane.setup import InitOptions, init_store
from mesh import codec, keys
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import DOMAIN, SERVER_NAME, mesh, replica, settings_for


async def join(cp, tmp_path, name="n1", **more):
    """A host joins by a fresh token; its TLS, its chain and its key."""
    _, made = await cp.call("POST", "/v1/tokens", {"node": name, "identities": ["shop/api"], "ttlSeconds": 60})
    key = ca_keys.new_key()
    body = {"token": made["token"], "node": name, "address": "10.0.0.1", "csr": ca_keys.new_csr(key), **more}
    status, joined = await cp.call("POST", "/v1/join", body, token=None)
    assert status == 200, joined
    file = tmp_path / f"{name}-{made['id']}.pem"
    file.write_text(key + joined["chain"])
    tls = cp.anonymous_tls()
    tls.load_cert_chain(file)
    return tls, joined["chain"], key


async def uses(cp, tls, chain, key):
    """The statuses that a host gets with this certificate at each of its doors."""
    csr = ca_keys.new_csr(ca_keys.new_key())
    items, renewal = (
        [{"identity": "shop/api", "csr": csr}],
        {"chain": chain, "csr": csr, "proof": ca_keys.prove(key, csr)},
    )
    found = {
        "sign": (await cp.call("POST", "/v1/sign", {"items": items}, tls=tls))[0],
        "register": (await cp.call("POST", "/v1/register", {"instances": []}, tls=tls))[0],
        "renew": (await cp.call("POST", "/v1/renew", renewal, token=None))[0],
    }
    async with cp.request("GET", "/v1/uplink", tls=tls) as response:
        found["uplink"] = response.status  # 400: let in, and not a WebSocket
    return found


IN = {"sign": 200, "register": 200, "renew": 200, "uplink": 400}
OUT = dict.fromkeys(IN, 403)


def test_a_host_that_joins_anew_voids_the_certificates_of_the_one_before(tmp_path):
    """Evicted, deleted, joined anew: whoever kept the old certificate stays out, its open uplink included."""

    async def run():
        async with mesh(tmp_path) as cp:
            old = await join(cp, tmp_path)
            assert await uses(cp, *old) == IN
            _, node = await cp.call("GET", "/v1/objects/nodes/n1")
            node.pop("status", None)
            node["spec"]["evicted"] = True
            assert (await cp.call("PUT", "/v1/objects/nodes/n1", node))[0] == 200
            await aeventually(lambda: _uses(cp, old, OUT))
            assert (await cp.call("DELETE", "/v1/objects/nodes/n1"))[0] == 200
            assert await uses(cp, *old) == OUT
            new = await join(cp, tmp_path)
            await aeventually(lambda: _uses(cp, new, IN))
            await aeventually(lambda: _uses(cp, old, OUT))
            status, answer = await cp.call("POST", "/v1/register", {"instances": []}, tls=old[0])
            assert (status, "void" in answer["error"]) == (403, True)

    asyncio.run(run())


async def _uses(cp, host, wanted):
    return await uses(cp, *host) == wanted


def test_the_earlier_hosts_open_uplink_is_cut_by_the_next_join(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            old, _, _ = await join(cp, tmp_path)
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=old)) as session,
                session.ws_connect(cp.url + "/v1/uplink", server_hostname=SERVER_NAME) as ws,
            ):
                await aeventually(lambda: cp.context.uplinks.connection("n1"))
                await join(cp, tmp_path)
                message = await ws.receive(timeout=5)
                assert (message.type, "joined" in message.extra) == (aiohttp.WSMsgType.CLOSE, True)

    asyncio.run(run())


@pytest.mark.parametrize("garbage", [b"", b"\x00", b"{}", b'{"at": "never"}'])
def test_a_join_record_that_cannot_be_read_keeps_that_node_out_and_no_other(tmp_path, garbage):
    async def run():
        async with mesh(tmp_path) as cp:
            bad, good = await join(cp, tmp_path, "n1"), await join(cp, tmp_path, "n2")
            await cp.store.txn((), (Put(keys.join_of("n1"), garbage),))
            await aeventually(lambda: _uses(cp, bad, OUT))
            assert await uses(cp, *good) == IN
            _, state = await cp.call("GET", "/v1/status")
            assert [bad["key"] for bad in state["store"]["bad"]] == [keys.join_of("n1")]
            again = await join(cp, tmp_path, "n1")
            await aeventually(lambda: _uses(cp, again, IN))

    asyncio.run(run())


def test_operators_have_no_way_to_the_record_of_a_join(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await join(cp, tmp_path)
            before = await cp.store.get(keys.join_of("n1"))
            _, node = await cp.call("GET", "/v1/objects/nodes/n1")
            node.pop("status", None)
            node["metadata"].update(uid="another", creationTimestamp="2000-01-01T00:00:00Z")
            assert (await cp.call("PUT", "/v1/objects/nodes/n1", node))[0] == 200
            for kind in ("joins", "Join", "../joins"):
                assert (await cp.call("DELETE", f"/v1/objects/{kind}/n1"))[0] == 404
            assert (await cp.call("DELETE", "/v1/objects/nodes/n1"))[0] == 200
            assert await cp.store.get(keys.join_of("n1")) == before

    asyncio.run(run())


def test_the_leader_removes_records_that_can_void_nothing_any_more(tmp_path):
    async def run():
        store = MemoryStore()
        for name, expires in (("old", time.time() - 90 * 86400), ("new", time.time() + 60)):
            record = codec.encode_struct(Join(at=1.0, token="t", expires=expires))
            await store.txn((), (Put(keys.join_of(name), record),))
        await store.txn((), (Put(keys.join_of("bad"), b"{"),))
        async with mesh(tmp_path, store):

            async def left():
                return {item.key for item in (await store.list(keys.JOINS)).items} == {
                    keys.join_of("new"),
                    keys.join_of("bad"),
                }

            await aeventually(left)

    asyncio.run(run())


async def tries(cp, name, address):
    """A host asks to join with a good token: status and words of the answer."""
    _, made = await cp.call("POST", "/v1/tokens", {"node": name, "ttlSeconds": 60})
    body = {"token": made["token"], "node": name, "address": address, "csr": ca_keys.new_csr(ca_keys.new_key())}
    status, answer = await cp.call("POST", "/v1/join", body, token=None)
    return status, answer.get("error", "")


@contextlib.asynccontextmanager
async def connected(cp, name, address):
    """A node of this address whose uplink is open; every replica has heard of it."""
    await cp.add_node(name, address=address)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=cp.node_tls(name))) as session,
        session.ws_connect(cp.url + "/v1/uplink", server_hostname=SERVER_NAME) as ws,
    ):
        await aeventually(lambda: _present(cp, name))
        yield ws


async def _present(cp, name):
    return any(name in presence.connected for presence in cp.context.mirror.view.replicas.values())


def test_the_address_of_a_node_that_is_connected_anywhere_cannot_be_joined_with(tmp_path):
    async def run():
        store, signer = MemoryStore(), MemorySigner(DOMAIN, clock=time.time)
        made = await init_store(store, signer, InitOptions(trust_domain=DOMAIN), time.time())
        async with (
            replica(store, signer, settings_for(tmp_path, "cp1"), made.admin_token) as one,
            replica(store, signer, settings_for(tmp_path, "cp2"), made.admin_token) as two,
        ):
            await two.add_node("stale", address="10.0.0.8")
            async with connected(one, "n1", "10.0.0.1"), connected(one, "n6", "fd00::1"):
                await aeventually(lambda: _present(two, "n6"))
                for address in ("10.0.0.1", "::ffff:10.0.0.1", "FD00:0::1"):
                    status, error = await tries(two, "n2", address)
                    assert (status, address in error) == (429, True), error
                    assert error in two.audit_text()
                assert (await tries(two, "n1", "10.0.0.1"))[0] == 200  # its own
                assert (await tries(two, "n2", "10.0.0.8"))[0] == 200  # nobody is there
                await two.add_node("n6", address="fd00::1", evicted=True)
                await aeventually(lambda: _evicted(two, "n6"))
                assert (await tries(two, "n3", "fd00::1"))[0] == 200
            await one.add_node("n1", address="10.0.0.1")
            await aeventually(lambda: _gone(two, "n1"))
            assert (await tries(two, "n4", "10.0.0.1"))[0] == 200

    asyncio.run(run())


async def _evicted(cp, name):
    return cp.context.mirror.view.node(name).object.spec.evicted


async def _gone(cp, name):
    return not await _present(cp, name)


def test_a_node_that_moves_leaves_its_address_to_others(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp, connected(cp, "n1", "10.0.0.1"):
            assert (await tries(cp, "n2", "10.0.0.1"))[0] == 429
            await cp.add_node("n1", address="10.0.0.3")
            await aeventually(lambda: _moved(cp))
            assert (await tries(cp, "n2", "10.0.0.1"))[0] == 200
            assert (await tries(cp, "n3", "10.0.0.3"))[0] == 429

    asyncio.run(run())


async def _moved(cp):
    return cp.context.mirror.view.node("n1").object.spec.address == "10.0.0.3"
