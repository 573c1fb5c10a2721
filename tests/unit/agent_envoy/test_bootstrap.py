"""The bootstrap says what it must. A real Envoy takes it: tests/integration/envoy."""

import json

from agent.envoy.bootstrap import BootstrapSettings, document, render
from agent.envoy.trial import reason, static_resources
from mesh import pb
from mesh.compile.types import Resource, Snapshot
from mesh.model import Revision

SETTINGS = BootstrapSettings(node="vm1", cluster="east", xds_socket="/run/x/xds.sock", admin_socket="/run/x/admin.sock")


def test_it_asks_its_agent_and_nobody_else_for_everything():
    tree = document(SETTINGS)

    assert tree["node"]["id"] == "vm1"
    assert tree["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    (cluster,) = tree["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"pipe": {"path": "/run/x/xds.sock"}}
    assert "listeners" not in tree["static_resources"]


def test_it_waits_for_its_configuration_as_long_as_it_takes():
    """Else a new process of a hot restart would take over with none."""
    dynamic = document(SETTINGS)["dynamic_resources"]

    assert dynamic["cds_config"]["initial_fetch_timeout"] == dynamic["lds_config"]["initial_fetch_timeout"] == "0s"


def test_admin_is_a_unix_socket_with_a_mode():
    assert document(SETTINGS)["admin"]["address"] == {"pipe": {"path": "/run/x/admin.sock", "mode": 0o660}}


def test_the_same_settings_give_the_same_bytes():
    assert render(SETTINGS) == render(SETTINGS)
    assert json.loads(render(SETTINGS)) == document(SETTINGS)


def test_what_the_agent_reads_is_kept():
    patterns = document(SETTINGS)["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]

    for name in (
        "cluster_manager.warming_clusters",
        "listener_manager.total_listeners_warming",
        "server.total_connections",
    ):
        assert any(name.startswith(p.get("prefix", "-")) for p in patterns)


def test_a_trial_holds_all_types():
    route = pb.RouteConfiguration(name="r")
    bodies = {
        pb.CLUSTER: pb.Cluster(name="c"),
        pb.ENDPOINT: pb.ClusterLoadAssignment(cluster_name="e"),
        pb.LISTENER: pb.Listener(name="l"),
        pb.ROUTE: route,
        pb.SECRET: pb.Secret(name="s"),
    }
    resources = {url: {"x": Resource("x", "1", pb.encode(message))} for url, message in bodies.items()}

    bootstrap = pb.bootstrap()
    bootstrap.ParseFromString(static_resources(Snapshot(Revision(1), b"", resources)))
    static = bootstrap.static_resources

    assert [c.name for c in static.clusters] == ["c", "trial of secret s", "trial of endpoints e"]
    assert [s.name for s in static.secrets] == ["s"]
    assert [m.name for m in static.listeners] == ["l", "trial of routes r"]
    manager = pb.HttpConnectionManager()
    assert static.listeners[1].filter_chains[0].filters[0].typed_config.Unpack(manager)
    assert manager.route_config == route


def test_a_reason_is_without_date_and_debug_marks():
    log = (
        "[2026-11-21 07:38:02.199][18698][critical][main] [source/server/server.cc:461] error initializing config"
        " 'a' 'b': Invalid duration: Expected positive duration: goo.gle/debugonly   seconds: -1\n"
    )

    assert reason(log) == "Invalid duration: Expected positive duration: seconds: -1"
    assert reason("rds {   a: 1 } : Proto constraint validation failed (X: too short)") == (
        "Proto constraint validation failed (X: too short)"
    )
    assert reason("") == "refused without a reason"
    assert len(reason("x" * 10_000)) == 500
