"""Two clusters' objects for tests."""

import msgspec

from mesh.model import (
    Endpoint,
    EndpointSpec,
    ExportPolicy,
    ExportPolicySpec,
    Metadata,
    Peering,
    PeeringSpec,
    Service,
    ServicePort,
    ServiceRef,
    ServiceSpec,
)
from multicluster import exports, imports

EAST = imports.Peer("east", "east.test", 100)


def service(name="api", namespace="shop", labels=None, **spec):
    spec = {"ports": (ServicePort(port=80, name="http", protocol="http"),), "service_accounts": (name,), **spec}
    return Service(metadata=Metadata(name=name, namespace=namespace, labels=labels or {}), spec=ServiceSpec(**spec))


def endpoint(name, service="api", namespace="shop", **spec):
    spec = {
        "node": name,
        "address": "10.0.0.1",
        "service_account": service,
        "ports": (80,),
        "health": "healthy",
        **spec,
    }
    return Endpoint(metadata=Metadata(name=name, namespace=namespace), spec=EndpointSpec(service=service, **spec))


def gateway(name, **spec):
    spec = {"service_account": "gateway", "port": 15444, "ports": (15444,), **spec}
    return endpoint(name, "gateway", "holdfast-system", **spec)


def policy(*services, to=("*",), namespace="shop", selector=None):
    return ExportPolicy(
        metadata=Metadata(name="p", namespace=namespace),
        spec=ExportPolicySpec(services=services or ("*",), to=to, selector=selector or {}),
    )


def peering(name="west", **spec):
    return Peering(metadata=Metadata(name=name), spec=PeeringSpec(trust_domain=f"{name}.test", **spec))


class Cluster:
    """exports.Local over plain lists."""

    def __init__(self, services=(), endpoints=(), policies=()):
        self._services = {s.service: s for s in services}
        self._endpoints, self._policies = tuple(endpoints), tuple(policies)

    def services(self):
        return self._services.values()

    def service(self, ref):
        return self._services.get(ref)

    def endpoints(self, ref):
        return [e for e in self._endpoints if e.service == ref]

    def policies(self):
        return self._policies


def items(cluster, peer=None):
    """All that is offered: item's key -> value as plain data."""
    chosen = exports.select(cluster, peer or peering())
    return {key: msgspec.json.decode(value) for part in chosen.values() for key, value in part.items()}


API = ServiceRef("shop", "api")
