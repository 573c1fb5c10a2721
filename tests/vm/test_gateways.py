"""Gateways on real hosts."""

import json

import pytest
import yaml

from tests.vm.fleet import Fleet
from tests.vm.manifest import difference, manifest
from tests.vm.plane import Plane
from tests.vm.shop import NAMESPACE, service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PORT = 15444


def of_gateways(listed: str) -> dict[str, tuple[str, int, str]]:
    """Node -> address, port and health of those that are known."""
    found = [item["spec"] for item in json.loads(listed)["items"]]
    return {spec["node"]: (spec["address"], spec["port"], spec["health"]) for spec in found}


def test_one_line_makes_a_gateway_behind_another_address(plane: Plane, fleet: Fleet):
    """What is dialled is a machine in front; where it listens is the host's own."""
    (host,) = fleet.up("gw-line", variant="bare")
    before = manifest(host)
    outside = f"{fleet.subnet}.250"
    wrong = host.run(plane.line("gw-line", "--gateway", "--address", outside, "--bind", "192.0.2.1"), check=False)
    assert wrong.code == 1
    assert "--bind 192.0.2.1 is not an address of this host" in wrong.err
    assert difference(before, manifest(host)) == []

    host.run(plane.line("gw-line", "--gateway", "--address", outside, "--bind", host.address), timeout=240)
    settings = yaml.safe_load(host.run("cat /etc/holdfast/agent.yaml").out)
    assert (settings["address"], settings["bind"], settings["gateway"]) == (outside, host.address, {})

    def registered() -> bool:
        told = of_gateways(plane.holdfast("get", "endpoints", "-n", "holdfast-system", "-o", "json"))
        assert told.get("gw-line") == (outside, PORT, "healthy"), told
        return True

    host.wait(registered, timeout=30, what="the gateway is known")
    # It has nothing to pass on, and so no listener, until there is a peer that something is exported to.
    peering = {"trustDomain": "east.holdfast", "networks": ["198.51.100.0/24"]}
    plane.apply(
        NAMESPACE,
        service("web", 8081),
        {"apiVersion": "holdfast.dev/v1", "kind": "Peering", "metadata": {"name": "east"}, "spec": peering},
        {
            "apiVersion": "holdfast.dev/v1", "kind": "ExportPolicy", "metadata": {"name": "all", "namespace": "shop"},
            "spec": {"services": ["*"], "to": ["east"]},
        },
    )  # fmt: skip
    host.wait(lambda: f"{host.address}:{PORT}" in host.run("ss -Hltn").out, timeout=30, what="it listens")
    assert "is as it was" in host.run("holdfast-agent leave --drain-seconds 1", timeout=120).out
    assert difference(before, manifest(host)) == []
