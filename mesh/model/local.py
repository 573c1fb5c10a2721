"""What a host says of itself: its services, as defined in services.d/*.yaml, and what its agent holds for them."""

import ipaddress
from collections.abc import Iterator
from typing import Literal

from mesh.model.base import Frozen, Metadata, ServiceRef, Violation
from mesh.model.checks import (
    MAX_INSTANCE_NAME,
    address_fault,
    at,
    label_fault,
    labels_faults,
    number_fault,
    port_fault,
    repeated,
    shown,
)
from mesh.model.instance import MTLS_PORT, Instance, InstancePort, InstanceSpec
from mesh.model.service import Protocol


class HealthCheck(Frozen, frozen=True, kw_only=True):
    type: Literal["tcp", "http", "grpc"] = "tcp"
    port: int | str = 0
    """Number or name of one of the service's ports; 0: the first."""
    path: str = "/"
    """For http: a 2xx answer is healthy."""
    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0
    healthy_threshold: int = 1
    unhealthy_threshold: int = 2

    def check(self, where: str, ports: "tuple[LocalPort, ...]") -> Iterator[Violation]:
        if self.port and self.port not in {p.name for p in ports} | {p.port for p in ports}:
            yield Violation(path=f"{where}.port", reason=f"{shown(self.port)} is none of the service's ports")
        if not ports:
            yield Violation(path=where, reason="a service without ports cannot be checked")
        if not self.path.startswith("/") or not self.path.isprintable() or " " in self.path:
            yield Violation(path=f"{where}.path", reason=f"{shown(self.path)} is not a path: it starts with '/'")
        yield from at(f"{where}.intervalSeconds", number_fault(self.interval_seconds, 0.1, 3600))
        yield from at(f"{where}.timeoutSeconds", number_fault(self.timeout_seconds, 0.05, 600))
        yield from at(f"{where}.healthyThreshold", number_fault(self.healthy_threshold, 1, 100))
        yield from at(f"{where}.unhealthyThreshold", number_fault(self.unhealthy_threshold, 1, 100))


class LocalPort(Frozen, frozen=True, kw_only=True):
    port: int
    name: str = ""
    protocol: Protocol = "tcp"
    address: str = "127.0.0.1"
    """Where the application listens on this host."""


class Upstream(Frozen, frozen=True, kw_only=True):
    """A Service that this one calls, given to it as a plain port on loopback."""

    service: str
    port: int
    """Port of that Service."""
    listen: str
    """`<loopback address>:<port>`, or `unix:<absolute path>`."""
    namespace: str = ""
    """Empty: the caller's own."""

    def check(self, where: str) -> Iterator[Violation]:
        yield from at(f"{where}.service", label_fault(self.service))
        yield from at(f"{where}.port", port_fault(self.port))
        if self.namespace:
            yield from at(f"{where}.namespace", label_fault(self.namespace))
        yield from at(f"{where}.listen", listen_fault(self.listen))


