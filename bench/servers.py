"""Real servers for one measurement: three etcd members, OpenBao if it signs, and one control-plane node."""

import asyncio
import base64
import contextlib
import secrets
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.cli.client import Api
from controlplane.cli.context import Connection
from controlplane.demo.bao import Bao
from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.demo.machine import program
from controlplane.demo.plane import PlaneNode, plane_settings
from controlplane.demo.process import free_port
from controlplane.demo.topology import Plane, Topology

TRUST_DOMAIN = "bench.holdfast"
ADDRESS = "127.0.0.1"
INIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ControlPlane:
    etcd: EtcdCluster
    node: PlaneNode
    url: str
    token: str
    ca_file: Path

    def api(self) -> Api:
        return Api(Connection((self.url,), self.token, str(self.ca_file), "default", "the bench"))


@contextlib.asynccontextmanager
async def controlplane(folder: Path, signer: str) -> AsyncIterator[ControlPlane]:
    """One node, with this signer; `builtin` or `vault`."""
    with contextlib.ExitStack() as stack:
        etcd = EtcdCluster(folder / "etcd")
        stack.callback(etcd.close)
        etcd.launch()
        await etcd.ready()
        told: dict[str, Any] = {"kind": "builtin"}
        if signer == "vault":
            bao = Bao(folder / "bao")
            stack.callback(bao.stop)
            await asyncio.to_thread(bao.start)
            await asyncio.to_thread(bao.set_up, TRUST_DOMAIN)
            told = bao.signer
        plane = Plane("cp-1", "gate-1", ADDRESS)
        seal_key = folder / "seal.key"
        seal_key.touch(mode=0o600)
        seal_key.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        home = folder / "cp-1"
        settings = plane_settings(
            plane, home, Topology((), (plane,)), etcd=etcd.endpoints, pki=etcd.pki, seal_key=seal_key, signer=told
        )
        port = free_port(ADDRESS)
        url = f"https://{ADDRESS}:{port}"
        settings |= {"listen": f"{ADDRESS}:{port}", "advertise": url, "controlplanes": [url]}
        node = PlaneNode(plane, home, settings)
        node.write()
        token = await asyncio.to_thread(_init, node.config, etcd.pki, folder)
        stack.callback(node.stop)
        node.start()
        await asyncio.to_thread(node.process.wait_for_port, ADDRESS, port, timeout=60)
        yield ControlPlane(etcd, node, url, token, folder / "ca.pem")


def _init(config: Path, pki: Path, folder: Path) -> str:
    """The first administrator's token."""
    command = [
        program("holdfast"), "init", "mesh",
        "--config", str(config),
        "--trust-domain", TRUST_DOMAIN,
        "--cluster", "bench",
        "--etcd-root-cert", str(pki / "root.pem"),
        "--etcd-root-key", str(pki / "root-key.pem"),
        "--token-file", str(folder / "admin.token"),
        "--ca-file", str(folder / "ca.pem"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=INIT_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"`holdfast init mesh` failed:\n{done.stderr[-2000:]}")
    return (folder / "admin.token").read_text().strip()
