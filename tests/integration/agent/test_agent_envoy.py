"""One agent with a real Envoy: it joins, serves, restarts from disk, and outlives everybody it depends on."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import events as ev
from ca.signer.memory import MemorySigner
from mesh import codec, keys
from mesh.model import Endpoint, TrustBundle
from mesh.store.errors import Unavailable
from mesh.store.protocol import Put, Store
from tests.fakes.tcp import listening
from tests.integration.agent.hosts import Host, echoes, free_port
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import Cp, mesh, namespace, service

pytestmark = pytest.mark.real

ALLOW = {
    "apiVersion": "holdfast.dev/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "anyone", "namespace": "shop"},
    "spec": {"target": {"service": "api"}, "action": "Allow", "rules": [{"name": "all"}]},
}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()


class Gone:
    """A store of which nobody answers."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: Any, **__: Any) -> None:
            raise Unavailable("nobody answers")

        return fail


class Shop:
    """A host that runs `api` and calls it through its own proxy."""

    def __init__(self, cp: Cp, host: Host, port: int, upstream: int) -> None:
        self.cp, self.host, self.port, self.upstream = cp, host, port, upstream

    async def answers(self) -> bool:
        return await echoes(self.upstream)

    async def serving(self) -> None:
        agent = self.host.agent
        assert agent is not None
        await aeventually(lambda: agent.runtime.state.phase == "serving", timeout=30)
        await aeventually(lambda: agent.registered)
        await aeventually(self.answers)

    def sequence(self) -> int:
        """Of the newest world on disk."""
        files = Path(self.host.settings.data_dir).glob("world.?")
        return max((int(path.read_bytes().split()[1]) for path in files), default=0)

    async def saved(self) -> None:
        """A world that is in force now is on disk."""
        before = self.sequence()
        await self.cp.apply(namespace(f"saved-{before}"))
        await aeventually(lambda: self.sequence() > before)

    def store_is_gone(self) -> None:
        self.host.store = lambda: _as_store(Gone())


def _as_store(fake: Any) -> Store:
    return fake


@asynccontextmanager
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with mesh(tmp_path / "cp") as cp, listening(echo) as port:
        host = Host(tmp_path / "h", cp, "vm1", locality="eu/a")
        upstream = free_port()
        host.define(
            "api",
            ports=[{"port": port, "protocol": "tcp"}],
            health={"type": "tcp", "intervalSeconds": 0.1},
            upstreams=[{"service": "api", "port": 80, "listen": f"127.0.0.1:{upstream}"}],
        )
        await host.token("shop/api", "shop/other")
        ports = [{"port": 80, "protocol": "tcp", "targetPort": port}]
        status, body = await cp.apply(namespace(), service("api", ports=ports), ALLOW)
        assert status == 200, body
        try:
            yield Shop(cp, host, port, upstream)
        finally:
            await host.stop_envoy()


def run(tmp_path: Path, scenario: Callable[[Shop], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(90), shop(tmp_path) as found:
            await scenario(found)

    asyncio.run(bounded())


def test_a_host_joins_serves_and_tells_of_itself(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running() as agent:
            await shop.serving()
            await aeventually(lambda: shop.host.telling.report().applied == shop.host.telling.report().observed > 0)
            report = shop.host.telling.report()
            assert report.problems == ()
            assert (report.envoy, report.envoy_version) == ("live", "1.40.0")
            assert {svid.spiffe_id for svid in report.svids} == {
                "spiffe://mesh.test/node/vm1",
                "spiffe://mesh.test/ns/shop/sa/api",
            }
            (item,) = (await shop.cp.store.list(keys.ENDPOINTS)).items
            endpoint = codec.decode("Endpoint", item.value)
            assert isinstance(endpoint, Endpoint)
            assert endpoint.spec.locality == "eu/a"
            page = await shop.host.telling.pages()["/metrics"]()
            assert 'holdfast_agent_phase{phase="serving"} 1' in page
            assert "envoy_server_live" in page, "one page for both"
            dump = await shop.host.telling.answers()["config"]("")
            assert agent.keeper.stored is not None
            key = agent.keeper.stored.held["shop/api"].key_pem
            assert key.splitlines()[1] not in dump, "no private key leaves the host"

    run(tmp_path, scenario)


def test_changes_come_into_force_and_a_denied_caller_is_cut(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running() as agent:
            await shop.serving()
            before = agent.runtime.state.applied
            status, _ = await shop.cp.apply(
                delete=[{"kind": "AuthorizationPolicy", "namespace": "shop", "name": "anyone"}]
            )
            assert status == 200

            async def denied() -> bool:
                return not await shop.answers()

            await aeventually(denied)
            await aeventually(lambda: agent.runtime.state.applied > before)
            await shop.cp.apply(ALLOW)
            await aeventually(shop.answers)

    run(tmp_path, scenario)


def test_envoy_goes_on_without_its_agent_and_the_agent_finds_it_again(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running():
            await shop.serving()
            await shop.saved()
        pid = shop.host.envoy.state().pid
        assert await shop.answers()
        shop.store_is_gone()
        started = time.monotonic()
        async with shop.host.running() as agent:
            await aeventually(lambda: agent.runtime.state.phase == "stale")
            assert time.monotonic() - started < 2
            assert await shop.answers()
            assert shop.host.envoy.state().pid == pid
            report = shop.host.telling.report()
            assert report.applied > 0
            assert "nobody answers" in agent.store_problem
        assert await shop.answers()

    run(tmp_path, scenario)


def test_after_a_power_cut_the_host_serves_from_disk_with_nobody_else_alive(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running():
            await shop.serving()
            await shop.saved()
        state = shop.host.envoy.state()
        for pid in (state.launcher, *state.pids):
            os.kill(pid, signal.SIGKILL)
        await aeventually(lambda: not shop.host.envoy.state().pids)
        assert not await shop.answers()
        shop.store_is_gone()
        shop.host.settings = msgspec.structs.replace(shop.host.settings, controlplanes=("https://127.0.0.1:1",))
        started = time.monotonic()
        async with shop.host.running() as agent:
            await aeventually(shop.answers)
            assert time.monotonic() - started < 5
            await aeventually(lambda: agent.runtime.state.phase == "stale")

    run(tmp_path, scenario)


def test_a_truncated_state_is_left_out_and_the_older_one_serves(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running() as agent:
            await shop.serving()
            await shop.saved()
            await shop.saved()
            await shop.saved()
        folder = agent.disk.folder
        newest = max(folder.glob("world.?"), key=lambda path: int(path.read_bytes().split()[1]))
        newest.write_bytes(newest.read_bytes()[:-20])
        await shop.host.stop_envoy()
        shop.store_is_gone()
        async with shop.host.running() as agent:
            await aeventually(shop.answers)
            assert len(agent._generations) == 1
        for path in folder.glob("world.?"):
            path.write_bytes(b"garbage")
        await shop.host.stop_envoy()
        async with shop.host.running() as agent:
            await aeventually(lambda: "nobody answers" in agent.store_problem)
            assert agent.runtime.state.phase == "syncing", "with no world there is nothing to serve"
        shop.host.store = lambda: shop.cp.store
        async with shop.host.running():
            await shop.serving()

    run(tmp_path, scenario)


def test_a_listener_that_cannot_be_opened_is_a_problem_and_stops_no_other(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with listening(echo) as taken, shop.host.running() as agent:
            await shop.serving()
            shop.host.define(
                "other",
                serviceAccount="api",
                upstreams=[{"service": "api", "port": 80, "listen": f"127.0.0.1:{taken}"}],
            )
            (shop.host.services / "bad.yaml").write_text("name: [\n")
            told = await shop.host.telling.reload()
            assert len(told["services"]) == 2
            assert "bad.yaml" in told["problems"][0]
            await aeventually(lambda: "in use" in agent.runtime.state.failure)
            assert await shop.answers()
            await aeventually(lambda: not agent.runtime.state.searching)
            # What comes later goes out all the same.
            before = agent.runtime.state.offered
            await shop.cp.apply(service("third"))
            free = free_port()
            shop.host.define(
                "other", serviceAccount="api", upstreams=[{"service": "api", "port": 80, "listen": f"127.0.0.1:{free}"}]
            )
            await shop.host.telling.reload()
            await aeventually(lambda: agent.runtime.state.applied_digest not in {b"", before})
            await aeventually(lambda: agent.runtime.state.failure == "")
            shop.upstream = free
            await aeventually(shop.answers)

    run(tmp_path, scenario)


def test_garbage_in_the_store_is_a_problem_and_stops_nothing(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running() as agent:
            await shop.serving()
            key = keys.OBJECTS + "Service/shop/api"
            await shop.cp.store.txn((), (Put(key, b"\xff\xfe garbage"), Put(keys.OBJECTS + "What/x/y", b"{}")))
            await aeventually(lambda: len(agent.watch.world.undecodable) == 2)
            await shop.cp.apply(service("more"))
            await aeventually(lambda: agent.runtime.state.applied == agent.runtime.state.observed)
            assert await shop.answers()
            assert any(key in problem for problem in shop.host.telling.report().problems)

    run(tmp_path, scenario)


def test_a_drained_host_deregisters_first_and_ends_its_envoy(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running() as agent:
            await shop.serving()
            assert (await shop.cp.store.list(keys.ENDPOINTS)).items
            order: list[str] = []
            real = agent.supervisor.stop

            async def stop() -> None:
                order.append("endpoints gone" if not (await shop.cp.store.list(keys.ENDPOINTS)).items else "too early")
                await real()

            agent.supervisor.stop = stop  # type: ignore[method-assign]
            agent.runtime.post(ev.Stop(drain=True))
            await aeventually(lambda: agent._exit.is_set(), timeout=20)
            assert order == ["endpoints gone"]
            assert not shop.host.envoy.state().pids

    run(tmp_path, scenario)


def test_a_renewed_node_certificate_means_new_connections(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running() as agent:
            await shop.serving()
            stored = agent.keeper.stored
            assert stored is not None
            store = agent.store
            old = msgspec.structs.replace(stored.own, not_before=0.0, not_after=time.time() + 60)
            agent.keeper.stored = msgspec.structs.replace(stored, own=old)
            agent.keeper.renew()
            await aeventually(lambda: agent.keeper.stored is not None and agent.keeper.stored.own != old)
            await aeventually(lambda: agent.store is not store, what="the mesh is followed with the new certificate")
            await shop.cp.apply(service("later"))
            await aeventually(lambda: any(ref.name == "later" for ref in agent.watch.world.objects))
            await aeventually(lambda: agent.runtime.state.controlplane)
            assert await shop.answers()

    run(tmp_path, scenario)


def test_a_new_root_is_believed_when_the_mesh_publishes_it(tmp_path):
    async def scenario(shop: Shop) -> None:
        async with shop.host.running() as agent:
            await shop.serving()
            (before,) = agent.peers.roots()
            other = (await MemorySigner("mesh.test", clock=time.time).roots())[0]
            key = keys.BUNDLES + "mesh.test"
            item = await shop.cp.store.get(key)
            assert item is not None
            bundle = codec.decode("TrustBundle", item.value)
            assert isinstance(bundle, TrustBundle)
            spec = msgspec.structs.replace(bundle.spec, roots=(before, other), sequence=bundle.spec.sequence + 1)
            await shop.cp.store.txn((), (Put(key, codec.encode(msgspec.structs.replace(bundle, spec=spec))),))
            store = agent.store
            await aeventually(lambda: agent.peers.roots() == (before, other))
            await aeventually(lambda: agent.store is not store)
            await aeventually(lambda: agent.runtime.state.controlplane)
            await aeventually(lambda: agent.runtime.state.applied == agent.runtime.state.observed)
            assert await shop.answers()

    run(tmp_path, scenario)
