"""Instance: one running copy of a service on a host. Endpoint: an instance as one Service sees it."""

from collections.abc import Iterator, Mapping
from typing import Literal

from mesh.model.base import Frozen, Object, Ref, ServiceRef, Violation
from mesh.model.checks import (
    MAX_INSTANCE_NAME,
    address_fault,
    at,
    label_fault,
    locality_fault,
    number_fault,
    port_fault,
    repeated,
)
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
    locality: str = ""
    """`region[/zone[/subzone]]`, in the host's own word; its Node's comes first."""


class Instance(Object, frozen=True, kw_only=True):
    """Private record; its name is `<service>-<node>` unless the host's definition names it."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["Instance"] = "Instance"
    spec: InstanceSpec

    def name_fault(self) -> str:
        return label_fault(self.metadata.name, MAX_INSTANCE_NAME)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        spec = self.spec
        yield from at("spec.node", label_fault(spec.node))
        yield from at("spec.service", label_fault(spec.service))
        yield from at("spec.serviceAccount", label_fault(spec.service_account))
        yield from at("spec.address", address_fault(spec.address))
        yield from at("spec.mtlsPort", port_fault(spec.mtls_port))
        if spec.locality:
            yield from at("spec.locality", locality_fault(spec.locality))
        for index, port in enumerate(spec.ports):
            yield from at(f"spec.ports[{index}].port", port_fault(port.port))
            if port.name:
                yield from at(f"spec.ports[{index}].name", label_fault(port.name))
        yield from repeated("spec.ports", ".port", (p.port for p in spec.ports))
        yield from repeated("spec.ports", ".name", (p.name for p in spec.ports))


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

    @property
    def service(self) -> ServiceRef:
        return ServiceRef(self.metadata.namespace, self.spec.service)

    def name_fault(self) -> str:
        return label_fault(self.metadata.name, MAX_INSTANCE_NAME)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        spec = self.spec
        yield from at("spec.service", label_fault(spec.service))
        yield from at("spec.node", label_fault(spec.node))
        yield from at("spec.serviceAccount", label_fault(spec.service_account))
        yield from at("spec.address", address_fault(spec.address))
        yield from at("spec.port", port_fault(spec.port))
        yield from at("spec.weight", number_fault(spec.weight, 1, 1_000_000))
        if spec.locality:
            yield from at("spec.locality", locality_fault(spec.locality))
        for index, port in enumerate(spec.ports):
            yield from at(f"spec.ports[{index}]", port_fault(port))


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
