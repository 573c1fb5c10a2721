"""Names of resources, and the one place that spells them. No text of an input gets into a name unchecked."""

import hashlib
import re
from collections.abc import Iterable

from mesh.model import ServiceDefinition, ServiceRef

INBOUND_LISTENER = "inbound"
GATE = "gate"
"""The gate's listener, route, and the identity under which its certificate is held."""

GATE_CLUSTER = "gate|etcd"
BUNDLE = "bundle"
"""Of all trust domains that are known here."""

GATEWAY = "gateway"
"""The listener of an east-west gateway."""

UNAVAILABLE = "unavailable"
"""A cluster without hosts: where connections go that have nowhere to go."""

DENIED_BY = "x-holdfast-denied-by"
LIMITED_BY = "x-holdfast-limited-by"
FAULT = "x-holdfast-fault"
UNREACHED = "x-holdfast-unreached"
"""Between proxies only: the application behind the answering proxy has not seen the request."""

BROKEN = "x-holdfast-broken"
"""Between proxies only: the application behind the answering proxy may have seen the request, and will never answer."""

RETRIED_FOR = (UNREACHED, BROKEN)
"""What callers' proxies try again for: from proxies of the mesh alone, and never seen by an application."""

RULE_KEY = "rule"
"""In the metadata of a request: which rule of a policy has been at work."""

_PLAIN = re.compile(r"[A-Za-z0-9._/:\[\]-]+\Z")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def sni(service: ServiceRef, port: int, cluster: str) -> str:
    """`cluster` is this one's; a peer's Service has its own."""
    return f"{port}.{service.short}.{service.namespace}.{service.peer or cluster}.mesh"


def secret(identity: str) -> str:
    """SDS secret of an identity, given as `<namespace>/<service-account>` or `gate`."""
    return f"identity|{identity}"


def bundle(domains: Iterable[str]) -> str:
    """SDS secret with the bundles of these trust domains alone."""
    return f"{BUNDLE}|{','.join(sorted(domains))}"


def load_assignment(service: ServiceRef, port: int, subset: str = "") -> str:
    return f"{port}|{_some(service, subset)}"


def passed_on(service: ServiceRef, port: int) -> str:
    """Cluster and load assignment of what a gateway passes on."""
    return f"gateway|{port}|{service}"


def divided(identity: str, service: ServiceRef, port: int) -> str:
    """The load assignment of a TCP Service whose connections are shared out, as this identity calls it."""
    return f"divided|{port}|{service}|{identity}"


def inbound_route(service: ServiceRef, port: int) -> str:
    return f"inbound|{port}|{service}"


def external(identity: str, service: ServiceRef, port: int) -> str:
    """The cluster of an ExternalService, as this identity calls it."""
    return f"external|{port}|{service}|{identity}"


def outbound(identity: str, service: ServiceRef, port: int, subset: str = "") -> str:
    """Cluster and route of an upstream, as this identity calls it."""
    return f"outbound|{port}|{_some(service, subset)}|{identity}"


def _some(service: ServiceRef, subset: str) -> str:
    return f"{service}/{subset}" if subset else str(service)


def outbound_listener(identity: str, listen: str) -> str:
    return f"outbound|{identity}|{shown(listen)}"


def capture_listener(identity: str) -> str:
    """Takes what is redirected of this identity's callers."""
    return f"capture|{identity}"


PASSTHROUGH = "passthrough"
"""The cluster of captured connections that go on to where they were made to; and the chain of all of them."""


def called_by_name(service: ServiceRef, cluster: str) -> tuple[str, ...]:
    """What applications call a Service. One of this cluster has two names, and both are one address."""
    if service.peer:
        return (f"{service}.mesh",)
    return f"{service}.mesh", f"{service}.{cluster}.mesh"


def local_cluster(service: ServiceRef, port: int) -> str:
    """The application behind a Service's port on this host."""
    return f"local|{port}|{service}"


def shown(listen: str) -> str:
    """A listener's place as part of a name; a path of unusual characters by its hash."""
    if _PLAIN.match(listen):
        return listen
    return "unix:#" + hashlib.sha256(listen.encode()).hexdigest()[:16]


def safe(text: str) -> str:
    """A name from the store as part of a rule's name, in logs and headers."""
    return _UNSAFE.sub("_", text[:128]) or "_"


def defined(definition: ServiceDefinition) -> str:
    """A host's own definition, as the path of a problem."""
    return f"services[{safe(definition.namespace)}/{safe(definition.name)}]"
