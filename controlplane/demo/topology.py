"""Who is where in the demo: hosts, addresses, ports, files and the mesh's objects. Pure.

Every host has a loopback address of its own, as a VM has one of its own on a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.model.checks import place

TRUST_DOMAIN = "demo.holdfast"
CLUSTER = "demo"
NAMESPACE = "shop"

MTLS_PORT = 15443
SCRAPE_PORT = 15020
HTTP_PORT = 8080
DB_PORT = 5432
TO_API_PORT = 9001
TO_DB_PORT = 9002
TO_WEB_PORT = 9003
"""Where a host's own application finds others: plain ports of its Envoy."""
API_PORT = 8443
GATE_PORT = 2390
GATEWAY_PORT = 15444

BLOCKS = tuple(range(10, 250, 20))
"""First free one: a cluster takes 127.0.0.<block + 1> to <block + 19>."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host that runs one service."""

    name: str
    service: str
    address: str
    calls: tuple[tuple[str, int], ...] = ()
    """Service and local port under which this host's application reaches it."""

    @property
    def identity(self) -> str:
        return f"{NAMESPACE}/{self.service}"

    @property
    def port(self) -> int:
        return DB_PORT if self.service == "db" else HTTP_PORT

    @property
    def protocol(self) -> str:
        return "tcp" if self.service == "db" else "http"


@dataclass(frozen=True, slots=True)
class Plane:
    """A control-plane node, with its store gate beside it."""

    name: str
    gate: str
    """Name of the gate's host; empty: there is none beside this one."""
    address: str

    @property
    def url(self) -> str:
        return f"https://{place(self.address, API_PORT)}"

    @property
    def gate_address(self) -> str:
        return place(self.address, GATE_PORT)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A host through which other clusters reach this one."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Topology:
    hosts: tuple[Host, ...]
    planes: tuple[Plane, ...]
    gateways: tuple[Gateway, ...] = ()

    def host(self, name: str) -> Host:
        return next(h for h in self.hosts if h.name == name)

    @property
    def gated(self) -> tuple[Plane, ...]:
        """Those with a store gate."""
        return tuple(p for p in self.planes if p.gate)

    @property
    def apis(self) -> tuple[Host, ...]:
        return tuple(h for h in self.hosts if h.service == "api")


@dataclass(frozen=True, slots=True)
class Plan:
    """One cluster: who is where, and what each is told."""

    topology: Topology
    objects: tuple[dict[str, Any], ...]
    definitions: Mapping[str, dict[str, Any]]
    """Host -> services.d/<service>.yaml."""
    applications: Mapping[str, tuple[str, ...]]
    """Host -> arguments of its application."""
    cluster: str = CLUSTER
    trust_domain: str = TRUST_DOMAIN
    etcd_members: int = 3
    plane_settings: Mapping[str, Any] = field(default_factory=dict)
    """Of every control-plane node, besides what follows from the topology."""
    agent_settings: Mapping[str, Any] = field(default_factory=dict)
    """Of every agent, likewise."""


def plan(block: int) -> Plan:
    """The demo of one cluster."""
    found = topology(block)
    return Plan(
        topology=found,
        objects=tuple(objects()),
        definitions={host.name: service_definition(host) for host in found.hosts},
        applications={host.name: application(host) for host in found.hosts},
    )


def application(host: Host) -> tuple[str, ...]:
    """Arguments of a host's application."""
    found: tuple[str, ...] = (host.service, "--name", host.name, "--listen", f"{host.address}:{host.port}")
    if host.service == "web":
        ports = dict(host.calls)
        found += ("--api", f"{host.address}:{ports['api']}", "--db", f"{host.address}:{ports['db']}")
    return found