class ServiceDefinition(Frozen, frozen=True, kw_only=True):
    """One local service: one file, one identity, one instance."""

    name: str
    namespace: str = "default"
    service_account: str = ""
    """Empty: the service's name."""
    labels: dict[str, str] = {}
    ports: tuple[LocalPort, ...] = ()
    health: HealthCheck | None = None
    upstreams: tuple[Upstream, ...] = ()
    instance: str = ""
    """Name of the instance; empty: `<name>-<node>`."""

    def check(self) -> Iterator[Violation]:
        """All faults that types cannot express."""
        yield from at("name", label_fault(self.name))
        yield from at("namespace", label_fault(self.namespace))
        if self.service_account:
            yield from at("serviceAccount", label_fault(self.service_account))
        if self.instance:
            yield from at("instance", label_fault(self.instance, MAX_INSTANCE_NAME))
        yield from labels_faults("labels", self.labels)
        for index, port in enumerate(self.ports):
            where = f"ports[{index}]"
            yield from at(f"{where}.port", port_fault(port.port))
            yield from at(f"{where}.address", address_fault(port.address))
            if port.name:
                yield from at(f"{where}.name", label_fault(port.name))
        yield from repeated("ports", ".port", (p.port for p in self.ports))
        yield from repeated("ports", ".name", (p.name for p in self.ports))
        if self.health:
            yield from self.health.check("health", self.ports)
        for index, upstream in enumerate(self.upstreams):
            yield from upstream.check(f"upstreams[{index}]")
        yield from repeated("upstreams", ".listen", (u.listen for u in self.upstreams))

    @property
    def account(self) -> str:
        return self.service_account or self.name

    @property
    def identity(self) -> str:
        """As in Node.spec.identities: `<namespace>/<service-account>`."""
        return f"{self.namespace}/{self.account}"

    @property
    def wants(self) -> tuple[ServiceRef, ...]:
        return tuple(ServiceRef(u.namespace or self.namespace, u.service) for u in self.upstreams)

    def instance_on(
        self, node: str, address: str, health: str = "unhealthy", mtls_port: int = MTLS_PORT, locality: str = ""
    ) -> Instance:
        """The record to register for this definition on this node."""
        return Instance(
            metadata=Metadata(
                name=self.instance or f"{self.name}-{node}", namespace=self.namespace, labels=self.labels
            ),
            spec=InstanceSpec(
                node=node,
                service=self.name,
                service_account=self.account,
                address=address,
                mtls_port=mtls_port,
                ports=tuple(InstancePort(port=p.port, name=p.name, protocol=p.protocol) for p in self.ports),
                health=health,  # type: ignore[arg-type]
                locality=locality,
            ),
        )


MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (sockaddr_un)."""


def listen_fault(text: str) -> str:
    """Is it `<loopback address>:<port>`, or `unix:<absolute path>`?"""
    wanted = "is not <loopback address>:<port> or unix:<absolute path>"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        fine = path.startswith("/") and path.isprintable() and ".." not in path.split("/")
        if len(path.encode("utf-8", "surrogatepass")) > MAX_SOCKET_PATH:
            return f"{shown(text)}: the path of a socket has at most {MAX_SOCKET_PATH} bytes"
        return "" if fine else f"{shown(text)} {wanted}"
    host, _, port = text.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return f"{shown(text)} {wanted}"
    if not loopback:
        return f"{shown(text)}: only loopback addresses are taken, since whoever reaches it calls as this service"
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and not port_fault(int(port))):
        return f"{shown(text)} {wanted}"
    return ""


class GateSpec(Frozen, frozen=True, kw_only=True):
    """Role gate: this host's Envoy also stands in front of etcd."""

    listen: str
    """`<address>:<port>` where agents connect."""
    etcd: tuple[str, ...]
    """`<address>:<port>` of the members."""
    etcd_ca: str
    """Files: etcd's own CA, and the certificate and key of its read-only user."""
    etcd_cert: str
    etcd_key: str
    etcd_server_name: str = "etcd"
    """A DNS name in every member's certificate."""


class Identity(Frozen, frozen=True, kw_only=True):
    """What an agent holds for one service account (or, for a gate, its node). Never leaves the host."""

    spiffe_id: str
    chain_pem: str
    """Leaf first, then the intermediate."""
    key_pem: str
    not_before: float
    not_after: float
    """Unix seconds."""


class NodeLocal(Frozen, frozen=True, kw_only=True):
    """The host's own part of what compile needs."""

    node: str
    address: str
    trust_domain: str
    cluster: str
    definitions: tuple[ServiceDefinition, ...] = ()
    identities: dict[str, Identity] = {}
    """`<namespace>/<service-account>` -> what is held; a gate's own under `gate`. Absent: not issued yet."""
    bundle_roots: tuple[str, ...] = ()
    """PEM, from join or disk: used while the world holds no bundle of our trust domain."""
    mtls_port: int = MTLS_PORT
    gate: GateSpec | None = None
    trust_file: str = "/etc/ssl/certs/ca-certificates.crt"
    """The roots that the host itself trusts, for servers outside of the mesh."""
    access_log: str = "/dev/stdout"
    locality: str = ""
    """`region[/zone[/subzone]]`; empty: not known."""
