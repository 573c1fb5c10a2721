"""A snapshot as a bootstrap of its own, for Envoys without an agent: references to ADS become static parts."""

import copy
from typing import Any

from mesh import pb
from mesh.compile import Snapshot


def document(snapshot: Snapshot, *, admin: str = "") -> dict[str, Any]:
    """In the JSON form of envoy.config.bootstrap.v3.Bootstrap."""
    trees = {url: {} for url in pb.SHORT}
    for url, resources in snapshot.resources.items():
        for name, resource in resources.items():
            trees[url][name] = pb.to_json(pb.decode(url, resource.body))
    found: dict[str, Any] = {
        "static_resources": {
            "listeners": [_static(tree, trees) for tree in trees[pb.LISTENER].values()],
            "clusters": [_static(tree, trees) for tree in trees[pb.CLUSTER].values()],
            "secrets": list(trees[pb.SECRET].values()),
        }
    }
    if admin:
        found["admin"] = {"address": {"pipe": {"path": admin}}}
    return found


def _static(tree: Any, trees: dict[str, dict[str, Any]]) -> Any:
    """Secrets are found by name, routes and load assignments are put in place."""
    if isinstance(tree, list):
        return [_static(item, trees) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {key: _static(value, trees) for key, value in tree.items() if key != "sds_config"}
    if "rds" in tree:
        tree["route_config"] = copy.deepcopy(trees[pb.ROUTE][tree.pop("rds")["route_config_name"]])
    if "eds_cluster_config" in tree:
        name = tree.pop("eds_cluster_config")["service_name"]
        tree["type"] = "STATIC"
        tree["load_assignment"] = {**copy.deepcopy(trees[pb.ENDPOINT][name]), "cluster_name": tree["name"]}
    return tree