def topology(block: int) -> Topology:
    """The demo on 127.0.0.<block + …>."""

    def address(number: int) -> str:
        return f"127.0.0.{block + number}"

    to_api, to_db, to_web = ("api", TO_API_PORT), ("db", TO_DB_PORT), ("web", TO_WEB_PORT)
    hosts = (
        Host("web-1", "web", address(1), (to_api, to_db)),
        Host("api-1", "api", address(2), (to_web,)),
        Host("api-2", "api", address(3), (to_web,)),
        Host("api-3", "api", address(4), (to_web,)),
        Host("db-1", "db", address(5), (to_api,)),
    )
    planes = tuple(Plane(f"cp-{n}", f"gate-{n}", address(10 + n)) for n in (1, 2))
    return Topology(hosts, planes)


def bound(found: Topology) -> list[tuple[str, int]]:
    """Every address and port that the demo listens on, but for etcd's and OpenBao's."""
    places = [(h.address, p) for h in found.hosts for p in (MTLS_PORT, SCRAPE_PORT, h.port, *(c[1] for c in h.calls))]
    places += [(g.address, port) for g in found.gateways for port in (GATEWAY_PORT, MTLS_PORT, SCRAPE_PORT)]
    return places + [(p.address, port) for p in found.planes for port in (API_PORT, GATE_PORT, MTLS_PORT, SCRAPE_PORT)]


def service_definition(host: Host, *, unhealthy_after: int = 2) -> dict[str, Any]:
    """services.d/<service>.yaml of a host."""
    check: dict[str, Any] = {"type": "tcp"} if host.service == "db" else {"type": "http", "path": "/healthz"}
    return {
        "name": host.service,
        "namespace": NAMESPACE,
        "labels": {"app": host.service, "instance": host.name},
        "ports": [{"port": host.port, "name": host.protocol, "protocol": host.protocol, "address": host.address}],
        "health": {**check, "intervalSeconds": 1.0, "unhealthyThreshold": unhealthy_after},
        "upstreams": [
            {"service": service, "port": service_port(service), "listen": f"{host.address}:{port}"}
            for service, port in host.calls
        ],
    }


def service_port(service: str) -> int:
    """The port under which callers know a service."""
    return DB_PORT if service == "db" else 80


def sni(service: str) -> str:
    return f"{service_port(service)}.{service}.{NAMESPACE}.{CLUSTER}.mesh"


def spiffe_id(service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{service}"


def agent_settings(host: str, address: str, home: str, found: Topology, envoy: str) -> dict[str, Any]:
    """agent.yaml of a host whose files are under `home`. It joins by itself with the token put there."""
    return {
        "node": host,
        "address": address,
        "dataDir": f"{home}/data",
        "runDir": f"{home}/run",
        "servicesDir": f"{home}/services.d",
        "controlplanes": [p.url for p in found.planes],
        "gates": [p.gate_address for p in found.gated],
        "mtlsPort": MTLS_PORT,
        "scrape": place(address, SCRAPE_PORT),
        "tokenFile": f"{home}/token",
        "accessLog": f"{home}/access.log",
        "envoy": {"command": envoy, "concurrency": 1, "drainSeconds": 5, "parentShutdownSeconds": 8},
        "logLevel": "info",
    }


def objects() -> list[dict[str, Any]]:
    """The namespace, its services, and who may call whom."""

    def service(name: str) -> dict[str, Any]:
        target = "tcp" if name == "db" else "http"
        port = {"port": service_port(name), "name": target, "protocol": target, "targetPort": target}
        return resource("Service", name, {"ports": [port], "serviceAccounts": [name]})

    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        service("web"),
        service("api"),
        service("db"),
        allow("web-to-api", "api", "web"),
        allow("web-to-db", "db", "web"),
    ]


def allow(name: str, target: str, *callers: str) -> dict[str, Any]:
    """A policy that lets these service accounts call a service."""
    rule = {"name": "callers", "from": [{"principals": [f"{NAMESPACE}/{caller}" for caller in callers]}]}
    return resource("AuthorizationPolicy", name, {"target": {"service": target}, "action": "Allow", "rules": [rule]})


def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }
