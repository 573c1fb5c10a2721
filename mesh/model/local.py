"""What a host says of itself: its services, as defined in services.d/*.yaml, and what its agent holds for them."""

from typing import Literal

from mesh.model.base import Frozen, Metadata, ServiceRef
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

    def instance_on(self, node: str, address: str, health: "str" = "unhealthy", mtls_port: int = MTLS_PORT) -> Instance:
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
            ),
        )


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
    access_log: str = "/dev/stdout"
