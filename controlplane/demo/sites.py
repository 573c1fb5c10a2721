"""Several clusters: who is where in each of them, and what each is told. Pure.

All are alike: web calls api, which is one name over all clusters (`api.shop`), and the api of each other cluster by
that cluster's name; batch has the same ways open, and no rule that lets it in.
"""

from collections.abc import Sequence
from typing import Any

from controlplane.demo import topology as top

NAMES = ("west", "east", "north", "south")
MOST = len(NAMES)

GRPC_PORT = 8081
"""Of api's application, beside top.HTTP_PORT."""
PROTOCOLS = {"http": 80, "http2": 81, "grpc": 82}
"""Protocol -> the port under which callers know api."""

API, WEB, BATCH = "api", "web", "batch"
CALLERS = "callers"
"""The rule of api's policy."""


def trust_domain(cluster: str) -> str:
    return f"{cluster}.demo.holdfast"


def spiffe_id(cluster: str, service: str) -> str:
    return f"spiffe://{trust_domain(cluster)}/ns/{top.NAMESPACE}/sa/{service}"


def to_all(protocol: str) -> int:
    """The local port behind which a caller finds api, wherever it is."""
    return top.TO_API_PORT + list(PROTOCOLS).index(protocol)


def to_one(names: Sequence[str], cluster: str, protocol: str = "http") -> int:
    """The local port behind which a caller finds the api of this cluster alone."""
    return top.TO_API_PORT + 100 * (1 + list(names).index(cluster)) + list(PROTOCOLS).index(protocol)


def plan(block: int, cluster: str, names: Sequence[str]) -> top.Plan:
    """One of these clusters, on 127.0.0.<block + …>."""

    def address(number: int) -> str:
        return f"127.0.0.{block + number}"

    others = [name for name in names if name != cluster]
    ways = [("api", to_all(protocol)) for protocol in PROTOCOLS]
    ways += [(f"api.{other}", to_one(names, other, protocol)) for other in others for protocol in PROTOCOLS]
    hosts = (
        top.Host("web-1", WEB, address(1), tuple(ways)),
        top.Host("api-1", API, address(2)),
        top.Host("api-2", API, address(3)),
        top.Host("batch-1", BATCH, address(4), tuple(ways)),
    )
    found = top.Topology(
        hosts,
        planes=(top.Plane("cp-1", "gate-1", address(11)),),
        gateways=(top.Gateway("gw-1", address(13)), top.Gateway("gw-2", address(14))),
    )
    return top.Plan(
        topology=found,
        objects=tuple(_objects(others)),
        definitions={host.name: _definition(host) for host in hosts},
        applications={host.name: _application(host, cluster) for host in hosts},
        cluster=cluster,
        trust_domain=trust_domain(cluster),
        etcd_members=1,
    )


def _definition(host: top.Host) -> dict[str, Any]:
    ports = [{"port": top.HTTP_PORT, "name": "http", "protocol": "http", "address": host.address}]
    if host.service == API:
        ports.append({"port": GRPC_PORT, "name": "grpc", "protocol": "grpc", "address": host.address})
    return {
        "name": host.service,
        "namespace": top.NAMESPACE,
        "labels": {"app": host.service, "instance": host.name},
        "ports": ports,
        "health": {"type": "http", "path": "/healthz", "intervalSeconds": 1.0, "unhealthyThreshold": 2},
        "upstreams": [
            {"service": service, "port": _service_port(port), "listen": f"{host.address}:{port}"}
            for service, port in host.calls
        ],
    }


def _service_port(local: int) -> int:
    """The port of api that is meant by a caller's local one."""
    return list(PROTOCOLS.values())[(local - top.TO_API_PORT) % 100]


def _application(host: top.Host, cluster: str) -> tuple[str, ...]:
    program = "api" if host.service == API else "idle"
    found: tuple[str, ...] = (program, "--name", f"{host.name}.{cluster}", "--listen", f"{host.address}:{host.port}")
    if host.service == API:
        found += ("--grpc", f"{host.address}:{GRPC_PORT}")
    return found


def _objects(others: Sequence[str]) -> list[dict[str, Any]]:
    ports = [
        {"port": port, "name": protocol, "protocol": protocol, "targetPort": "grpc" if protocol == "grpc" else "http"}
        for protocol, port in PROTOCOLS.items()
    ]
    callers = [f"{top.NAMESPACE}/{WEB}", *(spiffe_id(other, WEB) for other in others)]
    rule = {"name": CALLERS, "from": [{"principals": callers}]}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": top.NAMESPACE}},
        top.resource("Service", API, {"ports": ports, "serviceAccounts": [API], "clusters": ["*"]}),
        *(top.resource("Service", name, {"ports": [ports[0]], "serviceAccounts": [name]}) for name in (WEB, BATCH)),
        top.resource("AuthorizationPolicy", "to-api", {"target": {"service": API}, "action": "Allow", "rules": [rule]}),
        # HTTP says by its method what may be repeated; of these gRPC calls, it is their owner who knows.
        top.resource(
            "TrafficPolicy",
            "api-grpc",
            {"target": {"service": API, "port": PROTOCOLS["grpc"]}, "retries": {"retryOn": ["unavailable"]}},
        ),
        top.resource("ExportPolicy", "shop", {"services": [API], "to": ["*"]}),
    ]
