"""Gateways on real hosts: by the pasted line, and by the play."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from controlplane.demo import topology as top
from controlplane.demo.machine import program
from tests.vm.controller import Controller, Played
from tests.vm.fleet import Fleet
from tests.vm.host import Host
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


def player(plane: Plane, host: Host, folder: Path, dist: Path) -> Callable[..., Played]:
    """Runs add_hosts.yml for one host, with these variables of it. The control plane is here, no host of the play's."""
    controller, port = Controller(folder, dist), urlsplit(plane.url).port
    connection = {
        "--addr": f"{plane.plane.address}:{port}",
        "--ca": str(plane.folder / "ca.pem"),
        "--token-file": "/dev/stdin",
    }
    # Where the play has a node of its own that it came to by SSH, and keeps the token in a vault.
    here = {
        "__holdfast_cli": str(program("holdfast")),
        "__holdfast_cli_connection": [word for pair in connection.items() for word in pair],
        "__holdfast_admin_token": (plane.folder / "admin.token").read_text().strip(),
        "holdfast_api_port": port,
        "holdfast_gate_port": top.GATE_PORT,
    }
    (folder / "here.json").write_text(json.dumps(here))

    def play(*words: str, **variables: Any) -> Played:
        controller.write({"holdfast_agent": [host]}, {host.name: variables})
        inventory = yaml.safe_load((folder / "inventory.yml").read_text())
        local = {"ansible_host": plane.plane.address, "ansible_connection": "local", "ansible_become": False}
        inventory["all"]["children"]["holdfast_controlplane"] = {
            "hosts": {"here": {**local, "ansible_python_interpreter": sys.executable}}
        }
        (folder / "inventory.yml").write_text(yaml.safe_dump(inventory))
        return controller.play("add_hosts", "-e", "@here.json", *words)

    return play


def test_a_host_installs_from_the_folder_on_the_controller_and_becomes_a_gateway(
    plane: Plane, fleet: Fleet, dist: Path, tmp_path: Path
):
    (host,) = fleet.up("gw-play", variant="bare")
    plane.apply(NAMESPACE, service("web", 8081))
    play = player(plane, host, tmp_path, dist)
    web = {"name": "web", "namespace": "shop", "ports": [{"port": 8081, "protocol": "http"}]}
    variables: dict[str, Any] = {"holdfast_services": [web], "holdfast_agent_source": "controller"}

    played = play(**variables)
    brought = played.text.partition("Install and join, from a folder on this host]")[2].partition("\nTASK")[0]
    assert "changed: [gw-play]" in brought, brought
    told = json.loads(host.run("holdfast-agent status -o json").out)
    assert told["phase"] == "serving"
    assert [one["registered"] for one in told["instances"]] == ["yes"]
    assert host.run("ls -d /run/*.holdfast-join", check=False).code != 0, "what was brought is gone again"
    assert "hf1." not in played.text

    variables |= {"holdfast_gateway": True, "holdfast_bind": "0.0.0.0"}
    play(**variables)
    settings = yaml.safe_load(host.run("cat /etc/holdfast/agent.yaml").out)
    assert (settings["bind"], settings["gateway"]) == ("0.0.0.0", {})
    node = json.loads(plane.holdfast("get", "node", "gw-play", "-o", "json"))
    assert (node["spec"]["roles"], node["spec"]["identities"]) == (["agent", "gateway"], ["shop/web"])

    def registered() -> bool:
        known = of_gateways(plane.holdfast("get", "endpoints", "-n", "holdfast-system", "-o", "json"))
        assert known.get("gw-play") == (host.address, PORT, "healthy"), known
        return True

    host.wait(registered, timeout=30, what="the gateway is known")
    again = play(**variables)
    assert again.changed["gw-play"] == 0, again.text[-4000:]
