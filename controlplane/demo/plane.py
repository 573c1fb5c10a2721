"""The control-plane nodes of the demo: settings files and processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from controlplane.demo.machine import program
from controlplane.demo.process import Process
from controlplane.demo.topology import API_PORT, Plane, Topology
from mesh.model.checks import place

STOP_SECONDS = 10.0


class PlaneNode:
    """One control-plane node."""

    def __init__(self, plane: Plane, home: Path, settings: dict[str, Any]) -> None:
        self.plane, self.home, self.settings = plane, home, settings
        self.config = home / "controlplane.yaml"
        self.process = Process(
            plane.name,
            [program("holdfast-controlplane"), "run", "--config", str(self.config)],
            log=home / "controlplane.log",
        )

    def write(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(self.settings, sort_keys=False))

    def start(self) -> None:
        if not self.process.running:
            self.process.start()

    def wait(self, seconds: float = 60.0) -> None:
        """Return once it listens."""
        self.process.wait_for_port(self.plane.address, API_PORT, timeout=seconds)

    def stop(self) -> None:
        self.process.stop(STOP_SECONDS)


def plane_settings(
    plane: Plane,
    home: Path,
    topology: Topology,
    *,
    etcd: Sequence[str],
    pki: Path,
    seal_key: Path,
    signer: dict[str, Any],
) -> dict[str, Any]:
    """controlplane.yaml of a node."""
    return {
        "replica": plane.name,
        "listen": place(plane.address, API_PORT),
        "advertise": plane.url,
        "dataDir": str(home / "data"),
        "etcd": {
            "endpoints": list(etcd),
            "ca": str(pki / "ca.pem"),
            "cert": str(pki / "holdfast-controlplane.pem"),
            "key": str(pki / "holdfast-controlplane-key.pem"),
        },
        "sealKeyFile": str(seal_key),
        "signer": signer,
        "gates": [p.gate_address for p in topology.gated],
        "controlplanes": [p.url for p in topology.planes],
        "electionTtlSeconds": 3,
    }


def gate_settings(plane: Plane, *, etcd: Sequence[str], pki: Path) -> dict[str, Any]:
    """The `gate` part of a gate host's agent.yaml."""
    return {
        "listen": plane.gate_address,
        "etcd": list(etcd),
        "etcdCa": str(pki / "ca.pem"),
        "etcdCert": str(pki / "holdfast-gate.pem"),
        "etcdKey": str(pki / "holdfast-gate-key.pem"),
    }
