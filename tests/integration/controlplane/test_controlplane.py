"""Control-plane processes on a real etcd with TLS and authentication."""

import asyncio
import signal
import time
from dataclasses import replace

import aiohttp
import msgspec
import pytest

from ca import keys as ca_keys
from controlplane import setup
from controlplane.setup import SetupError
from mesh import keys
from tests.integration.controlplane.fleet import DOMAIN, running
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import namespace, service

pytestmark = pytest.mark.real


def test_init_makes_users_and_may_be_repeated(tmp_path):
    async def run():
        async with running(tmp_path, "cp1") as it:
            admin = it.cluster.admin()
            assert await admin.auth_enabled()
            await admin.close()
            gate = it.cluster.store("holdfast-gate")
            listing = await gate.list(keys.MESH)
            assert {keys.EPOCH, keys.BUNDLES + DOMAIN} <= {item.key for item in listing.items}
            await gate.close()
            again = await it.init()
            assert not again.fresh
            assert again.admin_token == ""
            with pytest.raises(SetupError, match="another mesh"):
                await setup.init_mesh(it.settings["cp1"], replace(it.options(), trust_domain="other.test"))

    asyncio.run(run())


def test_no_secret_is_in_the_store_in_clear(tmp_path):
    async def run():
        async with running(tmp_path, "cp1") as it:
            _, made = await it.call("cp1", "POST", "/v1/tokens", {"node": "n1", "identities": ["shop/api"]})
            store = it.cluster.store()
            raw = b"".join(item.value for item in (await store.list(keys.ROOT)).items)
            await store.close()
            for secret in (it.token, made["token"].split(".")[2], "PRIVATE KEY"):
                assert secret.encode() not in raw
            raw.decode()  # readable as text
            for text in (it.folder / "cp1.log", it.settings["cp1"].audit_path):
                assert it.token not in text.read_text()

    asyncio.run(run())


def test_an_apply_is_whole_and_one_of_many_racers_wins(tmp_path):
    async def run():
        async with running(tmp_path, "cp1", "cp2") as it:
            status, done = await it.apply("cp1", namespace(), *[service(f"s{n}") for n in range(150)])
            assert status == 200, done
            store = it.cluster.store()
            found = (await store.list(keys.OBJECTS + "Service/")).items
            commit = await store.get(keys.COMMIT)
            await store.close()
            assert {item.revision for item in found} == {done["revision"]}
            assert commit.revision == done["revision"]
            _, current = await it.call("cp1", "GET", "/v1/objects/services/shop/s1")
            current.pop("status", None)

            async def race(number):
                wanted = msgspec.json.decode(msgspec.json.encode(current))
                wanted["spec"]["serviceAccounts"] = [f"racer-{number}"]
                name = "cp1" if number % 2 else "cp2"
                return (await it.call(name, "PUT", "/v1/objects/services/shop/s1", wanted))[0]

            async with asyncio.TaskGroup() as group:
                racers = [group.create_task(race(number)) for number in range(20)]
            assert sorted(task.result() for task in racers) == [200] + [409] * 19

    asyncio.run(run())


def test_a_watch_resumes_at_another_replica_without_a_gap(tmp_path):
    async def run():
        async with running(tmp_path, "cp1", "cp2") as it:
            await it.apply("cp1", namespace())
            seen, mark = [], 0

            async def read(name, last):
                nonlocal mark
                path = f"/v1/watch/services?revision={mark + 1}" if mark else "/v1/watch/services"
                async with it.request(name, "GET", path) as response:
                    assert response.status == 200
                    async for raw in response.content:
                        line = msgspec.json.decode(raw)
                        if line["type"] == "mark":
                            mark = line["revision"]
                            if mark >= last():
                                return
                        else:
                            seen.append(line["object"]["metadata"]["name"])

            first = {"revision": 1 << 60}
            reading = asyncio.create_task(read("cp1", lambda: first["revision"]))
            await aeventually(lambda: mark)
            _, first = await it.apply("cp2", service("a"), service("b"))
            await reading
            it.processes["cp1"].kill9()
            await it.apply("cp2", service("c"))
            _, last = await it.apply(
                "cp2", service("d"), delete=[{"kind": "Service", "namespace": "shop", "name": "a"}]
            )
            await read("cp2", lambda: last["revision"])
            assert seen[:3] == ["a", "b", "c"]
            assert sorted(seen[3:]) == ["a", "d"]  # one revision: its order says nothing

    asyncio.run(run())


