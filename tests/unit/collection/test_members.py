"""From the control plane's documents to hosts and groups."""

import time

import pytest

from ca.signer.memory import new_root


def node(name: str, **spec):
    labels = spec.pop("labels", {})
    return {"metadata": {"name": name, "labels": labels}, "spec": {"address": f"10.0.0.{len(name)}", **spec}}


def proxy(name: str, *, lost: bool = False, **report):
    return {"node": name, "connected": bool(report), "lost": lost, "report": report or None}


def service(name: str, namespace: str = "shop"):
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"ports": [{"port": 80}]}}


def endpoint(service: str, node: str, namespace: str = "shop", **spec):
    return {
        "metadata": {"name": f"{service}-{node}", "namespace": namespace},
        "spec": {"service": service, "node": node, "serviceAccount": service, "health": "healthy", **spec},
    }


def documents(*, nodes=(), proxies=(), services=(), endpoints=(), unreachable=()):
    return {
        "nodes": {"items": list(nodes), "bad": []},
        "proxies": {"items": list(proxies), "unreachable": list(unreachable)},
        "services": {"items": list(services), "bad": []},
        "endpoints": {"items": list(endpoints), "bad": []},
    }


@pytest.fixture
def members(plugin):
    return lambda prefix="mesh_", **parts: plugin("module_utils.members").members_of(documents(**parts), prefix)


def test_hosts_are_grouped_by_what_the_store_and_their_agents_say(members):
    found = members(
        nodes=[
            node("db", roles=["agent"], identities=["shop/db"], locality="eu/a/rack-7", labels={"tier": "gold"}),
            node("web", roles=["agent", "gate"], evicted=True),
        ],
        proxies=[
            proxy("db", phase="serving", version="0.1.0", envoyVersion="1.40.0", maintenance=1700000000.0),
            proxy("web", lost=True),
        ],
        services=[service("db"), service("idle")],
        endpoints=[endpoint("db", "db", health="draining")],
    )
    assert [host.name for host in found.hosts] == ["db", "web"]
    assert {group: hosts for group, hosts in found.groups.items() if hosts} == {
        "mesh_nodes": ["db", "web"],
        "mesh_connected": ["db"],
        "mesh_away": ["web"],
        "mesh_lost": ["web"],
        "mesh_evicted": ["web"],
        "mesh_maintenance": ["db"],
        "mesh_role_agent": ["db", "web"],
        "mesh_role_gate": ["web"],
        "mesh_label_tier_gold": ["db"],
        "mesh_region_eu": ["db"],
        "mesh_zone_eu_a": ["db"],
        "mesh_subzone_eu_a_rack_7": ["db"],
        "mesh_service_shop__db": ["db"],
    }
    # A service that nobody runs has a group all the same, as have the states in which nobody is.
    assert found.groups["mesh_service_shop__idle"] == []
    assert found.services["mesh_service_shop__idle"]["name"] == "idle"
    assert set(members().groups) >= {"mesh_lost", "mesh_maintenance", "mesh_evicted", "mesh_connected", "mesh_away"}
    facts = found.hosts[0].facts
    assert facts["agent_version"] == "0.1.0"
    assert facts["envoy_version"] == "1.40.0"
    assert facts["identities"] == ["shop/db"]
    assert facts["services"][0]["identity"] == "shop/db"
    assert facts["services"][0]["health"] == "draining"
    assert found.warnings == []


def test_the_operators_locality_comes_before_the_hosts_own(members):
    own = endpoint("db", "db", locality="us/b")
    assert members(nodes=[node("db", locality="eu")], endpoints=[own]).hosts[0].facts["locality"] == {"region": "eu"}
    assert members(nodes=[node("db")], endpoints=[own]).hosts[0].facts["locality"] == {"region": "us", "zone": "b"}


def test_the_prefix_is_the_operators(members):
    assert "hf-x_nodes" not in members("hf-x_").groups
    assert "hf_x_nodes" in members("hf-x_").groups


def test_two_things_in_one_group_are_told(members):
    found = members(services=[service("a-b"), service("a-b", "x")])
    assert found.warnings == []
    found = members(nodes=[node("one", labels={"a": "b-c"}), node("two", labels={"a-b": "c"})])
    assert found.groups["mesh_label_a_b_c"] == ["one", "two"]
    assert "mesh_label_a_b_c" in found.warnings[0]


def test_no_node_takes_a_name_by_which_ansible_means_something_else(members):
    """What plays delegate to localhost, secrets among it, would go to the node of that name."""
    found = members(nodes=[node("localhost"), node("all"), node("db")])
    assert [host.name for host in found.hosts] == ["db"]
    assert found.groups["mesh_nodes"] == ["db"]
    assert "localhost is left out" in " ".join(found.warnings)


def test_what_cannot_be_read_is_told_and_hides_nobody(members, plugin):
    whole = documents(nodes=[node("db")], unreachable=["cp-2"])
    whole["nodes"]["bad"] = [{"key": "nodes/web", "reason": "not an object"}]
    found = plugin("module_utils.members").members_of(whole, "mesh_")
    assert [host.name for host in found.hosts] == ["db"]
    assert any("nodes/web" in words for words in found.warnings)
    assert any("cp-2" in words for words in found.warnings)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("cp-1", ("cp-1", 8443)),
        ("cp-1:9000", ("cp-1", 9000)),
        ("https://cp-1:9000/", ("cp-1", 9000)),
        ("https://[fd00::1]:9000", ("fd00::1", 9000)),
        ("http://cp-1", None),
        ("cp-1:port", None),
        ("https://cp-1/v1", None),
    ],
)
def test_addresses_are_the_commands(plugin, address, expected):
    controlplane = plugin("module_utils.controlplane")
    if expected:
        assert controlplane.place(address) == expected
    else:
        with pytest.raises(controlplane.ControlPlaneError, match="no address of a control plane"):
            controlplane.place(address)


def test_an_address_of_ipv6_is_told_from_its_port(plugin, tmp_path):
    (tmp_path / "ca.pem").write_text(new_root("mesh", time.time()).pem)
    controlplane = plugin("module_utils.controlplane")
    api = controlplane.Api(["https://[::1]:1"], ca=str(tmp_path / "ca.pem"), token="t", seconds=1)
    with pytest.raises(controlplane.ControlPlaneError, match=r"\[::1\]:1: "):
        api.get("/v1/status")


def test_what_is_missing_is_told_with_what_to_set(plugin):
    controlplane = plugin("module_utils.controlplane")
    whole = {"addresses": ["cp-1"], "ca": "/nowhere.pem", "token": "t", "seconds": 1}
    for name, value, words in (
        ("addresses", [], "HOLDFAST_ADDR"),
        ("token", "", "HOLDFAST_TOKEN_FILE"),
        ("ca", "", "HOLDFAST_CA"),
        ("ca", "/nowhere.pem", "cannot be used"),
    ):
        given = {**whole, name: value}
        with pytest.raises(controlplane.ControlPlaneError, match=words):
            controlplane.Api(given.pop("addresses"), **given)


def test_refusals_say_what_the_control_plane_said(plugin):
    refusal = plugin("module_utils.controlplane").refusal
    assert refusal(403, b'{"error": "not yours", "hint": "ask"}', "/v1/x") == "/v1/x: not yours (ask)"
    assert refusal(401, b"<html>", "/v1/x").startswith("/v1/x: answered with status 401 (the token is unknown")
    assert refusal(599, b"", "/v1/x") == "/v1/x: answered with status 599"
