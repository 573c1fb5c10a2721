"""Instance: one running copy of a service on a host. Endpoint: an instance as one Service sees it."""

from typing import Literal

from mesh.model.base import Frozen, Object
from mesh.model.service import Protocol, Service

Health = Literal["healthy", "unhealthy", "draining", "lost"]
"""healthy and unhealthy by the agent's checks; draining by the operator or a stop; lost by the leader alone."""

MTLS_PORT = 15443
"""The one inbound port of every host."""


class InstancePort(Frozen, frozen=True, kw_only=True):
    port: int
    """Where the local application listens."""
    name: str = ""
    protocol: Protocol = "tcp"


class InstanceSpec(Frozen, frozen=True, kw_only=True):
    node: str
    service: str
    """Name in the host's own definition; a Service without selector takes the instances of its name."""
    service_account: str
    address: str
    """Must be its node's."""
    mtls_port: int = MTLS_PORT
    ports: tuple[InstancePort, ...] = ()
    health: Health = "unhealthy"


class Instance(Object, frozen=True, kw_only=True):
    """Private record; its name is `<service>-<node>` unless the host's definition names it."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["Instance"] = "Instance"
    spec: InstanceSpec


class EndpointSpec(Frozen, frozen=True, kw_only=True):
    service: str
    node: str
    address: str
    port: int = MTLS_PORT
    """The host's inbound mTLS port; the SNI chooses the service and its port."""
    service_account: str
    ports: tuple[int, ...] = ()
    """Those Service ports for which the instance has a target."""
    health: Health = "unhealthy"
    weight: int = 1
    locality: str = ""


class Endpoint(Object, frozen=True, kw_only=True):
    """In the namespace of its Service, named as its Instance. metadata.labels are the instance's."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["Endpoint"] = "Endpoint"
    spec: EndpointSpec


def selects(service: Service, instance: Instance) -> bool:
    """Does this Service stand for this instance? Same namespace; then by labels, or by name."""
    if service.metadata.namespace != instance.metadata.namespace:
        return False
    if service.spec.selector:
        return service.spec.selector.items() <= instance.metadata.labels.items()
    return instance.spec.service == service.metadata.name


def target_port(service: Service, port: int, instance: Instance) -> InstancePort | None:
    """The instance's port behind a Service's port, or None if it has none."""
    for declared in service.spec.ports:
        if declared.port != port:
            continue
        wanted = declared.target_port or declared.port
        for have in instance.spec.ports:
            if (have.name if isinstance(wanted, str) else have.port) == wanted:
                return have
        if not declared.target_port:
            # A Service port without target: an instance with exactly one port, or one of the same name, is meant.
            named = [have for have in instance.spec.ports if have.name and have.name == declared.name]
            if named or len(instance.spec.ports) == 1:
                return (named or list(instance.spec.ports))[0]
    return None
