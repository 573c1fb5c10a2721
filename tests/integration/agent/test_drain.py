"""A service, and a host, leave under real load: callers go first, then what is under way ends; no request fails."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress

import pytest

from tests.integration.agent.hosts import Host, free_port
from tests.integration.envoy.rig import Load
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service

pytestmark = pytest.mark.real

ALLOW = {
    "apiVersion": "holdfast.dev/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "anyone", "namespace": "shop"},
    "spec": {"target": {"service": "api"}, "action": "Allow", "rules": [{"name": "all"}]},
}


class App:
    """An HTTP server that takes its time for each request, and dies hard, with what is under way in it."""

    def __init__(self, port: int) -> None:
        self.port, self.served, self.cut = port, 0, 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._busy = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader, writer) -> None:
        if self._server is not None and not self._server.is_serving():
            writer.transport.abort()  # it was let in just before the end
            return
        self._writers.add(writer)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                self._busy += 1
                await asyncio.sleep(0.02)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
                self._busy -= 1
                self.served += 1
        self._writers.discard(writer)
        writer.transport.abort()

    async def die(self) -> None:
        assert self._server
        self.cut += self._busy
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._writers.clear()
        await asyncio.sleep(0)


class Fleet:
    def __init__(self, cp, caller, hosts, apps, port) -> None:
        self.cp, self.caller, self.hosts, self.apps, self.port = cp, caller, hosts, apps, port

    async def order(self, host, do, what=""):
        command = host.telling.commands()[do]
        return await (command(what) if what else command())

    async def departed(self, host, what=""):
        async with asyncio.timeout(20):
            while not (await self.order(host, "drained", what))["done"]:
                await asyncio.sleep(0.1)

    async def endpoints(self) -> dict[str, str]:
        _, body = await self.cp.call("GET", "/v1/objects/endpoints")
        return {e["spec"]["node"]: e["spec"].get("health", "unhealthy") for e in body["items"]}


async def fleet(stack: AsyncExitStack, tmp_path) -> Fleet:
    """web on vm0 calls api, which runs on vm1 and vm2."""
    cp = await stack.enter_async_context(mesh(tmp_path / "cp"))
    ports = [{"port": 80, "protocol": "http", "targetPort": "http"}]
    status, body = await cp.apply(namespace(), service("api", ports=ports), ALLOW)
    assert status == 200, body
    hosts, apps = [], []
    for number in (1, 2):
        host, app = Host(tmp_path / f"h{number}", cp, f"vm{number}"), App(free_port())
        await app.start()
        stack.push_async_callback(app.die)
        named = [{"port": app.port, "protocol": "http", "name": "http"}]
        host.define("api", ports=named, health={"type": "tcp", "intervalSeconds": 0.1})
        await host.token("shop/api")
        hosts.append(host)
        apps.append(app)
    caller, port = Host(tmp_path / "h0", cp, "vm0"), free_port()
    caller.define("web", upstreams=[{"service": "api", "port": 80, "listen": f"127.0.0.1:{port}"}])
    await caller.token("shop/web")
    for host in (*hosts, caller):
        stack.push_async_callback(host.stop_envoy)
    return Fleet(cp, caller, hosts, apps, port)


async def loaded(tasks, found: Fleet) -> Load:
    """Both hosts are called, without pause, on new connections and on kept ones."""
    await aeventually(lambda: _healthy(found), timeout=40, what="both are healthy")
    probe = Load(found.port)
    probing = tasks.create_task(probe.fresh())
    await aeventually(lambda: all(app.served for app in found.apps), timeout=40, what="both are called")
    probe.stopping = True
    await probing
    load = Load(found.port)
    for _ in range(2):
        tasks.create_task(load.fresh())
        tasks.create_task(load.kept())
    return load


async def _healthy(found: Fleet) -> bool:
    return await found.endpoints() == {"vm1": "healthy", "vm2": "healthy"}


async def more(load: Load, count: int = 50) -> None:
    seen = load.done
    await aeventually(lambda: load.done > seen + count, timeout=20)


async def calls(app: App) -> None:
    served = app.served
    await aeventually(lambda: app.served > served + 20, timeout=20, what="it is called")


def test_a_services_unit_restarts_under_load_and_no_request_fails(tmp_path):
    async def run():
        async with asyncio.timeout(120), AsyncExitStack() as stack:
            found = await fleet(stack, tmp_path)
            (host, _), (app, other) = found.hosts, found.apps
            for one in (*found.hosts, found.caller):
                await stack.enter_async_context(one.running())
            async with asyncio.TaskGroup() as tasks:
                load = await loaded(tasks, found)
                for _ in range(3):
                    await more(load)
                    await found.order(host, "drain", "api")  # ExecStop
                    await found.departed(host, "api")
                    assert (await found.endpoints())["vm1"] == "draining"
                    await app.die()
                    await calls(other)
                    await app.start()
                    await found.order(host, "undrain", "api.shop")  # ExecStartPost
                    await calls(app)
                load.stopping = True
            assert load.failures == []
            assert app.cut == 0, "nothing was under way when it stopped"
            print(f"a unit's restart, 3 times under load: {load.done} requests, 0 failed")

    asyncio.run(run())


def test_a_drained_host_stays_so_over_a_restart_of_its_agent(tmp_path):
    async def run():
        async with asyncio.timeout(120), AsyncExitStack() as stack:
            found = await fleet(stack, tmp_path)
            host, app = found.hosts[1], found.apps[1]
            for one in (found.hosts[0], found.caller):
                await stack.enter_async_context(one.running())
            async with asyncio.TaskGroup() as tasks:
                async with host.running():
                    load = await loaded(tasks, found)
                    status, body = await found.cp.call("POST", "/v1/nodes/vm2/drain")
                    assert status == 202, body
                    async with asyncio.timeout(20):
                        while not (await found.cp.call("GET", "/v1/nodes/vm2/drain"))[1]["done"]:
                            await asyncio.sleep(0.1)
                    served = app.served
                    assert host.telling.report().maintenance > 0
                async with host.running() as agent:
                    await aeventually(lambda: agent.registered, timeout=20)
                    await more(load, 100)
                    assert app.served == served, "nobody calls it"
                    assert (await found.endpoints())["vm2"] == "draining"
                    status, body = await found.cp.call("POST", "/v1/nodes/vm2/undrain")
                    assert (status, list(body["services"])) == (200, ["api.shop"])
                    await aeventually(lambda: app.served > served + 10, timeout=20, what="it is called again")
                    load.stopping = True
            assert load.failures == []
            print(f"a host drained and back: {load.done} requests, 0 failed")

    asyncio.run(run())


def test_what_is_no_service_of_the_host_and_a_host_that_is_away_are_named(tmp_path):
    async def run():
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            found = await fleet(stack, tmp_path)
            host = found.hosts[0]
            agent = await stack.enter_async_context(host.running())
            await aeventually(lambda: bool(agent.host.definitions.good), timeout=20)
            with pytest.raises(Exception, match=r"'nope' is no service of this host; there are api.shop"):
                await found.order(host, "drain", "nope")
            status, body = await found.cp.call("POST", "/v1/nodes/vm2/drain")
            assert status in {404, 409}, body
            assert "holdfast-agent drain" in json.dumps(body) or "there is no node" in json.dumps(body)
            assert not (tmp_path / "h1" / "data" / "drained.json").exists()

    asyncio.run(run())