def test_a_killed_leader_is_replaced_and_its_work_goes_on(tmp_path):
    async def run():
        async with running(tmp_path, "cp1", "cp2") as it:
            await it.apply("cp1", namespace())
            leader = await aeventually(lambda: it.leader("cp1"))
            other = {"cp1": "cp2", "cp2": "cp1"}[leader]
            host = await it.join(other, "n1", "127.0.0.1", "shop/api")
            await it.call(other, "POST", "/v1/register", {"instances": [host.instance()]}, node=host)
            it.processes[leader].kill9()
            killed = time.monotonic()
            await aeventually(lambda: _leads(it, other), timeout=20)
            assert time.monotonic() - killed < 10
            await it.apply(other, service())
            await aeventually(lambda: _healthy(it, other, "api-n1", "healthy"))

    asyncio.run(run())


async def _leads(it, name):
    return await it.leader(name) == name


async def _healthy(it, name, endpoint, wanted):
    return await it.health(name, endpoint) == wanted


def test_a_silent_host_is_lost_after_the_grace_and_nobody_without_a_control_plane(tmp_path):
    async def run():
        async with running(tmp_path, "cp1", "cp2") as it:
            await it.apply("cp1", namespace(), service())
            host = await it.join("cp1", "n1", "127.0.0.1", "shop/api")
            async with it.uplink("cp2", host):
                await it.call("cp1", "POST", "/v1/register", {"instances": [host.instance()]}, node=host)
                await asyncio.sleep(3)  # longer than the grace of 2 s
                assert await it.health("cp1", "api-n1") == "healthy"
                left = time.monotonic()
            await aeventually(lambda: _healthy(it, "cp1", "api-n1", "lost"))
            gone = time.monotonic() - left
            # After the grace, and soon: on a machine that is busy, too.
            assert 1.9 <= gone <= 8.0, gone
            async with it.uplink("cp1", host):
                await aeventually(lambda: _healthy(it, "cp1", "api-n1", "healthy"))
                for process in it.processes.values():
                    process.kill9()
            store = it.cluster.store()
            await asyncio.sleep(4)
            (item,) = (await store.list(keys.ENDPOINTS)).items
            assert msgspec.json.decode(item.value)["spec"]["health"] == "healthy"
            await store.close()
            # Back again, the grace starts anew.
            await it.start()
            assert await it.health("cp1", "api-n1") == "healthy"
            await aeventually(lambda: _healthy(it, "cp1", "api-n1", "lost"))

    asyncio.run(run())


def test_a_host_that_joins_anew_voids_what_the_evicted_one_holds_at_every_replica(tmp_path):
    async def run():
        async with running(tmp_path, "cp1", "cp2") as it:
            old = await it.join("cp1", "n1", "127.0.0.1", "shop/api")
            assert [await _registers(it, name, old) for name in ("cp1", "cp2")] == [200, 200]
            _, node = await it.call("cp1", "GET", "/v1/objects/nodes/n1")
            node.pop("status", None)
            node["spec"]["evicted"] = True
            assert (await it.apply("cp1", node))[0] == 200
            assert (await it.call("cp1", "DELETE", "/v1/objects/nodes/n1"))[0] == 200
            new = await it.join("cp2", "n1", "127.0.0.1", "shop/api")
            for name in ("cp1", "cp2"):
                await aeventually(lambda name=name: _gets(it, name, old, 403))
                # Also a certificate that this replica issues next is good at both.
                csr = ca_keys.new_csr(ca_keys.new_key())
                body = {"items": [{"identity": "node", "csr": csr}]}
                _, signed = await it.call(name, "POST", "/v1/sign", body, node=new)
                assert signed["signed"][0]["chain"]
                assert await _registers(it, name, new) == 200

    asyncio.run(run())


async def _registers(it, name, host):
    return (await it.call(name, "POST", "/v1/register", {"instances": []}, node=host))[0]


async def _gets(it, name, host, status):
    return await _registers(it, name, host) == status


