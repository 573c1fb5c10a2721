"""Service: a name that callers use, and who may stand behind it."""

from typing import Literal

from mesh.model.base import Frozen, Object, ServiceRef

Protocol = Literal["tcp", "http", "http2", "grpc"]


class ServicePort(Frozen, frozen=True, kw_only=True):
    port: int
    """The number callers know; also the first label of the SNI."""
    name: str = ""
    protocol: Protocol = "tcp"
    target_port: int | str = 0
    """Number or name of a port of the instance; 0 means the same number."""


class ServiceSpec(Frozen, frozen=True, kw_only=True):
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    """Labels an instance must have. Empty: the instances of its namespace whose own service name is this one's."""
    service_accounts: tuple[str, ...] = ()
    """Service accounts of its namespace: the only identities that may stand behind this name."""


class Service(Object, frozen=True, kw_only=True):
    api_version: str = "holdfast.dev/v1"
    kind: Literal["Service"] = "Service"
    spec: ServiceSpec = ServiceSpec()

    @property
    def service(self) -> ServiceRef:
        return ServiceRef(self.metadata.namespace, self.metadata.name)
