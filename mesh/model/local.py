"""What a host says of itself: its services, as defined in services.d/*.yaml, and what its agent holds for them."""

import ipaddress
import re
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
from mesh.model.gateway import GatewaySpec
from mesh.model.instance import MTLS_PORT, Instance, InstancePort, InstanceSpec
from mesh.model.service import Protocol

MAX_WORDS, MAX_WORD = 64, 4096
"""Of a command."""


class HealthCheck(Frozen, frozen=True, kw_only=True):
    type: Literal["tcp", "http", "grpc", "script"] = "tcp"
    port: int | str = 0
    """Number or name of one of the service's ports; 0: the first."""
    path: str = "/"
    """For http: a 2xx answer is healthy."""
    command: tuple[str, ...] = ()
    """For script: a program by its absolute path, and its arguments; status 0 is healthy."""
    user: str = ""
    """For script: who runs it, by name. Empty: the agent's user."""
    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0
    healthy_threshold: int = 1
    unhealthy_threshold: int = 2

    def check(self, where: str, ports: "tuple[LocalPort, ...]") -> Iterator[Violation]:
        if self.port and self.port not in {p.name for p in ports} | {p.port for p in ports}:
            yield Violation(path=f"{where}.port", reason=f"{shown(self.port)} is none of the service's ports")
        if not ports and self.type != "script":
            yield Violation(path=where, reason="a service without ports can be checked by a script alone")
        if self.command and self.type != "script":
            yield Violation(path=f"{where}.command", reason=f"is for type script, and this is {self.type}")
        if self.user and self.type != "script":
            yield Violation(path=f"{where}.user", reason=f"is for type script, and this is {self.type}")
        elif self.user == "root":
            yield Violation(path=f"{where}.user", reason="a check does not need root: give it a user of its own")
        elif self.user and not _USER.match(self.user):
            yield Violation(path=f"{where}.user", reason=f"{shown(self.user)} is not a user's name")
        if self.type == "script" and not (self.command and self.command[0].startswith("/")):
            yield Violation(path=f"{where}.command", reason="is a program by its absolute path, and its arguments")
        if any("\0" in word or len(word) > MAX_WORD for word in self.command) or len(self.command) > MAX_WORDS:
            yield Violation(path=f"{where}.command", reason=f"at most {MAX_WORDS} words of {MAX_WORD} characters")
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
    """A Service that this one calls: by its name, or on a plain port or socket that it is given."""

    service: str
    """Its name; of another cluster's, `<service>.<namespace>.<cluster>`, or `<service>.<cluster>`."""
    port: int
    """Port of that Service."""
    listen: str = ""
    """`<loopback address>:<port>`, or `unix:<absolute path>`. Empty: it is called by name, as
    `<service>.<namespace>.mesh:<port>`, by the processes that `callers` names."""
    mode: str = ""
    """Of a unix socket, in octal: who may connect. Empty: 0660. Its folder says whose group that is."""
    namespace: str = ""
    """Empty: the caller's own."""

    def called(self, own: str) -> ServiceRef:
        """What is called, by a service of this namespace."""
        match self.service.split("."):
            case [service, namespace, cluster]:
                return ServiceRef(namespace, f"{service}.{cluster}")
        return ServiceRef(self.namespace or own, self.service)

    def check(self, where: str) -> Iterator[Violation]:
        parts = self.service.split(".")
        faults = (label_fault(part) for part in parts) if len(parts) <= 3 else (label_fault(self.service),)
        yield from at(f"{where}.service", next((fault for fault in faults if fault), ""))
        yield from at(f"{where}.port", port_fault(self.port))
        if self.namespace:
            yield from at(f"{where}.namespace", label_fault(self.namespace))
        if self.namespace and len(parts) == 3 and parts[1] != self.namespace:
            yield Violation(path=f"{where}.namespace", reason=f"{shown(self.service)} says another: leave it out")
        if self.listen:
            yield from at(f"{where}.listen", listen_fault(self.listen))
        if self.mode:
            yield from at(f"{where}.mode", _mode_fault(self.mode, self.listen))


MAX_CALLERS = 64

UNCAPTURED_USERS = frozenset({"root", "holdfast", "holdfast-envoy"})
"""What they connect to is the host's own, or the mesh's: to redirect it could cut off either."""