def test_backup_and_restore(tmp_path):
    async def run():
        async with running(tmp_path, "cp1") as it:
            await it.apply("cp1", namespace(), *[service(f"s{n}") for n in range(300)])
            host = await it.join("cp1", "n1", "127.0.0.1", "shop/api")
            async with it.request("cp1", "GET", "/v1/backup") as response:
                assert response.status == 200
                saved = (await response.read()).splitlines(keepends=True)
            lines = []
            await setup.backup(it.settings["cp1"], lines.append)
            assert len(lines) == len(saved)
            refs = [{"kind": "Service", "namespace": "shop", "name": f"s{n}"} for n in range(300)]
            assert (await it.apply("cp1", service("new"), delete=refs))[0] == 200
            store = it.cluster.store()
            epoch = (await store.get(keys.EPOCH)).value
            with pytest.raises(SetupError, match="cp1"):
                await setup.restore(it.settings["cp1"], saved, overwrite=True)
            it.processes["cp1"].stop()
            await aeventually(lambda: _no_presence(store), timeout=20)
            done = await setup.restore(it.settings["cp1"], saved, overwrite=True)
            assert (await store.get(keys.EPOCH)).value == f'"{done.epoch}"'.encode() != epoch
            await store.close()
            await it.start()
            _, listed = await it.call("cp1", "GET", "/v1/objects/services")
            assert {item["metadata"]["name"] for item in listed["items"]} == {f"s{n}" for n in range(300)}
            # Who was known before is known again, and the root of trust is the same.
            assert (await it.call("cp1", "POST", "/v1/register", {"instances": []}, node=host))[0] == 200

    asyncio.run(run())


async def _no_presence(store):
    return not (await store.list(keys.REPLICAS)).items


def test_a_node_serves_and_restarts_while_etcd_is_away(tmp_path):
    async def run():
        async with running(tmp_path, "cp1") as it:
            it.cluster.stop()
            await it.ready("cp1", status=503)
            status, answer = await it.call("cp1", "GET", "/v1/objects/services")
            assert status == 503
            assert answer["hint"]
            assert it.processes["cp1"].stop() == 0
            it.processes["cp1"].start()
            await it.ready("cp1", status=503)
            _, page = await it.call("cp1", "GET", "/readyz", token=None)
            assert page["checks"]["issuer"] == "ok"
            assert (await it.call("cp1", "GET", "/v1/roots", token=None))[1]["roots"]
            it.cluster.launch()
            await it.ready("cp1")
            assert (await it.apply("cp1", namespace()))[0] == 200

    asyncio.run(run())


def test_sigterm_ends_streams_and_the_process_in_order(tmp_path):
    async def run():
        async with running(tmp_path, "cp1") as it:
            await it.apply("cp1", namespace())
            host = await it.join("cp1", "n1", "127.0.0.1")
            async with it.uplink("cp1", host) as ws, it.request("cp1", "GET", "/v1/watch/services") as response:
                await response.content.readline()
                it.processes["cp1"].signal(signal.SIGTERM)
                async with asyncio.timeout(10):
                    try:
                        while await response.content.readline():
                            pass
                    except aiohttp.ClientError:
                        pass
                await aeventually(lambda: ws.closed)
            await aeventually(lambda: it.processes["cp1"].exit_code is not None)
            assert it.processes["cp1"].exit_code == 0
            assert "Traceback" not in (it.folder / "cp1.log").read_text()

    asyncio.run(run())


def test_rotation_gives_a_new_intermediate_and_old_clients_stay_welcome(tmp_path):
    async def run():
        async with running(tmp_path, "cp1") as it:
            host = await it.join("cp1", "n1", "127.0.0.1", "shop/api")
            assert (await it.call("cp1", "POST", "/v1/ca/rotate", {"what": "intermediate"}))[0] == 200
            assert (await it.call("cp1", "POST", "/v1/register", {"instances": []}, node=host))[0] == 200
            after = await it.join("cp1", "n2", "127.0.0.1", "shop/api")
            issuers = [f.read_text().split("-----BEGIN CERTIFICATE-----")[2] for f in (host.file, after.file)]
            assert issuers[0] != issuers[1]

    asyncio.run(run())
