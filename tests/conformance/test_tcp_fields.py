"""TCPRoute through whole hosts."""

from collections import Counter

import pytest

from tests.conformance.expectations import CONSUMER, MESH
from tests.conformance.hosts import Callee
from tests.conformance.mesh import Mesh
from tests.conformance.shapes import connect, elsewhere, route
from tests.support.waiting import eventually

pytestmark = pytest.mark.real


def test_connections_are_shared_out(mesh: Mesh):
    shares = "[{name: echo-v1, port: 9090, weight: 3}, {name: echo-v2, port: 9090, weight: 1}]"
    with mesh.applied(route("TCPRoute", f"  - {{name: split, backendRefs: {shares}}}")):
        counts = Counter(connect(mesh).get("deployment") for _ in range(200))
    assert counts.keys() == {"echo-v1", "echo-v2"}
    assert 120 <= counts["echo-v1"] <= 180


@pytest.mark.parametrize(("port", "section", "counts"), [(9090, "tcp", True), (443, "https", False)])
def test_a_parent_is_a_service_or_one_port_of_it(mesh: Mesh, port: int, section: str, counts: bool):
    """Nothing can be sent to the backend, so that where the route counts connections are closed."""
    parents = f"""
    {{group: "", kind: Service, name: echo}},
    {{group: "", kind: Service, name: echo-v1, port: {port}}},
    {{group: "", kind: Service, name: echo-v2, sectionName: {section}}}
"""
    with mesh.applied(route("TCPRoute", "  - backendRefs: [{name: gone, port: 9090}]", parents=parents)):
        closed = {name: not connect(mesh, Callee(MESH, name, 9090)) for name in ("echo", "echo-v1", "echo-v2")}
    assert closed == {"echo": True, "echo-v1": counts, "echo-v2": counts}


def test_a_consumers_route_is_for_callers_of_its_namespace(mesh: Mesh):
    rules = f"  - backendRefs: [{{name: echo-v1, namespace: {MESH}, port: 9090}}]"
    parent = f'{{group: "", kind: Service, namespace: {MESH}, name: echo-v2}}'
    other = Callee(MESH, "echo-v2", 9090)
    with mesh.applied(route("TCPRoute", rules, parents=parent, namespace=CONSUMER)):
        assert connect(mesh, other, by=CONSUMER)["deployment"] == "echo-v1"
        assert connect(mesh, other, by=MESH)["deployment"] == "echo-v2"


def test_connections_go_to_another_namespace_that_lets_them(mesh: Mesh):
    """Also where nobody on the host calls that Service itself."""
    backend = f'{{group: "", kind: Service, namespace: {CONSUMER}, name: elsewhere, port: 9090}}'
    with mesh.applied(elsewhere("TCPRoute") + route("TCPRoute", f"  - backendRefs: [{backend}]")):
        eventually(lambda: connect(mesh).get("namespace") == CONSUMER, what="the other namespace answers")
        assert {connect(mesh).get("namespace") for _ in range(10)} == {CONSUMER}


def test_the_share_of_a_backend_that_is_none_is_closed(mesh: Mesh):
    rules = f"""
  - backendRefs:
    - {{group: "", kind: Service, namespace: {MESH}, name: echo-v2, port: 9090, weight: 2}}
    - {{group: example.org, kind: Bucket, name: none, weight: 1}}
"""
    with mesh.applied(route("TCPRoute", rules)):
        counts = Counter(connect(mesh).get("deployment", "closed") for _ in range(120))
    assert counts.keys() == {"echo-v2", "closed"}
    assert 60 <= counts["echo-v2"] <= 100
