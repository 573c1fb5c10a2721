"""Documents for routes of the Service `echo`, and requests that they shape, for tests of single fields."""

from tests.conformance.expectations import CONSUMER, MESH
from tests.conformance.hosts import Callee
from tests.conformance.judge import Answer
from tests.conformance.mesh import Mesh

HTTP, GRPC, TCP = (Callee(MESH, "echo", port) for port in (80, 7070, 9090))
UNIMPLEMENTED, UNAVAILABLE = 12, 14
"""Statuses of gRPC."""

_KINDS = {"HTTPRoute": ("http", 80), "GRPCRoute": ("grpc", 7070), "TCPRoute": ("tcp", 9090)}


def route(kind: str, rules: str, *, parents: str = "", namespace: str = MESH, name: str = "fields") -> str:
    """A document; its parent is the port of `echo` for this kind, unless others are given."""
    section, port = _KINDS[kind]
    echo = f'{{group: "", kind: Service, namespace: {MESH}, name: echo, sectionName: {section}, port: {port}}}'
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{parents or echo}]
  rules:
{rules}
"""


def service(name: str) -> str:
    """One in the other namespace."""
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {CONSUMER}}}
spec:
  selector: {{app: echo, version: v1}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: grpc, port: 7070}}, {{name: tcp, port: 9090}}]
"""


def grant(kind: str, *, namespace: str = MESH, services: str = "", name: str = "") -> str:
    """To one Service of the other namespace, or to all of them."""
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: {name or kind.lower()}, namespace: {CONSUMER}}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {namespace}}}]
  to: [{{group: "", kind: Service{services and f", name: {services}"}}}]
"""


def elsewhere(kind: str) -> str:
    """A Service in the other namespace to which routes of this kind may send."""
    return service("elsewhere") + grant(kind, services="elsewhere")


def get(mesh: Mesh, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """`_` in the name of a header stands for `-`."""
    with mesh.hosts.caller(MESH).http(HTTP) as ask:
        return ask(method, path, _named(headers))


def call(mesh: Mesh, method: str = "/shop.Api/Get", to: Callee = GRPC, by: str = MESH, **metadata: str) -> Answer:
    with mesh.hosts.caller(by).grpc(to) as ask:
        return ask(method, _named(metadata))


def connect(mesh: Mesh, to: Callee = TCP, by: str = MESH) -> dict[str, str]:
    """Who answers; nothing if the connection was closed."""
    return mesh.hosts.caller(by).tcp(to)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
