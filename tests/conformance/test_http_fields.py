"""HTTPRoute through whole hosts: what neither the published tests nor those of single proxies show."""

import time
import uuid
from collections import Counter

import pytest

from tests.conformance.expectations import CONSUMER, MESH
from tests.conformance.mesh import Mesh
from tests.conformance.shapes import HTTP, elsewhere, get, route
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")


def test_each_method_can_be_told_from_the_others(mesh: Mesh):
    def rule(method: str) -> str:
        said = f"{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: {method}}}]}}}}"
        return f"  - {{matches: [{{method: {method}}}], filters: [{said}], backendRefs: [{{name: echo-v1, port: 80}}]}}"

    with mesh.applied(route("HTTPRoute", "\n".join(rule(method) for method in METHODS))):
        answers = {method: get(mesh, method=method) for method in METHODS}
    assert {m: (a.status, dict(a.headers).get("x-rule")) for m, a in answers.items()} == {m: (200, m) for m in METHODS}


def test_headers_of_answers_are_added_and_removed(mesh: Mesh):
    """Of all backends of a rule, and of one alone."""
    changes = "{add: [{name: x-new, value: a}], remove: [x-echo]}"
    modifier = f"{{type: ResponseHeaderModifier, responseHeaderModifier: {changes}}}"
    rules = f"""
  - {{matches: [{{path: {{value: /rule}}}}], filters: [{modifier}], backendRefs: [{{name: echo-v1, port: 80}}]}}
  - {{matches: [{{path: {{value: /one}}}}], backendRefs: [{{name: echo-v1, port: 80, filters: [{modifier}]}}]}}
  - {{backendRefs: [{{name: echo-v1, port: 80}}]}}
"""
    with mesh.applied(route("HTTPRoute", rules)):
        for path in ("/rule", "/one"):
            headers = dict(get(mesh, path).headers)
            assert (headers.get("x-new"), "x-echo" in headers) == ("a", False)
        assert dict(get(mesh).headers)["x-echo"] == "here"


@pytest.mark.parametrize(
    ("share", "least", "most"), [("percent: 50", 15, 45), ("fraction: {numerator: 1, denominator: 10}", 1, 20)]
)
def test_copies_go_to_another_namespace_that_lets_them(mesh: Mesh, share: str, least: int, most: int):
    backend = f'{{group: "", kind: Service, namespace: {CONSUMER}, name: elsewhere, port: 80}}'
    mirror = f"{{type: RequestMirror, requestMirror: {{backendRef: {backend}, {share}}}}}"
    rules = f"  - {{filters: [{mirror}], backendRefs: [{{name: echo-v1, port: 80}}]}}"
    other = mesh.hosts.caller(CONSUMER)

    def copies() -> int:
        name = uuid.uuid4().hex
        with mesh.hosts.caller(MESH).http(HTTP) as ask:
            assert all(ask("GET", "/", {"x-id": name}).status == 200 for _ in range(60))
        eventually(lambda: other.seen(name) >= least, timeout=2, what="copies arrive")
        return other.seen(name)

    with mesh.applied(elsewhere("HTTPRoute") + route("HTTPRoute", rules)):
        assert least <= eventually(copies, timeout=15) <= most


def test_pauses_between_tries_grow_from_the_least(mesh: Mesh):
    """Five pauses, each at random up to 0.3, 0.6, 1.2, 2.4, 3 s, are hardly ever shorter than 0.6 s together."""
    took = []
    for backoff in ("1ms", "300ms"):
        retry = f"{{attempts: 5, backoff: {backoff}, codes: [418]}}"
        rules = f"  - {{retry: {retry}, backendRefs: [{{name: echo-v1, port: 80}}]}}"
        with mesh.applied(route("HTTPRoute", rules)):
            began, name = time.monotonic(), uuid.uuid4().hex
            assert get(mesh, x_answer="418", x_id=name).status == 418
            took.append(time.monotonic() - began)
        assert sum(pod.seen(name) for pod in mesh.hosts.pods) == 6
    assert took[0] < 0.5 < 0.6 < took[1]


def test_backends_elsewhere_get_their_share_and_what_is_none_answers_500(mesh: Mesh):
    rules = f"""
  - backendRefs:
    - {{group: "", kind: Service, namespace: {CONSUMER}, name: elsewhere, port: 80, weight: 2}}
    - {{group: example.org, kind: Bucket, name: none, weight: 1}}
    - {{group: "", kind: Service, namespace: {MESH}, name: echo-v2, port: 80, weight: 1}}
"""
    with mesh.applied(elsewhere("HTTPRoute") + route("HTTPRoute", rules)):
        eventually(lambda: get(mesh).echoed.get("namespace") == CONSUMER, what="the other namespace answers")
        answers = [get(mesh) for _ in range(200)]
    by = Counter(answer.echoed.get("namespace", answer.status) for answer in answers)
    assert by.keys() == {CONSUMER, MESH, 500}
    assert 70 <= by[CONSUMER] <= 130
    assert {answer.backend for answer in answers if answer.echoed.get("namespace") == MESH} == {"echo-v2"}
