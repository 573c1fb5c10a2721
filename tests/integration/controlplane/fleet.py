"""Real control-plane processes on a real etcd, and their callers."""

import asyncio
import io
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from ca import keys as ca_keys
from ca.seal import new_key_text
from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.demo.process import Process, free_port
from controlplane.settings import Settings, load
from controlplane.setup import InitOptions, InitResult, init_mesh
from mesh.model.uplink import Hello, Up
from tests.support.waiting import aeventually

SERVER_NAME = "controlplane.holdfast"
DOMAIN = "mesh.test"


class Fleet:
    """Control-plane nodes by name. Everything that was started is stopped by close()."""

    def __init__(self, cluster: EtcdCluster, folder: Path, *replicas: str, **more: Any) -> None:
        """`more`: in the settings of each."""
        self.cluster, self.folder, self._more = cluster, folder, more
        folder.mkdir(parents=True, exist_ok=True)
        seal = folder / "seal.key"
        seal.touch(mode=0o600)
        seal.write_text(new_key_text())
        self.settings: dict[str, Settings] = {}
        self.processes: dict[str, Process] = {}
        for name in replicas:
            self._add(name)
        self.made: InitResult | None = None
        self.token = ""

    def _add(self, name: str) -> None:
        port, pki = free_port(), self.cluster.pki
        file = self.folder / f"{name}.yaml"
        document = {
            "replica": name,
            "listen": f"127.0.0.1:{port}",
            "advertise": f"https://127.0.0.1:{port}",
            "dataDir": name,
            "sealKeyFile": "seal.key",
            "electionTtlSeconds": 2,
            "etcd": {
                "endpoints": list(self.cluster.endpoints),
                "ca": str(pki / "ca.pem"),
                "cert": str(pki / "holdfast-controlplane.pem"),
                "key": str(pki / "holdfast-controlplane-key.pem"),
                "timeoutSeconds": 2.0,
            },
            **self._more,
        }
        file.write_text(yaml.safe_dump(document))
        self.settings[name] = load(file)
        command = [sys.executable, "-m", "controlplane.main", "run", "--config", str(file)]
        self.processes[name] = Process(name, command, log=self.folder / f"{name}.log")

    def options(self, **more: Any) -> InitOptions:
        pki = self.cluster.pki
        return InitOptions(
            etcd_root_cert=str(pki / "root.pem"),
            etcd_root_key=str(pki / "root-key.pem"),
            **{"trust_domain": DOMAIN, "liveness_grace": 2.0, **more},
        )

    async def init(self, **more: Any) -> InitResult:
        made = await init_mesh(next(iter(self.settings.values())), self.options(**more))
        self.made, self.token = made, made.admin_token or self.token
        return made

    async def start(self, *names: str) -> None:
        for name in names or self.processes:
            self.processes[name].start()
        for name in names or self.processes:
            await self.ready(name)

    async def ready(self, name: str, *, status: int = 200) -> None:
        async def look() -> bool:
            self.processes[name].check()
            try:
                return (await self.call(name, "GET", "/readyz", token=None))[0] == status
            except (aiohttp.ClientError, OSError):
                return False

        await aeventually(look, timeout=30, what=f"{name} answers {status}")

    def close(self) -> None:
        for process in self.processes.values():
            process.kill9()

    @property
    def roots(self) -> str:
        assert self.made
        return "\n".join(self.made.roots)

    def tls(self, node: "Host | None" = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.roots)
        if node:
            context.load_cert_chain(node.file)
        return context

    @asynccontextmanager
    async def request(
        self, name: str, method: str, path: str, *, token: str | None = "", node: "Host | None" = None, **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        text = self.token if token == "" and node is None else token
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.tls(node))) as session,
            session.request(
                method, self.settings[name].advertise + path, headers=headers, server_hostname=SERVER_NAME, **more
            ) as response,
        ):
            yield response

    async def call(self, name: str, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        if body is not None:
            more["data"] = io.BytesIO(msgspec.json.encode(body))
        async with self.request(name, method, path, **more) as response:
            raw = await response.read()
            return response.status, msgspec.json.decode(raw) if raw else None

    async def apply(self, name: str, *objects: Any, delete: Any = ()) -> tuple[int, Any]:
        return await self.call(name, "POST", "/v1/apply", {"objects": list(objects), "delete": list(delete)})

    async def join(self, name: str, node: str, address: str, *identities: str, **more: Any) -> "Host":
        """A host with a certificate of its own. `more`: of its token, such as its roles."""
        wanted = {"node": node, "identities": list(identities), **more}
        _, made = await self.call(name, "POST", "/v1/tokens", wanted)
        key = ca_keys.new_key()
        body = {"token": made["token"], "node": node, "address": address, "csr": ca_keys.new_csr(key)}
        status, joined = await self.call(name, "POST", "/v1/join", body, token=None)
        assert status == 200, joined
        file = self.folder / f"{node}-{made['id']}.pem"
        file.write_text(key + joined["chain"])
        return Host(node, address, file)

    async def health(self, name: str, endpoint: str) -> str | None:
        _, listed = await self.call(name, "GET", "/v1/objects/endpoints")
        return {item["metadata"]["name"]: item["spec"]["health"] for item in listed["items"]}.get(endpoint)

    async def leader(self, name: str) -> str:
        return (await self.call(name, "GET", "/v1/status"))[1]["leader"]

    @asynccontextmanager
    async def uplink(self, name: str, node: "Host") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.tls(node))) as session,
            session.ws_connect(self.settings[name].advertise + "/v1/uplink", server_hostname=SERVER_NAME) as ws,
        ):
            await ws.send_str(msgspec.json.encode(Up(hello=Hello(node=node.name))).decode())
            reading = asyncio.create_task(_drain(ws))
            try:
                yield ws
            finally:
                reading.cancel()


class Host:
    def __init__(self, name: str, address: str, file: Path) -> None:
        self.name, self.address, self.file = name, address, file

    def instance(self, service: str = "api", **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "holdfast.dev/v1",
            "kind": "Instance",
            "metadata": {"name": f"{service}-{self.name}", "namespace": "shop"},
            "spec": {
                "node": self.name,
                "service": service,
                "serviceAccount": service,
                "address": self.address,
                "ports": [{"port": 8080}],
                "health": "healthy",
                **spec,
            },
        }


async def _drain(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Reading answers pings."""
    async for _ in ws:
        pass


@asynccontextmanager
async def running(tmp_path: Path, *replicas: str, members: int = 1) -> AsyncIterator[Fleet]:
    """A fresh etcd without users, a mesh made by init, and running replicas."""
    cluster = EtcdCluster(tmp_path / "etcd", members=members)
    made = Fleet(cluster, tmp_path / "cp", *replicas)
    try:
        cluster.launch()
        await cluster.ready()
        await made.init()
        await made.start()
        yield made
    finally:
        made.close()
        cluster.close()
