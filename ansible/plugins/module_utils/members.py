"""From the control plane's documents to hosts, their variables and groups. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LEVELS = ("region", "zone", "subzone")
"""Of a locality, `region[/zone[/subzone]]`."""
ANSIBLES = frozenset({"all", "ungrouped", "localhost"})
"""Names by which Ansible means something else: what plays do on the controller would be done on such a node."""


@dataclass
class Host:
    """A node of the mesh."""

    name: str
    address: str
    facts: dict[str, Any]
    """What becomes the variable holdfast_mesh."""


@dataclass
class Members:
    """What the inventory will hold."""

    hosts: list[Host] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Group -> its hosts; some have none."""
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Group of a service -> what the service is."""
    warnings: list[str] = field(default_factory=list)


def members_of(documents: Mapping[str, Mapping[str, Any]], prefix: str) -> Members:
    """Hosts and groups from the answers for `nodes`, `proxies`, `services` and `endpoints`."""
    found = Members()
    for kind in ("nodes", "services", "endpoints"):
        found.warnings += [
            f"{kind}: {bad['key']} cannot be read and is left out: {bad['reason']}" for bad in documents[kind]["bad"]
        ]
    replicas = documents["proxies"].get("unreachable") or []
    if replicas:
        found.warnings.append(
            f"control-plane nodes that did not answer: {', '.join(replicas)}; their hosts are shown as away"
        )
    proxies = {item["node"]: item for item in documents["proxies"]["items"]}
    runs: dict[str, list[Any]] = {}
    for endpoint in documents["endpoints"]["items"]:
        runs.setdefault(endpoint["spec"]["node"], []).append(endpoint)
    groups = _Groups(found, prefix)
    for service in documents["services"]["items"]:
        groups.service(service)
    for node in sorted(documents["nodes"]["items"], key=lambda node: str(node["metadata"]["name"])):
        name = node["metadata"]["name"]
        if name in ANSIBLES:
            found.warnings.append(f"the node {name} is left out: Ansible means something else by this name")
            continue
        host = host_of(node, proxies.get(name, {}), runs.get(name, ()))
        found.hosts.append(host)
        groups.sort(host)
    return found


def host_of(node: Mapping[str, Any], proxy: Mapping[str, Any], endpoints: Iterable[Mapping[str, Any]]) -> Host:
    """What the store says of a host, and what its agent says."""
    metadata, spec = node["metadata"], node.get("spec") or {}
    report = proxy.get("report") or {}
    instances = [_instance(endpoint) for endpoint in endpoints]
    # As callers see it: the operator's word comes first, then the host's own.
    place = spec.get("locality") or next((i["locality"] for i in instances if i["locality"]), "")
    facts = {
        "labels": dict(metadata.get("labels") or {}),
        "roles": list(spec.get("roles") or ["agent"]),
        "identities": list(spec.get("identities") or []),
        "locality": dict(zip(LEVELS, place.split("/"), strict=False)) if place else {},
        "services": sorted(instances, key=lambda i: (i["namespace"], i["name"], i["instance"])),
        "connected": bool(proxy.get("connected")),
        "lost": bool(proxy.get("lost")),
        "evicted": bool(spec.get("evicted")),
        "maintenance": bool(report.get("maintenance")),
        "phase": report.get("phase", ""),
        "agent_version": report.get("version", ""),
        "envoy_version": report.get("envoyVersion", ""),
    }
    return Host(metadata["name"], spec.get("address", ""), facts)


def _instance(endpoint: Mapping[str, Any]) -> dict[str, str]:
    metadata, spec = endpoint["metadata"], endpoint["spec"]
    return {
        "namespace": metadata["namespace"],
        "name": spec["service"],
        "instance": metadata["name"],
        "identity": f"{metadata['namespace']}/{spec['serviceAccount']}",
        "health": spec.get("health", "unhealthy"),
        "locality": spec.get("locality", ""),
    }


FLAGS = ("lost", "maintenance", "evicted")


class _Groups:
    """Names groups, and says so where two things get the same name."""

    def __init__(self, found: Members, prefix: str) -> None:
        self._found, self._prefix = found, prefix
        self._meant: dict[str, tuple[str, ...]] = {}
        for always in ("nodes", "connected", "away", *FLAGS):
            self._add(None, always)

    def sort(self, host: Host) -> None:
        """Put this host into all groups that it belongs in."""
        facts = host.facts
        flags = [flag for flag in FLAGS if facts[flag]]
        for flag in ("nodes", "connected" if facts["connected"] else "away", *flags):
            self._add(host.name, flag)
        for role in facts["roles"]:
            self._add(host.name, "role", role)
        for label, value in facts["labels"].items():
            self._add(host.name, "label", label, value)
        levels = list(facts["locality"].items())
        for number, (level, _) in enumerate(levels, 1):
            self._add(host.name, level, *(value for _, value in levels[:number]))
        for service in facts["services"]:
            self._add(host.name, "service", f"{service['namespace']}__{service['name']}")

    def service(self, service: Mapping[str, Any]) -> None:
        """A group for it, also if nobody runs it now: a play that names it then finds it, empty."""
        metadata, spec = service["metadata"], service.get("spec") or {}
        group = self._add(None, "service", f"{metadata['namespace']}__{metadata['name']}")
        self._found.services[group] = {
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "labels": dict(metadata.get("labels") or {}),
            "ports": list(spec.get("ports") or []),
        }

    def _add(self, host: str | None, *words: str) -> str:
        group = group_name(self._prefix, *words)
        if self._meant.setdefault(group, words) != words:
            self._found.warnings.append(
                f"the group {group} stands for {' '.join(self._meant[group])} and for {' '.join(words)}, and has the "
                "hosts of both"
            )
        hosts = self._found.groups.setdefault(group, [])
        if host is not None and host not in hosts:
            hosts.append(host)
        return group


def group_name(prefix: str, *words: str) -> str:
    """As Ansible wants groups named: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9_]", "_", prefix + "_".join(word for word in words if word))
