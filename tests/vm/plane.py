"""A control plane for real hosts: etcd, a node with its distribution folder, a store gate, on the bridge's address."""

import asyncio
import base64
import json
import os
import secrets
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane.demo import topology as top
from controlplane.demo.bao import Bao
from controlplane.demo.binaries import find_envoy
from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.demo.machine import Machine, program
from controlplane.demo.plane import PlaneNode, gate_settings, plane_settings
from controlplane.demo.reaper import end_all
from tests.support.waiting import eventually


class Plane:
    """`with Plane(folder, address, dist) as plane`: it serves inside, and is gone afterwards.

    With `bao` its signer is an OpenBao; else it has a root of its own.
    """

    def __init__(self, folder: Path, address: str, dist: Path, *, bao: bool = False) -> None:
        self.folder, self.dist, self.mark = folder, dist, secrets.token_hex(8)
        self.plane = top.Plane("cp-1", "gate-1", address)
        self.topology = top.Topology((), (self.plane,))
        self.etcd = EtcdCluster(folder / "etcd", members=1)
        self.bao = Bao(folder / "bao") if bao else None
        self.url = self.plane.url
        self.node: PlaneNode | None = None
        self.gate: Machine | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> None:
        self.etcd.launch()
        asyncio.run(self.etcd.ready())
        if self.bao:
            self.bao.start()
            self.bao.set_up("vm.holdfast")
        seal = self.folder / "seal.key"
        seal.touch(mode=0o600)
        seal.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
        home = self.folder / "cp-1"
        settings = plane_settings(
            self.plane, home, self.topology, etcd=self.etcd.endpoints, pki=self.etcd.pki, seal_key=seal,
            signer=self.bao.signer if self.bao else {"kind": "builtin"},
        )  # fmt: skip
        self.node = PlaneNode(self.plane, home, {**settings, "distDir": str(self.dist)})
        self.node.write()
        self.holdfast(
            "init", "mesh", "--config", str(self.node.config), "--trust-domain", "vm.holdfast", "--cluster", "vm",
            "--etcd-root-cert", str(self.etcd.pki / "root.pem"), "--etcd-root-key", str(self.etcd.pki / "root-key.pem"),
            "--token-file", str(self.folder / "admin.token"), "--ca-file", str(self.folder / "ca.pem"),
        )  # fmt: skip
        self.node.start()
        self.node.wait()
        eventually(lambda: self.holdfast("status") != "", timeout=30, what="the control plane answers")
        self._start_gate()

    def _start_gate(self) -> None:
        home = self.folder / "hosts" / "gate-1"
        settings = top.agent_settings("gate-1", self.plane.address, str(home), self.topology, str(find_envoy()))
        settings["gate"] = gate_settings(self.plane, etcd=self.etcd.endpoints, pki=self.etcd.pki)
        self.gate = Machine("gate-1", home, self.mark, scope="vm", settings=settings)
        self.gate.write(self.holdfast("token", "create", "gate-1", "--gate").strip())
        self.gate.start()
        self.gate.agent.wait_for_port(self.plane.address, top.GATE_PORT, timeout=60)

    def holdfast(self, *words: str, stdin: str = "") -> str:
        """What the command prints; as the administrator."""
        env = {**os.environ, "HOLDFAST_ADDR": self.url, "HOLDFAST_CA": str(self.folder / "ca.pem")}
        env["HOLDFAST_TOKEN_FILE"] = str(self.folder / "admin.token")
        done = subprocess.run(
            [program("holdfast"), *words],
            input=stdin,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{words[:3]}: {done.stderr}"
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        import yaml

        self.holdfast("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def egress(self, mode: str) -> None:
        """`MeshConfig.spec.egress`: Allow or RegisteredOnly."""
        config = json.loads(self.holdfast("get", "meshconfig", "default", "-o", "json"))
        config["spec"]["egress"] = mode
        self.apply(config)

    def line(self, node: str, *words: str) -> str:
        """What is pasted on a bare host."""
        return self.holdfast("token", "create", node, "--line", *words).strip()

    def off(self) -> None:
        """All of it: gate, control plane, OpenBao, etcd. May be repeated."""
        if self.gate:
            self.gate.stop()
        if self.node:
            self.node.stop()
        if self.bao:
            self.bao.stop()
        self.etcd.stop()

    def on(self) -> None:
        """Again, as it was."""
        assert self.node
        assert self.gate
        self.etcd.launch()
        asyncio.run(self.etcd.ready())
        if self.bao:
            self.bao.start()
        self.node.start()
        self.node.wait()
        self.gate.start()
        self.gate.agent.wait_for_port(self.plane.address, top.GATE_PORT, timeout=60)

    def stop(self) -> None:
        self.off()
        self.etcd.close()
        end_all(self.mark)
