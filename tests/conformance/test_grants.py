"""ReferenceGrant through whole hosts: routes of one namespace, Services of another."""

import pytest

from tests.conformance.expectations import CONSUMER, MESH
from tests.conformance.hosts import Callee
from tests.conformance.mesh import Mesh
from tests.conformance.shapes import call, connect, get, grant, route, service
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

KINDS = ("HTTPRoute", "GRPCRoute", "TCPRoute")
SERVICES = ("all", "http", "grpc", "others", "none")
"""Whose routes they let in."""

PARENTS = {"all": "echo", "http": "echo-v1", "others": "echo-v2"}
"""A TCPRoute has one rule, so for each of these there is one, on a parent of its own."""


def routes() -> str:
    """To each of the Services."""

    def backend(name: str, port: int) -> str:
        return f"backendRefs: [{{name: {name}, namespace: {CONSUMER}, port: {port}}}]"

    http = (f"  - {{matches: [{{path: {{value: /{name}}}}}], {backend(name, 80)}}}" for name in SERVICES)
    grpc = (f"  - {{matches: [{{method: {{service: {name}}}}}], {backend(name, 7070)}}}" for name in SERVICES)
    tcp = (
        route("TCPRoute", f"  - {backend(name, 9090)}", parents=f"{{group: '', kind: Service, name: {on}}}", name=name)
        for name, on in PARENTS.items()
    )
    return route("HTTPRoute", "\n".join(http)) + route("GRPCRoute", "\n".join(grpc)) + "".join(tcp)


def let_in(mesh: Mesh) -> dict[str, set[str]]:
    """Kind -> Services that its routes lead to."""
    answers = {
        "HTTPRoute": {name: get(mesh, f"/{name}").echoed for name in SERVICES},
        "GRPCRoute": {name: call(mesh, f"/{name}/Get").echoed for name in SERVICES},
        "TCPRoute": {name: connect(mesh, Callee(MESH, on, 9090)) for name, on in PARENTS.items()},
    }
    return {
        kind: {name for name, said in named.items() if said.get("namespace") == CONSUMER}
        for kind, named in answers.items()
    }


def test_a_grant_is_for_kinds_namespaces_and_names(mesh: Mesh):
    text = "".join(service(name) for name in SERVICES) + routes()
    for kind in KINDS:
        text += grant(kind, services="all", name=f"{kind.lower()}-to-all")
        text += grant(kind, services="others", name=f"{kind.lower()}-of-others", namespace="another")
    text += grant("HTTPRoute", services="http") + grant("GRPCRoute", services="grpc")
    with mesh.applied(text):
        wanted = {"HTTPRoute": {"all", "http"}, "GRPCRoute": {"all", "grpc"}, "TCPRoute": {"all"}}
        eventually(lambda: let_in(mesh) == wanted, what="those are let in that the grants name, and no others")


def test_a_grant_that_names_no_service_is_for_all(mesh: Mesh):
    with mesh.applied("".join(service(name) for name in SERVICES) + routes() + "".join(grant(k) for k in KINDS)):
        wanted = {"HTTPRoute": set(SERVICES), "GRPCRoute": set(SERVICES), "TCPRoute": set(PARENTS)}
        eventually(lambda: let_in(mesh) == wanted, what="all are let in")
