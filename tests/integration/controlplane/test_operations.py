"""What operators ask of a whole mesh: real etcd, two control-plane processes, agents with real Envoys."""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from controlplane.cli.main import main
from controlplane.demo.etcd_cluster import EtcdCluster
from mesh import compile as mesh_compile
from mesh import pb
from mesh.compile import Compiler, NodeView, Snapshot
from mesh.model import ServiceRef
from tests.fakes.tcp import listening
from tests.integration.agent.hosts import Host, free_port
from tests.integration.controlplane.fleet import Fleet
from tests.integration.envoy.rig import listener
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import namespace, service

pytestmark = pytest.mark.real


class Door:
    """One control-plane process, as a host needs it."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet, self._name = fleet, name
        self.url = fleet.settings[name].advertise
        self.store = fleet.cluster.store("holdfast-gate")

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return await self._fleet.call(self._name, method, path, body)


class Shop:
    """Hosts `vm1` at cp1 and `vm2` at cp2; each runs `api` and calls it."""

    def __init__(self, fleet: Fleet, hosts: dict[str, Host], folder: Path) -> None:
        self.fleet, self.hosts, self._folder = fleet, hosts, folder
        self._folder.mkdir(exist_ok=True)
        (self._folder / "ca.pem").write_text(fleet.roots)
        self._env = {
            "HOLDFAST_ADDR": fleet.settings["cp1"].advertise,
            "HOLDFAST_TOKEN": fleet.token,
            "HOLDFAST_CA": str(self._folder / "ca.pem"),
            "HOLDFAST_NAMESPACE": "shop",
            "HOLDFAST_CONFIG": "/nonexistent",
        }

    async def cli(self, *arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=self._env)

    def file(self, *documents: object) -> str:
        path = self._folder / f"{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return str(path)

    async def apply(self, *documents: object, more: tuple[str, ...] = ()) -> Result:
        return await self.cli("apply", "-f", self.file(*documents), *more)


class FaultyCompiler(Compiler):
    """Makes, of an object called `poison`, what no Envoy takes: always, or only once it is really in the world."""

    from_revision = 0

    def compile(self, view: NodeView) -> Snapshot:
        made = super().compile(view)
        guilty = [ref for ref in view.objects or {} if ref.name == "poison"]
        if not guilty or view.revision < self.from_revision:
            return made
        bad = listener("poison", free_port(), regex="(", source=guilty[0])
        listeners = {**made.resources[pb.LISTENER], bad.name: bad}
        digest = hashlib.sha256(made.digest + b"poison").digest()
        return Snapshot(made.revision, digest, {**made.resources, pb.LISTENER: listeners}, made.problems)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    cluster = EtcdCluster(tmp_path / "etcd", members=1)
    fleet = Fleet(cluster, tmp_path / "cp", "cp1", "cp2")
    async with AsyncExitStack() as stack:
        stack.callback(cluster.close)
        stack.callback(fleet.close)
        cluster.launch()
        await cluster.ready()
        await fleet.init()
        await fleet.start()
        port = await stack.enter_async_context(listening(echo))
        ports = [{"port": 80, "protocol": "http", "targetPort": port}]
        assert (await fleet.apply("cp1", namespace(), service("api", ports=ports)))[0] == 200
        hosts = {}
        for number, name in enumerate(("vm1", "vm2"), 1):
            door = Door(fleet, f"cp{number}")
            stack.push_async_callback(door.store.close)
            host = hosts[name] = Host(tmp_path / name, door, name)  # type: ignore[arg-type]
            upstream = {"service": "api", "port": 80, "listen": f"127.0.0.1:{free_port()}"}
            host.define("api", ports=[{"port": port, "protocol": "http"}], upstreams=[upstream])
            await host.token("shop/api")
            stack.push_async_callback(host.stop_envoy)
            await stack.enter_async_context(host.running())
        for host in hosts.values():
            await aeventually(lambda host=host: settled(host), timeout=30)
        yield Shop(fleet, hosts, tmp_path / "operator")


def settled(host: Host) -> bool:
    """It serves, and knows both hosts as healthy endpoints."""
    state, world = host.agent.runtime.state, host.agent.pipeline.world
    known = world.endpoints.get(ServiceRef("shop", "api"), {})
    healthy = [endpoint for endpoint in known.values() if endpoint.spec.health == "healthy"]
    return state.phase == "serving" and len(healthy) == 2 and state.offered == state.applied_digest


def run(tmp_path: Path, scenario) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(150), shop(tmp_path) as found:
            await scenario(found)

    asyncio.run(bounded())


def policy(name: str = "anyone", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"target": {"service": "api"}, "action": "Allow", "rules": [{"name": "all"}], **spec},
    }


def test_apply_waits_until_the_change_is_in_force_at_proxies_of_all_replicas(tmp_path):
    async def scenario(shop: Shop) -> None:
        for number in range(3):
            done = await shop.apply(policy(f"p{number}"), more=("--wait", "-o", "json"))
            assert done.exit_code == 0, done.output
            told = msgspec.json.decode(done.stdout)
            assert (told["wait"]["inForce"], told["wait"]["live"]) == (2, 2)
            for host in shop.hosts.values():
                assert host.agent.runtime.state.applied >= told["revision"]
            assert told["wait"]["seconds"] < 1.5, "reports go at once"
        status, got = await shop.fleet.call("cp2", "GET", "/v1/objects/authorizationpolicies/shop/p0")
        assert (status, got["status"]["programmed"]["proxies"], got["status"]["programmed"]["of"]) == (200, 2, 2)
        # An Envoy that is stopped takes nothing: its host is named.
        pid = shop.hosts["vm2"].envoy.state().pid
        os.kill(pid, signal.SIGSTOP)
        try:
            late = await shop.apply(policy("late"), more=("--wait", "--timeout", "3s"))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert late.exit_code == 3, late.output
        named = [line for line in late.stderr.splitlines() if line.startswith("  - ")]
        assert named == ["  - vm2: being put in force"]
        gone = await shop.cli("delete", "authz", "late", "--wait")
        assert gone.exit_code == 0, gone.output

    run(tmp_path, scenario)


def versions(host: Host) -> dict[tuple[str, str], str]:
    """What is offered to this host's Envoy."""
    offer = host.agent.pipeline.offer(host.agent.runtime.state.offered)
    return {
        (pb.SHORT[url], r.name): r.version for url, found in offer.snapshot.resources.items() for r in found.values()
    }


