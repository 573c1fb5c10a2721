"""HTTPRoute through real Envoys: every field that is honoured, shown by what applications see and callers get."""

from collections import Counter

import pytest

from tests.integration.traffic.rig import Rig
from tests.support.waiting import eventually

pytestmark = pytest.mark.real


def route(rules: str, name: str = "r", head: str = "") -> str:
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop{head}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: 80}}]
  rules:
{rules}
"""


def test_without_a_route_all_instances_answer(mesh: Rig):
    mesh.objects("")
    assert {mesh.get().by for _ in range(30)} == {"v1", "v2", "v3"}


def test_matches_of_paths(mesh: Rig):
    mesh.objects(
        route("""
  - {matches: [{path: {type: Exact, value: /exact}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /pre/}}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{path: {type: RegularExpression, value: "/p[0-9]+/x?"}}], backendRefs: [{name: v3, port: 80}]}
""")
    )
    wanted = {
        "/exact": "v1", "/exact?q=1": "v1", "/pre": "v2", "/pre/": "v2", "/pre/a/b": "v2", "/p12/x": "v3", "/p1/": "v3",
    }  # fmt: skip
    assert {path: mesh.get(path).by for path in wanted} == wanted
    for path in ("/exact/", "/exactly", "/prefix", "/p/x", "/p12/xy", "/", "/EXACT"):
        reply = mesh.get(path)
        assert (reply.status, b"no rule" in reply.body) == (404, True), path


def test_matches_of_headers_parameters_and_methods(mesh: Rig):
    mesh.objects(
        route("""
  - matches:
    - headers: [{name: Version, value: one}]
    - queryParams: [{name: animal, value: whale}, {name: animal, value: ignored}]
    backendRefs: [{name: v1, port: 80}]
  - matches:
    - {method: POST, path: {value: /m}}
    - {headers: [{name: version, type: RegularExpression, value: "t.*"}, {name: colour, value: blue}]}
    - {queryParams: [{name: n, type: RegularExpression, value: "[0-9]+"}]}
    backendRefs: [{name: v2, port: 80}]
  - matches: [{headers: [{name: Host, value: shop.test}]}]
    backendRefs: [{name: v3, port: 80}]
""")
    )
    assert mesh.get(headers=[("VERSION", "one")]).by == "v1"
    assert mesh.get("/?animal=whale").by == "v1"
    assert mesh.get("/m/x", method="POST").by == "v2"
    assert mesh.get(headers=[("version", "two"), ("colour", "blue")]).by == "v2"
    assert mesh.get("/?n=12").by == "v2"
    assert mesh.get(host="shop.test").by == "v3"
    for reply in (
        mesh.get(headers=[("version", "two")]), mesh.get("/?n=1a"), mesh.get("/m/x"), mesh.get("/?animal=dolphin"),
    ):  # fmt: skip
        assert reply.status == 404


def test_the_more_special_match_comes_first_whatever_the_order(mesh: Rig):
    mesh.objects(
        route("""
  - {matches: [{path: {value: /}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {value: /a}}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{path: {value: /a}, headers: [{name: x, value: "1"}]}], backendRefs: [{name: v3, port: 80}]}
  - {matches: [{path: {type: Exact, value: /a/b}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {value: /a}, method: PUT}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {type: RegularExpression, value: "/a/[0-9]+"}}], backendRefs: [{name: v3, port: 80}]}
""")
    )
    assert mesh.get("/").by == "v1"
    assert mesh.get("/a/c").by == "v2"
    assert mesh.get("/a/c", headers=[("x", "1")]).by == "v3"
    assert mesh.get("/a/b", headers=[("x", "1")]).by == "v1"
    assert mesh.get("/a/c", method="PUT", headers=[("x", "1")]).by == "v1"
    assert mesh.get("/a/7").by == "v3"


def test_of_two_routes_the_older_counts_then_the_name(mesh: Rig):
    def of(name: str, backend: str, created: str) -> str:
        rules = f"  - {{name: same, backendRefs: [{{name: {backend}, port: 80}}]}}"
        return route(rules, name, f', creationTimestamp: "{created}"')

    mesh.objects(of("b", "v1", "2026-01-02T00:00:00Z") + of("a", "v2", "2026-01-03T00:00:00Z"))
    assert {mesh.get().by for _ in range(5)} == {"v1"}
    mesh.objects(of("b", "v1", "2026-01-02T00:00:00Z") + of("a", "v2", "2026-01-02T00:00:00Z"))
    assert {mesh.get().by for _ in range(5)} == {"v2"}


def test_weights_share_out_requests(mesh: Rig):
    mesh.objects(
        route(
            "  - backendRefs: [{name: v1, port: 80, weight: 3}, {name: v2, port: 80}, {name: v3, port: 80, weight: 0}]"
        )
    )
    counts = Counter(reply.by for reply in mesh.in_turn([("/", ())] * 400))
    assert counts["v3"] == 0
    assert 0.65 < counts["v1"] / 400 < 0.85


def test_headers_are_set_added_and_removed_on_both_ways(mesh: Rig):
    mesh.objects(
        route("""
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Set, value: "100%"}]
        add: [{name: X-Add, value: new}]
        remove: [X-Gone]
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-App, value: over}], add: [{name: X-More, value: m}]}}
    backendRefs: [{name: v1, port: 80}]