class Callers(Frozen, frozen=True, kw_only=True):
    """The local processes whose calls by name are this service's. Whoever is not named is refused."""

    users: tuple[str, ...] = ()
    """By name."""
    units: tuple[str, ...] = ()
    """Of systemd: `web.service`. It comes before the user that the unit runs as."""

    def check(self, where: str) -> Iterator[Violation]:
        for field, values, fault in (("users", self.users, _user_fault), ("units", self.units, _unit_fault)):
            for index, value in enumerate(values):
                yield from at(f"{where}.{field}[{index}]", fault(value))
            yield from repeated(f"{where}.{field}", "", values)
            if len(values) > MAX_CALLERS:
                yield Violation(path=f"{where}.{field}", reason=f"more than {MAX_CALLERS}")


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
    callers: Callers = Callers()
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
            if not upstream.listen and not self.called_by:
                reason = "without it the Service is called by name: say in callers.users or callers.units who calls"
                yield Violation(path=f"upstreams[{index}].listen", reason=reason)
        yield from _repeated_places(self)
        yield from self.callers.check("callers")

    @property
    def called_by(self) -> bool:
        """Are local processes named whose calls are this service's?"""
        return bool(self.callers.users or self.callers.units)

    @property
    def account(self) -> str:
        return self.service_account or self.name

    @property
    def identity(self) -> str:
        """As in Node.spec.identities: `<namespace>/<service-account>`."""
        return f"{self.namespace}/{self.account}"

    @property
    def wants(self) -> tuple[ServiceRef, ...]:
        return tuple(u.called(self.namespace) for u in self.upstreams)

    def instance_name(self, node: str) -> str:
        return self.instance or f"{self.name}-{node}"

    def instance_on(
        self, node: str, address: str, health: str = "unhealthy", mtls_port: int = MTLS_PORT, locality: str = ""
    ) -> Instance:
        """The record to register for this definition on this node."""
        return Instance(
            metadata=Metadata(name=self.instance_name(node), namespace=self.namespace, labels=self.labels),
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


def _repeated_places(definition: ServiceDefinition) -> Iterator[Violation]:
    """Two upstreams at one place: whose is it?"""
    seen: set[object] = set()
    for index, upstream in enumerate(definition.upstreams):
        place: object = upstream.listen or (*upstream.called(definition.namespace), upstream.port)
        if place in seen:
            what = shown(upstream.listen) if upstream.listen else f"port {upstream.port} of that Service, by name,"
            yield Violation(path=f"upstreams[{index}].listen", reason=f"{what} is there twice")
        seen.add(place)


_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.(service|scope|slice)\Z")


def _user_fault(text: str) -> str:
    """Is it a user whose connections may be redirected?"""
    if text in UNCAPTURED_USERS:
        return f"{shown(text)}: what it connects to is never redirected; give the service a user, or name its unit"
    return "" if _USER.match(text) else f"{shown(text)} is not a user's name"


UNCAPTURED_UNITS = frozenset(
    {"holdfast-agent.service", "holdfast-envoy.service", "holdfast-host.service"}
    | {"system.slice", "-.slice", "init.scope"}
)
"""The mesh's own, and what holds them: redirected, the proxy's own connections would come back to it."""


def _unit_fault(text: str) -> str:
    if text in UNCAPTURED_UNITS:
        return f"{shown(text)} is the mesh's own unit, or holds it; name the service's own"
    return "" if _UNIT.match(text) else f"{shown(text)} is not a unit of systemd: <name>.service, .scope or .slice"


def _mode_fault(text: str, listen: str) -> str:
    if not listen.startswith("unix:"):
        return "only a unix socket has a mode"
    if re.match(r"0?[0-7]{3}\Z", text) and not int(text, 8) & 0o111:
        return ""
    return f"{shown(text)} is not a socket's mode, such as 0660"


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
    bind: str = ""
    """Where its Envoy listens for other hosts; empty: at `address`. `::` is for IPv4, too."""
    gate: GateSpec | None = None
    gateway: GatewaySpec | None = None
    trust_file: str = "/etc/ssl/certs/ca-certificates.crt"
    """The roots that the host itself trusts, for servers outside of the mesh; empty: it has none."""
    access_log: str = "/dev/stdout"
    locality: str = ""
    """`region[/zone[/subzone]]`; empty: not known."""
    virtual: dict[str, str] = {}
    """`<namespace>/<service>` -> the virtual address at which it is called by name here."""
    capture_ports: dict[str, int] = {}
    """`<namespace>/<service-account>` -> the port on loopback at which its listener takes what is redirected."""
    capture_outbound: bool = False
    """Connections of `callers` to other than virtual addresses are redirected, too."""
    capture_ipv6: bool = False
    """So are those to addresses of IPv6: its listeners are on ::1 besides."""
