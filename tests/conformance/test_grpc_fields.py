"""GRPCRoute through whole hosts."""

import uuid
from collections import Counter

import pytest

from tests.conformance.expectations import CONSUMER, MESH
from tests.conformance.hosts import Callee
from tests.conformance.mesh import Mesh
from tests.conformance.shapes import UNAVAILABLE, UNIMPLEMENTED, call, elsewhere, route
from tests.support.waiting import eventually

pytestmark = pytest.mark.real


def test_matches_of_services_methods_and_headers(mesh: Mesh):
    rules = """
  - matches: [{method: {type: Exact, service: shop.Api, method: Get}, headers: [{type: Exact, name: Who, value: me}]}]
    backendRefs: [{name: echo-v1, port: 7070}]
  - matches: [{method: {service: shop.Api}}, {method: {method: Everywhere}}]
    backendRefs: [{name: echo-v2, port: 7070}]
  - matches:
    - method: {type: RegularExpression, service: "shop[.]v[0-9]+[.]Api", method: "(Get|List)"}
      headers: [{type: RegularExpression, name: who, value: "m.+"}]
    backendRefs: [{name: echo-v1, port: 7070}]
"""
    with mesh.applied(route("GRPCRoute", rules)):
        assert call(mesh, who="me").backend == "echo-v1"
        assert call(mesh, who="you").backend == "echo-v2"
        assert call(mesh, "/shop.Api/Put").backend == "echo-v2"
        assert call(mesh, "/any.Thing/Everywhere").backend == "echo-v2"
        assert call(mesh, "/shop.v12.Api/List", who="me").backend == "echo-v1"
        for method in ("/shop.v12.Api/List", "/shop.v.Api/List", "/shop.v12.Api/Listing", "/shop.Apis/Get"):
            assert call(mesh, method).status == UNIMPLEMENTED


def test_a_rule_may_have_a_name_and_shares(mesh: Mesh):
    shares = "[{name: echo-v1, port: 7070, weight: 3}, {name: echo-v2, port: 7070, weight: 1}]"
    with mesh.applied(route("GRPCRoute", f"  - {{name: split, backendRefs: {shares}}}")):
        counts = Counter(call(mesh).backend for _ in range(200))
    assert counts.keys() == {"echo-v1", "echo-v2"}
    assert 120 <= counts["echo-v1"] <= 180


@pytest.mark.parametrize(("port", "section", "counts"), [(7070, "grpc", True), (8080, "http", False)])
def test_a_parent_is_a_service_or_one_port_of_it(mesh: Mesh, port: int, section: str, counts: bool):
    """Nothing matches the rule, so that where the route counts nobody answers."""
    parents = f"""
    {{group: "", kind: Service, name: echo}},
    {{group: "", kind: Service, name: echo-v1, port: {port}}},
    {{group: "", kind: Service, name: echo-v2, sectionName: {section}}}
"""
    with mesh.applied(route("GRPCRoute", "  - matches: [{method: {service: no.One}}]", parents=parents)):
        got = {name: call(mesh, to=Callee(MESH, name, 7070)).status for name in ("echo", "echo-v1", "echo-v2")}
    narrowed = UNIMPLEMENTED if counts else 200
    assert got == {"echo": UNIMPLEMENTED, "echo-v1": narrowed, "echo-v2": narrowed}


def test_a_consumers_route_is_for_callers_of_its_namespace(mesh: Mesh):
    rules = f"  - backendRefs: [{{name: echo-v1, namespace: {MESH}, port: 7070}}]"
    parent = f'{{group: "", kind: Service, namespace: {MESH}, name: echo-v2}}'
    other = Callee(MESH, "echo-v2", 7070)
    with mesh.applied(route("GRPCRoute", rules, parents=parent, namespace=CONSUMER)):
        assert call(mesh, by=CONSUMER, to=other).backend == "echo-v1"
        assert call(mesh, by=MESH, to=other).backend == "echo-v2"


MODIFIERS = """
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-add, value: new}], remove: [x-gone]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-said, value: new}], add: [{name: x-more, value: new}], remove: [x-echo]}
"""
OF_RULE = f"  - filters:{MODIFIERS}    backendRefs: [{{name: echo-v1, port: 7070}}]"
OF_BACKEND = "  - backendRefs:\n    - name: echo-v1\n      port: 7070\n      filters:" + MODIFIERS.replace("\n", "\n  ")


@pytest.mark.parametrize("rules", [OF_RULE, OF_BACKEND], ids=["of the rule", "of a backend"])
def test_headers_are_set_added_and_removed_on_both_ways(mesh: Mesh, rules: str):
    with mesh.applied(route("GRPCRoute", rules)):
        answer = call(mesh, x_set="old", x_add="old", x_gone="old", x_kept="old")
    seen = answer.echoed["headers"]
    assert {name: ",".join(seen.get(name, [])) for name in ("x-set", "x-add", "x-gone", "x-kept")} == {
        "x-set": "new",
        "x-add": "old,new",
        "x-gone": "",
        "x-kept": "old",
    }
    had = dict(answer.headers)
    assert (had.get("x-said"), had.get("x-more"), "x-echo" in had) == ("new", "new", False)


@pytest.mark.parametrize(
    ("share", "least", "most"), [("percent: 50", 15, 45), ("fraction: {numerator: 1, denominator: 10}", 1, 20)]
)
def test_copies_go_to_another_namespace_that_lets_them(mesh: Mesh, share: str, least: int, most: int):
    backend = f'{{group: "", kind: Service, namespace: {CONSUMER}, name: elsewhere, port: 7070}}'
    mirror = f"{{type: RequestMirror, requestMirror: {{backendRef: {backend}, {share}}}}}"
    rules = f"  - {{filters: [{mirror}], backendRefs: [{{name: echo-v1, port: 7070}}]}}"
    other = mesh.hosts.caller(CONSUMER)

    def copies() -> int:
        name = uuid.uuid4().hex
        assert all(call(mesh, x_id=name).status == 200 for _ in range(60))
        eventually(lambda: other.seen(name) >= least, timeout=2, what="copies arrive")
        return other.seen(name)

    with mesh.applied(elsewhere("GRPCRoute") + route("GRPCRoute", rules)):
        assert least <= eventually(copies, timeout=15) <= most


def test_backends_elsewhere_get_their_share_and_what_is_none_is_unavailable(mesh: Mesh):
    rules = f"""
  - backendRefs:
    - {{group: "", kind: Service, namespace: {CONSUMER}, name: elsewhere, port: 7070, weight: 2}}
    - {{group: example.org, kind: Bucket, name: none, weight: 1}}
"""
    with mesh.applied(elsewhere("GRPCRoute") + route("GRPCRoute", rules)):
        eventually(lambda: call(mesh).echoed.get("namespace") == CONSUMER, what="the other namespace answers")
        by = Counter(answer.echoed.get("namespace", answer.status) for answer in (call(mesh) for _ in range(120)))
    assert by.keys() == {CONSUMER, UNAVAILABLE}
    assert 60 <= by[CONSUMER] <= 100