""")  # noqa: E501
    )
    reply = mesh.get(headers=[("x-set", "old"), ("x-add", "old"), ("x-gone", "old"), ("x-kept", "old")])
    seen = [pair for pair in reply.seen["headers"] if pair[0].startswith("x-") and pair[0] in XS]
    values = {name: sorted(v for k, v in seen if k == name) for name in XS}
    assert values == {"x-set": ["100%"], "x-add": ["new", "old"], "x-gone": [], "x-kept": ["old"]}
    assert (reply.headers["x-app"], reply.headers["x-more"]) == ("over", "m")


XS = ("x-set", "x-add", "x-gone", "x-kept")


def test_headers_of_one_backend_alone(mesh: Rig):
    mesh.objects(
        route("""
  - backendRefs:
    - name: v1
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-one, value: "1"}]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: one}], remove: [x-app]}}
    - {name: v2, port: 80}
""")
    )
    replies = [mesh.get() for _ in range(40)]
    assert {r.by for r in replies} == {"v1", "v2"}
    for reply in replies:
        first = reply.by == "v1"
        assert (["x-one", "1"] in reply.seen["headers"]) == first
        assert (reply.headers.get("x-by"), "x-app" in reply.headers) == (("one", False) if first else (None, True))


@pytest.mark.parametrize(
    ("redirect", "path", "location", "status"),
    [
        ("{statusCode: 301, hostname: new.test}", "/a/b?q=1", "http://new.test/a/b?q=1", 301),
        ("{scheme: https}", "/a", "https://app:443/a", 302),
        ("{port: 8083, hostname: new.test, statusCode: 308}", "/a", "http://new.test:8083/a", 308),
        ("{path: {type: ReplaceFullPath, replaceFullPath: /full}, statusCode: 303}", "/a/b", "http://app/full", 303),
        (
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /to}, statusCode: 307}",
            "/a/b",
            "http://app/to/b",
            307,
        ),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}", "/a/b", "http://app/b", 302),
    ],
)
def test_redirects(mesh: Rig, redirect: str, path: str, location: str, status: int):
    rule = f"{{type: RequestRedirect, requestRedirect: {redirect}}}"
    mesh.objects(route(f"  - {{matches: [{{path: {{value: /a}}}}], filters: [{rule}]}}"))
    reply = mesh.get(path)
    assert (reply.status, reply.headers["location"]) == (status, location)


@pytest.mark.parametrize(
    ("prefix", "instead", "path", "sent"),
    [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
        ("/foo", "''", "/foo/bar?q=/foo", "/bar?q=/foo"),
        ("/", "/xyz", "/bar", "/xyz/bar"),
        ("/f.o", "/x", "/f.o/b", "/x/b"),
    ],
)
def test_prefixes_are_replaced_by_whole_elements(mesh: Rig, prefix: str, instead: str, path: str, sent: str):
    mesh.objects(
        route(f"""
  - matches: [{{path: {{value: {prefix}}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: {instead}}}}}}}]
    backendRefs: [{{name: v1, port: 80}}]
""")
    )
    assert mesh.get(path).seen["path"] == sent


def test_whole_paths_and_hosts_are_rewritten(mesh: Rig):
    mesh.objects(
        route("""
  - filters: [{type: URLRewrite, urlRewrite: {hostname: in.test, path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
    backendRefs: [{name: v1, port: 80}]
""")
    )
    seen = mesh.get("/a/b?c=d").seen
    assert (seen["path"], seen["host"]) == ("/one?c=d", "in.test")


def test_a_copy_goes_to_the_mirror_and_its_answer_nowhere(mesh: Rig):
    def count(share: str) -> tuple[int, set[str]]:
        mesh.objects(
            route(f"""
  - filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: v2, port: 80}}{share}}}}}]
    backendRefs: [{{name: v1, port: 80}}]