def test_a_plan_tells_what_comes_of_the_apply(tmp_path):
    async def scenario(shop: Shop) -> None:
        before = {name: versions(host) for name, host in shop.hosts.items()}
        file = shop.file(policy(), service("unrelated"))
        planned = await shop.cli("plan", "-f", file, "-o", "json")
        assert planned.exit_code == 0, planned.output
        told = msgspec.json.decode(planned.stdout)
        assert (told["unchanged"], told["unknown"]) == (0, [])
        assert [proxy["node"] for proxy in told["proxies"]] == ["vm1", "vm2"]
        assert before == {name: versions(host) for name, host in shop.hosts.items()}
        assert (await shop.cli("apply", "-f", file, "--wait")).exit_code == 0
        for proxy in told["proxies"]:
            assert proxy["problems"] == []
            after, was = versions(shop.hosts[proxy["node"]]), before[proxy["node"]]
            changed = {key for key in {*after, *was} if after.get(key) != was.get(key)}
            assert {(c["type"], c["name"]) for c in proxy["changes"]} == changed
            assert all(c["after"] == after[c["type"], c["name"]] for c in proxy["changes"])
        again = msgspec.json.decode((await shop.cli("plan", "-f", file, "-o", "json")).stdout)
        assert again["proxies"] == []

    run(tmp_path, scenario)


def test_what_an_envoy_refuses_is_not_written_or_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(mesh_compile, "Compiler", FaultyCompiler)

    async def scenario(shop: Shop) -> None:
        revision = await shop.hosts["vm1"].cp.store.revision()
        good = await shop.apply(policy("good"), more=("--all-or-nothing",))
        assert good.exit_code == 0, good.output
        assert "in force at 2 of 2 live proxies" in good.stderr
        # Refused by the Envoys that judge it: nothing is written.
        refused = await shop.apply(policy("poison"), policy("fine"), more=("--all-or-nothing",))
        assert refused.exit_code == 5, refused.output
        for node in ("vm1", "vm2"):
            assert f"{node}: AuthorizationPolicy shop/poison:" in refused.stderr
        assert "missing )" in refused.stderr, "Envoy's own words"
        assert "shop/fine" not in refused.stderr
        _, found = await shop.fleet.call("cp1", "GET", "/v1/objects/authorizationpolicies")
        assert [item["metadata"]["name"] for item in found["items"]] == ["good"]
        # Refused by the running ones only: put back.
        FaultyCompiler.from_revision = 1 + await shop.hosts["vm1"].cp.store.revision()
        back = await shop.apply(policy("poison"), policy("good", rules=[]), more=("--all-or-nothing",))
        assert back.exit_code == 3, back.output
        assert "the objects are again what they were" in back.stderr
        assert "AuthorizationPolicy shop/poison is refused" in back.stderr
        _, found = await shop.fleet.call("cp1", "GET", "/v1/objects/authorizationpolicies")
        assert [(item["metadata"]["name"], len(item["spec"]["rules"])) for item in found["items"]] == [("good", 1)]
        listed = msgspec.json.decode((await shop.cli("history", "-o", "json")).stdout)["items"]
        assert [entry["source"] for entry in listed[:3]] == ["revert", "apply", "apply"]
        assert listed[-1]["revision"] <= revision
        for host in shop.hosts.values():
            await aeventually(lambda host=host: host.agent.runtime.state.applied >= listed[0]["revision"], timeout=20)
            assert host.agent.pipeline.rejected() == ()

    try:
        run(tmp_path, scenario)
    finally:
        FaultyCompiler.from_revision = 0
