"""The whole demo: started in order, stopped without a rest.

etcd and OpenBao -> init -> control-plane nodes -> their gates -> objects -> hosts -> first request
"""

import asyncio
import base64
import secrets
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane.cli.client import Api
from controlplane.cli.context import Connection
from controlplane.cli.errors import CliError
from controlplane.demo import topology as top
from controlplane.demo.bao import Bao
from controlplane.demo.binaries import EtcdBinaries, find_envoy, find_etcd
from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.demo.life import Life
from controlplane.demo.machine import MAX_SOCKET_PATH, Machine, program
from controlplane.demo.plane import PlaneNode, gate_settings, plane_settings
from controlplane.demo.process import Process, ProcessError, taken
from controlplane.demo.progress import Progress
from controlplane.demo.reaper import Reaper

READY_SECONDS = 90.0
INIT_SECONDS = 60.0
POLL_SECONDS = 0.1


class DemoError(Exception):
    """The demo cannot run here, or one of its parts did not do its work."""


class Mesh(Life):
    """`async with Mesh(folder, progress) as mesh`: up inside, gone afterwards."""

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        *,
        grace: float = 15.0,
        workload_ttl: int = 0,
        plan: top.Plan | None = None,
        reaper: Reaper | None = None,
    ) -> None:
        """`workload_ttl` in seconds, 0: the default. No plan: the demo of one cluster. A reaper is its owner's."""
        longest = folder / "hosts" / "gate-1" / "run" / "xds" / "ads.sock"
        if len(str(longest).encode()) > MAX_SOCKET_PATH:
            raise DemoError(f"{folder} is too long a path: unix sockets under it would have more than 107 bytes")
        self.folder, self.progress, self.grace = folder, progress, grace
        self._workload_ttl = workload_ttl
        self._owned = reaper is None
        self._reaper = reaper or Reaper()
        self.plan = plan or free_plan()
        self._binaries: EtcdBinaries | None = None
        self._etcd: EtcdCluster | None = None
        self._bao: Bao | None = None
        self.planes: list[PlaneNode] = []
        self._like: dict[str, Any] = {}
        """Settings of one of them."""
        self.gates: dict[str, Machine] = {}
        self.hosts: dict[str, Machine] = {}
        self.gateways: dict[str, Machine] = {}
        self.stubborn = 0
        """Processes that had to be killed at the end."""

    # -- what others need to know

    @property
    def topology(self) -> top.Topology:
        return self.plan.topology

    @property
    def mark(self) -> str:
        return self._reaper.mark

    @property
    def etcd(self) -> EtcdCluster:
        assert self._etcd
        return self._etcd

    @property
    def bao(self) -> Bao:
        assert self._bao
        return self._bao

    @property
    def connection(self) -> Connection:
        return Connection(
            addresses=tuple(node.plane.url for node in self.planes),
            token=self.token_file.read_text().strip(),
            ca=str(self.ca_file),
            namespace=top.NAMESPACE,
            source="the demo",
        )

    def connection_to(self, url: str) -> Connection:
        """To one node alone."""
        return replace(self.connection, addresses=(url,))

    @property
    def token_file(self) -> Path:
        return self.folder / "admin.token"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def machines(self) -> list[Machine]:
        return [*self.gates.values(), *self.hosts.values(), *self.gateways.values()]

    def host(self, name: str) -> Machine:
        return self.hosts[name]

    def facts(self) -> dict[str, str | int | float | bool]:
        """What this demo runs on, for a report."""
        assert self._binaries
        etcd = subprocess.run([self._binaries.etcd, "--version"], capture_output=True, text=True, check=True)
        return {
            "liveness grace": f"{self.grace:g} s (the default is 15 s)",
            "workload certificates": f"{self._workload_ttl or 72 * 3600} s (the default is {72 * 3600} s)",
            "etcd": etcd.stdout.splitlines()[0].rpartition(" ")[2],
            "signer": "vault (OpenBao)",
        }

    def logs(self) -> list[Path]:
        """Every log, for the tail of the failing part."""
        return sorted(p for p in self.folder.rglob("*") if p.suffix == ".log" or p.name == "log")

    # -- life

    async def start(self) -> None:
        if self._owned:
            self._reaper.start()
        stage = self.progress.stage
        with stage("find the servers (the first time, etcd is built, which takes minutes)"):
            await asyncio.to_thread(self._find)
        with stage(f"etcd, {counted(self.plan.etcd_members, 'member')}, and OpenBao"):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_etcd())
                group.create_task(asyncio.to_thread(self._start_bao))
        with stage("init: users, epoch, trust, first administrator"):
            await asyncio.to_thread(self._init)
        with stage(f"control plane, {counted(len(self.planes), 'node')}"):
            for node in self.planes:
                node.start()
            for node in self.planes:
                await asyncio.to_thread(node.wait)
            await self.until(self._controlplane_ready, "the control plane is ready")
        async with Api(self.connection) as api:
            with stage(counted(len(self.topology.gated), "store gate")):
                await self._start_gates(api)
            with stage("namespace, services and policies"):
                await self._apply(api)
            joining = len(self.topology.hosts) + len(self.topology.gateways)
            with stage(f"{counted(joining, 'host')}, with one-time tokens"):
                await self._start_hosts(api)
                await self._start_gateways(api)
            with stage("proxies apply, instances become healthy"):
                await self.until(lambda: self.settled(api), "every proxy serves and every instance is healthy")

    async def stop(self) -> None:
        """Stop everything, from the edge inwards, and then whatever may be left. May be repeated."""
        async with asyncio.TaskGroup() as group:
            for machine in self.machines:
                group.create_task(asyncio.to_thread(machine.stop))
        async with asyncio.TaskGroup() as group:
            for node in self.planes:
                group.create_task(asyncio.to_thread(node.stop))
        if self._bao:
            await asyncio.to_thread(self._bao.stop)
        if self._etcd:
            await asyncio.to_thread(self._etcd.close)
        if self._owned:
            self.stubborn = await asyncio.to_thread(self._reaper.end)

    async def until(self, condition: Callable[[], Awaitable[str]], what: str, seconds: float = READY_SECONDS) -> None:
        """Return once the condition has nothing to object; raise DemoError with its last objection after the time."""
        deadline = time.monotonic() + seconds
        while objection := await condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what}: not within {seconds:g} s: {objection}")
            self.progress.note(objection)
            await asyncio.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise ProcessError, with the end of its log, if an agent or a control-plane node ended by itself."""
        started: list[Process] = [*(n.process for n in self.planes), *(m.agent for m in self.machines)]
        for process in started:
            if process.exit_code not in {None, 0}:
                process.check()

    # -- parts

    def _find(self) -> None:
        self.envoy = find_envoy()
        self._bao = Bao(self.folder / "bao")
        self._binaries = find_etcd(self.progress.note)
        members = self.plan.etcd_members
        self._etcd = EtcdCluster(self.folder / "etcd", members=members, binaries=self._binaries)

    async def _start_etcd(self) -> None:
        self.etcd.launch()
        await self.etcd.ready()

    def _start_bao(self) -> None:
        self.bao.start()
        self.bao.set_up(self.plan.trust_domain)

    def _init(self) -> None:
        seal_key = self.folder / "seal.key"
        seal_key.touch(mode=0o600)
        seal_key.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        for plane in self.topology.planes:
            home = self.folder / plane.name
            settings = plane_settings(
                plane,
                home,
                self.topology,
                etcd=self.etcd.endpoints,
                pki=self.etcd.pki,
                seal_key=seal_key,
                signer=self.bao.signer,
            )
            self.planes.append(PlaneNode(plane, home, {**settings, **self.plan.plane_settings}))
            self.planes[-1].write()
        self._like = self.planes[0].settings
        command = [
            program("holdfast"), "init", "mesh",
            "--config", str(self.planes[0].config),
            "--trust-domain", self.plan.trust_domain,
            "--cluster", self.plan.cluster,
            "--etcd-root-cert", str(self.etcd.pki / "root.pem"),
            "--etcd-root-key", str(self.etcd.pki / "root-key.pem"),
            "--token-file", str(self.token_file),
            "--ca-file", str(self.ca_file),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=INIT_SECONDS, check=False)
        if done.returncode:
            raise DemoError(f"`holdfast init mesh` failed:\n{done.stderr[-2000:]}")

    async def _controlplane_ready(self) -> str:
        async with Api(self.connection, timeout=2) as api:
            try:
                await api.get("/v1/status")
            except CliError as exc:
                return exc.message
        return ""

    async def _token(self, api: Api, node: str, identities: list[str], roles: list[str]) -> str:
        body = {"node": node, "identities": identities, "roles": roles, "ttlSeconds": 600}
        return str((await api.call("POST", "/v1/tokens", body=body))["token"])

    async def _start_gates(self, api: Api) -> None:
        for plane in self.topology.gated:
            home = self.folder / "hosts" / plane.gate
            settings = self._agent_settings(plane.gate, plane.address, home)
            settings["gate"] = gate_settings(plane, etcd=self.etcd.endpoints, pki=self.etcd.pki)
            machine = Machine(plane.gate, home, self.mark, scope=self.plan.cluster, settings=settings)
            self.gates[plane.gate] = machine
            machine.write(await self._token(api, plane.gate, [], ["agent", "gate"]))
            machine.start()
        for plane in self.topology.gated:
            agent = self.gates[plane.gate].agent
            await asyncio.to_thread(agent.wait_for_port, plane.address, top.GATE_PORT, timeout=READY_SECONDS)

    async def _apply(self, api: Api) -> None:
        config = await api.get("/v1/objects/meshconfigs/default")
        config["spec"]["livenessGraceSeconds"] = self.grace
        if self._workload_ttl:
            config["spec"]["workloadTtlSeconds"] = self._workload_ttl
        objects = [config, *self.plan.objects]
        await api.call("POST", "/v1/apply", body={"objects": objects, "delete": [], "dryRun": False})

    async def _start_hosts(self, api: Api) -> None:
        for host in self.topology.hosts:
            home = self.folder / "hosts" / host.name
            settings = self._agent_settings(host.name, host.address, home)
            machine = Machine(
                host.name,
                home,
                self.mark,
                scope=self.plan.cluster,
                settings=settings,
                definition=self.plan.definitions[host.name],
                application=self.plan.applications[host.name],
            )
            self.hosts[host.name] = machine
            machine.write(await self._token(api, host.name, [host.identity], ["agent"]))
            machine.start()

    async def _start_gateways(self, api: Api) -> None:
        for gateway in self.topology.gateways:
            await self.add_gateway(api, gateway)

    async def add_gateway(self, api: Api, gateway: top.Gateway) -> Machine:
        """Another host through which others reach this cluster; it joins, and is not waited for."""
        home = self.folder / "hosts" / gateway.name
        settings = self._agent_settings(gateway.name, gateway.address, home)
        settings["gateway"] = {"port": top.GATEWAY_PORT}
        machine = Machine(gateway.name, home, self.mark, scope=self.plan.cluster, settings=settings)
        self.gateways[gateway.name] = machine
        machine.write(await self._token(api, gateway.name, [], ["agent", "gateway"]))
        machine.start()
        return machine

    def add_plane(self, plane: top.Plane, **settings: Any) -> PlaneNode:
        """Another control-plane node, of the same store and CA, with an empty disk. It is started, and not waited for.

        `settings`: what it has otherwise than those that are there.
        """
        home = self.folder / plane.name
        place = {
            "replica": plane.name,
            "listen": f"{plane.address}:{top.API_PORT}",
            "advertise": plane.url,
            "dataDir": str(home / "data"),
        }
        node = PlaneNode(plane, home, {**self._like, **place, **settings})
        self.planes.append(node)
        node.write()
        node.start()
        return node

    def _agent_settings(self, name: str, address: str, home: Path) -> dict[str, Any]:
        found = top.agent_settings(name, address, str(home), self.topology, str(self.envoy))
        return {**found, **self.plan.agent_settings}

    async def settled(self, api: Api) -> str:
        """What is still missing until the mesh is whole; empty when it is."""
        try:
            proxies = {p["node"]: p for p in (await api.get("/v1/proxies"))["items"]}
            endpoints = (await api.get("/v1/objects/endpoints", {"namespace": top.NAMESPACE}))["items"]
        except CliError as exc:
            return exc.message
        for name in [*self.gates, *self.hosts, *self.gateways]:
            phase = (proxies.get(name, {}).get("report") or {}).get("phase", "not connected")
            if phase != "serving":
                return f"{name}: {phase}"
        healthy = {e["spec"]["node"] for e in endpoints if e["spec"].get("health") == "healthy"}
        if missing := [name for name in self.hosts if name not in healthy]:
            return f"no healthy endpoint on {', '.join(missing)}"
        return ""


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def free_plan(make: Callable[[int], top.Plan] = top.plan, taken_by: Iterable[top.Plan] = ()) -> top.Plan:
    """The plan for the first block of loopback addresses on which nobody listens yet, and none of `taken_by` will.

    Raises:
        DemoError: there is none, with the reason of the last one.

    """
    reason = "other clusters have all of them"
    used = {place for other in taken_by for place in top.bound(other.topology)}
    for block in top.BLOCKS:
        found = make(block)
        places = top.bound(found.topology)
        if used.isdisjoint(places) and not (reason := taken(places)):
            return found
    raise DemoError(f"no free block of loopback addresses for the demo ({reason})")


__all__ = ["DemoError", "Mesh", "ProcessError"]
