"""Small consistent snapshots: services, each with a cluster, endpoints, a listener and a route."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from mesh import pb
from mesh.compile.types import Resource, Resources, Snapshot
from mesh.model import Revision


@dataclass(frozen=True)
class Service:
    """Versions of its parts; `target` is the service whose cluster its route names."""

    cluster: int = 0
    endpoints: int = 0
    listener: int = 0
    route: int = 0
    target: str = ""


def cluster(name: str, endpoints: str, version: int) -> Resource:
    message = pb.Cluster(name=name, type=pb.Cluster.EDS, alt_stat_name=str(version))
    message.eds_cluster_config.service_name = endpoints
    return Resource(name, f"{endpoints}/{version}", message.SerializeToString())


def plain(name: str, version: str, **body: str) -> Resource:
    return Resource(name, version, json.dumps(body).encode())


class Worlds:
    """Builds snapshots one after another; a type's mapping keeps its identity while nothing of it changes."""

    def __init__(self, *, hints: bool) -> None:
        self._hints = hints
        self._revision = 0
        self._last: Snapshot | None = None
        self._made: dict[tuple[str, str, str], Resource] = {}

    def snapshot(self, services: Mapping[str, Service], secret: int = 0) -> Snapshot:
        self._revision += 1
        clusters, endpoints, listeners, routes = {}, {}, {}, {}
        for name, service in services.items():
            # Two services share their endpoints, as two identities that call one service do.
            shared = f"e{int(name[1:]) // 2}"
            clusters[f"c-{name}"] = cluster(f"c-{name}", shared, service.cluster)
            old = endpoints.get(shared)
            count = service.endpoints + (int(old.version) if old else 0)
            endpoints[shared] = plain(shared, str(count))
            listeners[f"l-{name}"] = plain(f"l-{name}", str(service.listener), route=f"r-{name}")
            target = service.target if service.target in services else name
            routes[f"r-{name}"] = plain(f"r-{name}", f"{target}/{service.route}", cluster=f"c-{target}")
        secrets = {"secret": plain("secret", str(secret))}
        return self._finish(
            {pb.CLUSTER: clusters, pb.ENDPOINT: endpoints, pb.LISTENER: listeners, pb.ROUTE: routes, pb.SECRET: secrets}
        )

    def _finish(self, resources: dict[str, dict[str, Resource]]) -> Snapshot:
        last = self._last
        same: dict[str, Resources] = {}
        changed: dict[str, frozenset[str]] = {}
        for url, mapping in resources.items():
            for name, resource in mapping.items():
                mapping[name] = self._made.setdefault((url, name, resource.version), resource)
            old = last.resources[url] if last else {}
            names = {n for n in mapping.keys() | old.keys() if mapping.get(n) is not old.get(n)}
            same[url] = mapping if names or last is None else old
            changed[url] = frozenset(names)
        versions = [(url, sorted((n, r.version) for n, r in same[url].items())) for url in sorted(same)]
        digest = hashlib.sha256(repr(versions).encode()).digest()
        hints = {"base": last.digest, "changed": changed} if self._hints and last else {}
        self._last = Snapshot(Revision(self._revision), digest, same, **hints)
        return self._last
