"""Service: a name that callers use, and who may stand behind it."""

from collections.abc import Iterator, Mapping
from typing import Literal

from mesh.model.base import Frozen, Object, Ref, ServiceRef, Violation
from mesh.model.checks import at, label_fault, labels_faults, port_fault, repeated

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
    clusters: tuple[str, ...] = ()
    """Peers whose exported Service of the same namespace and name stands behind this name, too; `*`: all of them."""


class Service(Object, frozen=True, kw_only=True):
    api_version: str = "holdfast.dev/v1"
    kind: Literal["Service"] = "Service"
    spec: ServiceSpec = ServiceSpec()

    @property
    def service(self) -> ServiceRef:
        return ServiceRef(self.metadata.namespace, self.metadata.name)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        if self.service == ("holdfast-system", "gateway"):
            yield Violation(path="metadata.name", reason="is the gateways' own, which is there without being written")
        ports = self.spec.ports
        for index, port in enumerate(ports):
            where = f"spec.ports[{index}]"
            yield from at(f"{where}.port", port_fault(port.port))
            if port.name:
                yield from at(f"{where}.name", label_fault(port.name))
            if isinstance(port.target_port, str):
                yield from at(f"{where}.targetPort", label_fault(port.target_port))
            elif port.target_port:
                yield from at(f"{where}.targetPort", port_fault(port.target_port))
        if not ports:
            yield Violation(path="spec.ports", reason="at least one port is needed: it is what callers dial")
        yield from repeated("spec.ports", ".port", (p.port for p in ports))
        yield from repeated("spec.ports", ".name", (p.name for p in ports))
        yield from labels_faults("spec.selector", self.spec.selector)
        for index, account in enumerate(self.spec.service_accounts):
            yield from at(f"spec.serviceAccounts[{index}]", label_fault(account))
        yield from repeated("spec.serviceAccounts", "", self.spec.service_accounts)
        for index, peer in enumerate(self.spec.clusters):
            if peer != "*":
                yield from at(f"spec.clusters[{index}]", label_fault(peer))
        yield from repeated("spec.clusters", "", self.spec.clusters)