""")
        )
        mesh.apps["v2"].seen.clear()
        by = {mesh.get("/mirrored").by for _ in range(60)}
        return len(mesh.apps["v2"].seen), by

    assert count("")[1] == {"v1"}
    eventually(lambda: len(mesh.apps["v2"].seen) == 60, what="all copies arrive")
    assert count(", percent: 0")[0] == 0
    some, _ = count(", fraction: {numerator: 1, denominator: 2}")
    assert 10 <= some <= 50


def test_backends_that_cannot_be_sent_to_answer_500_for_their_share(mesh: Rig):
    mesh.objects(route("  - backendRefs: [{name: gone, port: 80}]"))
    reply = mesh.get()
    assert (reply.status, b"there is no Service gone.shop" in reply.body) == (500, True)
    mesh.objects(route("  - backendRefs: [{name: v1, port: 80}, {name: gone, port: 80}]"))
    counts = Counter(reply.status for reply in mesh.in_turn([("/", ())] * 200))
    assert counts.keys() == {200, 500}
    assert 60 <= counts[500] <= 140
    mesh.objects(route("  - backendRefs: [{name: v1, port: 80, weight: 0}]"))
    assert mesh.get().status == 500
    mesh.objects(route("  - {name: nothing}"))
    assert mesh.get().status == 500
    mesh.objects(route("  - backendRefs: [{group: x.test, kind: Bucket, name: b}]"))
    assert mesh.get().status == 500


def test_a_request_ends_with_its_time(mesh: Rig):
    mesh.objects(route("  - {backendRefs: [{name: v1, port: 80}], timeouts: {request: 300ms}}"))
    mesh.apps["v1"].delay = 2.0
    try:
        assert mesh.get().status == 504
        mesh.objects(route("  - {backendRefs: [{name: v1, port: 80}], timeouts: {request: 0s}}"))
        assert mesh.get().status == 200
    finally:
        mesh.apps["v1"].delay = 0.0


def test_one_try_ends_with_its_time_and_another_begins(mesh: Rig):
    mesh.objects(
        route("""
  - backendRefs: [{name: v1, port: 80}]
    timeouts: {request: 5s, backendRequest: 200ms}
    retry: {attempts: 2, codes: [504], backoff: 1ms}
""")
    )
    app = mesh.apps["v1"]
    app.delay = 1.0
    app.seen.clear()
    try:
        assert mesh.get().status == 504
        assert len(app.seen) == 3
    finally:
        app.delay = 0.0


def test_answers_with_these_codes_are_tried_again(mesh: Rig):
    mesh.objects(
        route("""
  - backendRefs: [{name: v1, port: 80}]
    retry: {attempts: 3, codes: [503], backoff: 1ms}
""")
    )
    app = mesh.apps["v1"]
    for status, tries in ((503, 4), (500, 1)):
        app.status = status
        app.seen.clear()
        try:
            assert mesh.get(method="POST", body=b"x").status == status
        finally:
            app.status = 200
        assert len(app.seen) == tries


def test_cors(mesh: Rig):
    mesh.objects(
        route("""
  - filters:
    - type: CORS
      cors:
        allowOrigins: ["https://app.test", "https://*.shop.test"]
        allowMethods: [GET, PUT]
        allowHeaders: [x-a]
        exposeHeaders: [x-b]
        allowCredentials: true
        maxAge: 60
    backendRefs: [{name: v1, port: 80}]
""")
    )
    asked = [("Origin", "https://a.shop.test"), ("Access-Control-Request-Method", "PUT")]
    reply = mesh.get(method="OPTIONS", headers=asked)
    said = {name: reply.headers.get(f"access-control-{name}") for name in (
        "allow-origin", "allow-methods", "allow-headers", "max-age", "allow-credentials",
    )}  # fmt: skip
    assert reply.status == 200
    assert said == {
        "allow-origin": "https://a.shop.test",
        "allow-methods": "GET, PUT",
        "allow-headers": "x-a",
        "max-age": "60",
        "allow-credentials": "true",
    }
    plain = mesh.get(headers=[("Origin", "https://app.test")])
    assert (plain.by, plain.headers["access-control-expose-headers"]) == ("v1", "x-b")
    for origin in ("https://evil.test", "https://shop.test.evil", "http://app.test"):
        assert "access-control-allow-origin" not in mesh.get(headers=[("Origin", origin)]).headers


def test_a_route_for_another_port_or_service_does_not_count(mesh: Rig):
    mesh.objects(route("  - backendRefs: [{name: v1, port: 80}]").replace("port: 80}]\n  rules", "port: 81}]\n  rules"))
    assert len({mesh.get().by for _ in range(30)}) == 3
    mesh.objects(
        route("  - backendRefs: [{name: v1, port: 80}]").replace("port: 80}]\n  rules", "sectionName: http}]\n  rules")
    )
    assert {mesh.get().by for _ in range(10)} == {"v1"}
    assert mesh.get(service="v2").by == "v2"
