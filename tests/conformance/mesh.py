"""A whole mesh with the published base manifests: etcd, a control-plane node, a store gate, and a host for each pod.

What is published is applied as it stands, by `holdfast apply`, but for Deployments, which become hosts.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from controlplane.cli.main import main
from controlplane.demo.etcd_cluster import EtcdCluster
from tests.conformance import published
from tests.conformance.expectations import CONSUMER, MESH, TESTS
from tests.conformance.hosts import Callee, Hosts, callee, split
from tests.integration.controlplane.fleet import Fleet
from tests.support.waiting import eventually

PLANE = "cp-1"
SETTLE_SECONDS = 60.0

CALLED = tuple(Callee(MESH, name, port) for name in ("echo", "echo-v1", "echo-v2") for port in (80, 8080, 7070, 9090))
"""What pods can call in both namespaces, besides what the published tests do."""


@dataclass(frozen=True, slots=True)
class Control:
    """How operators and agents reach the control plane of a test."""

    url: str
    token: str
    ca_file: Path

    def holdfast(self, *arguments: str, text: str) -> None:
        """What `holdfast` does for an operator, with this on stdin; in this process, since it is called that often."""
        env = {"HOLDFAST_ADDR": self.url, "HOLDFAST_TOKEN": self.token, "HOLDFAST_CA": str(self.ca_file)}
        env["HOLDFAST_CONFIG"] = "/nonexistent"
        done = CliRunner().invoke(main, arguments, input=text, env=env)
        assert done.exit_code == 0, f"holdfast {' '.join(arguments)}: {done.output}"


class Mesh:
    """Control plane, store, gate and hosts, with the published base manifests applied."""

    def __init__(self, folder: Path, cluster: EtcdCluster) -> None:
        self.suite = published.fetch(published.SUITE).folder
        self.fleet = Fleet(cluster, folder / "cp", PLANE)
        self.hosts = Hosts(folder, self.fleet.settings[PLANE].advertise, cluster.endpoints, cluster.pki)
        self._cluster, self._folder = cluster, folder

    def start(self) -> None:
        asyncio.run(self._start_controlplane())
        ca_file = self._folder / "ca.pem"
        ca_file.write_text(self.fleet.roots)
        self.control = Control(self.fleet.settings[PLANE].advertise, self.fleet.token, ca_file)
        deployments, objects = split((self.suite / "mesh/manifests.yaml").read_text())
        self.hosts.deploy(deployments, self._calls())
        self._allow_calls()
        self.control.holdfast("apply", "-f", "-", text=objects)
        self.hosts.start_gate(self._token("gate", [], ["agent", "gate"]))
        for pod in self.hosts.pods:
            self.hosts.start(pod, self._token(pod.node, [pod.identity], ["agent"]))
        eventually(self._healthy, timeout=SETTLE_SECONDS, what="every pod is a healthy endpoint")

    @staticmethod
    def _calls() -> dict[str, set[Callee]]:
        calls = {MESH: set(CALLED), CONSUMER: set(CALLED)}
        for case in (case for test in TESTS for case in test.cases if not case.cannot):
            calls[case.namespace].add(callee(case))
        return calls

    async def _start_controlplane(self) -> None:
        self._cluster.launch()
        await self._cluster.ready()
        await self.fleet.init(liveness_grace=30.0)
        await self.fleet.start()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = asyncio.run(self.fleet.call(PLANE, method, path, body))
        assert status < 300, answer
        return answer

    def _allow_calls(self) -> None:
        """The suite knows no authorization; ours is deny by default."""
        config = self._call("GET", "/v1/objects/meshconfigs/default")
        config["spec"]["authorizationDefault"] = "Allow"
        self._call("POST", "/v1/apply", {"objects": [config], "delete": []})

    def _token(self, node: str, identities: list[str], roles: list[str]) -> str:
        return self._call("POST", "/v1/tokens", {"node": node, "identities": identities, "roles": roles})["token"]

    def _healthy(self) -> bool:
        self.hosts.check()
        listed = self._call("GET", "/v1/objects/endpoints")["items"]
        found = {(e["spec"]["service"], e["spec"]["node"]) for e in listed if e["spec"]["health"] == "healthy"}
        served = [pod for pod in self.hosts.pods if pod.deployment.namespace == MESH]
        return all({(pod.deployment.name, pod.node), ("echo", pod.node)} <= found for pod in served)

    @contextlib.contextmanager
    def applied(self, text: str) -> Iterator[None]:
        """These objects are in force at every host inside, and deleted afterwards."""
        self.control.holdfast("apply", "-f", "-", "--wait", text=text)
        try:
            yield
        finally:
            self.control.holdfast("delete", "-f", "-", text=text)

    def close(self) -> None:
        self.hosts.close()
        self.fleet.close()
