"""Which routes and policies count for whom (GEP-1294), and where backends are."""

import pytest
import yaml

from mesh import codec
from mesh.compile.attach import Attached, Resolved, Unresolved
from mesh.compile.conditions import status
from mesh.compile.rules import Target, entries, split
from mesh.model import GRPCRoute, HTTPRoute, Object, Ref, Service, ServiceRef, TCPRoute, TrafficPolicy


def objects(text: str) -> dict[Ref, Object]:
    found = [codec.decode_strict(tree) for tree in yaml.safe_load_all(text) if tree]
    assert all(isinstance(obj, Object) for obj in found), found
    return {obj.ref: obj for obj in found if isinstance(obj, Object)}


def a_service(name: str, namespace: str = "shop", protocol: str = "http", accounts: str = "[a]") -> str:
    return f"""
---
apiVersion: holdfast.dev/v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{ports: [{{port: 80, name: main, protocol: {protocol}}}], serviceAccounts: {accounts}}}
"""


def a_route(
    name: str, namespace: str = "shop", kind: str = "HTTPRoute", parent: str = "name: api", to: str = ""
) -> str:
    backend = to or "{name: api, port: 80}"
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "2026-01-01T00:00:00Z"}}
spec:
  parentRefs: [{{group: "", kind: Service, {parent}}}]
  rules: [{{backendRefs: [{backend}]}}]
"""


API, HOME = ServiceRef("shop", "api"), ServiceRef("home", "parent")


def applied(text: str, caller: str = "shop") -> tuple[list[str], list[str]]:
    known = objects(text)
    service = known[Ref("Service", "shop", "api")]
    assert isinstance(service, Service)
    found = Attached(known).apply(caller, API, service.spec.ports[0])
    return [r.metadata.name for r in found.routes], [r.metadata.name for r in found.conflicted]


def test_callers_have_their_own_routes_before_the_services():
    text = a_service("api") + a_route("ours") + a_route("theirs", "web", parent="name: api, namespace: shop")
    assert applied(text, "shop") == (["ours"], [])
    assert applied(text, "web") == (["theirs"], [])
    assert applied(text, "else") == (["ours"], [])


def test_a_route_is_for_the_ports_that_it_names():
    for parent, count in (
        ("name: api", 1), ("name: api, port: 80", 1), ("name: api, port: 81", 0), ("name: api, sectionName: main", 1),
        ("name: api, sectionName: other", 0), ("name: other", 0),
    ):  # fmt: skip
        assert len(applied(a_service("api") + a_route("r", parent=parent))[0]) == count, parent


def test_one_kind_counts_for_a_port():
    both = a_route("h") + a_route("g", kind="GRPCRoute") + a_route("t", kind="TCPRoute")
    assert applied(a_service("api", protocol="grpc") + both) == (["g"], ["h"])
    assert applied(a_service("api", protocol="tcp") + both) == (["t"], [])


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("{name: api, port: 80}", ""),
        ("{name: gone, port: 80}", "BackendNotFound"),
        ("{name: api, port: 81}", "BackendNotFound"),
        ("{name: nobody, port: 80}", "BackendNotFound"),
        ("{name: db, port: 80}", "UnsupportedProtocol"),
        ("{group: x.test, kind: Bucket, name: b}", "InvalidKind"),
        ("{name: far, namespace: other, port: 80}", "RefNotPermitted"),
        ("{name: let, namespace: open, port: 80}", ""),
        ("{name: kept, namespace: open, port: 80}", "RefNotPermitted"),
        ("{name: back, namespace: home, port: 80}", ""),
        ("{group: holdfast.dev, kind: ServiceSubset, name: api.blue, port: 80}", ""),
        ("{group: holdfast.dev, kind: ServiceSubset, name: api.red, port: 80}", "BackendNotFound"),
        ("{group: holdfast.dev, kind: ServiceSubset, name: api.blue, port: 81}", "BackendNotFound"),
        ("{group: holdfast.dev, kind: ServiceSubset, name: gone.blue, port: 80}", "BackendNotFound"),
        ("{group: holdfast.dev, kind: ServiceSubset, name: far.blue, namespace: other, port: 80}", "RefNotPermitted"),
    ],
)
def test_where_a_backend_is(backend: str, reason: str):
    text = (
        a_service("api") + a_service("nobody", accounts="[]") + a_service("db", protocol="tcp")
        + a_service("far", "other") + a_service("let", "open") + a_service("kept", "open") + a_service("back", "home")
        + a_route("r", to=backend).replace("kind: Service, name: api", "kind: Service, name: parent, namespace: home")
        + a_policy("p", "subsets: [{name: blue, labels: {colour: blue}}]")
        + """
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g, namespace: open}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: "", kind: Service, name: let}]
"""
    )  # fmt: skip
    known = objects(text)
    route = known[Ref("HTTPRoute", "shop", "r")]
    assert isinstance(route, HTTPRoute)
    outcome = Attached(known).resolve(route, route.spec.rules[0].backend_refs[0], HOME)
    assert (outcome.reason if isinstance(outcome, Unresolved) else "") == reason
    assert isinstance(outcome, Unresolved) == bool(reason)
    found, faults = entries(Attached(known), [route], HOME)
    assert (found[0].lost, len(found[0].shares), len(faults)) == ((1, 0, 1) if reason else (0, 1, 0))


def test_another_parent_opens_no_namespace_for_callers_of_the_first():
    parents = "name: api}, {group: '', kind: Service, name: parent, namespace: home"
    known = objects(
        a_service("api") + a_service("back", "home")
        + a_route("r", parent=parents, to="{name: back, namespace: home, port: 80}")
    )  # fmt: skip
    route = known[Ref("HTTPRoute", "shop", "r")]
    assert isinstance(route, HTTPRoute)
    attached = Attached(known)
    assert [(found[0].lost, len(found[0].shares)) for found, _ in (
        entries(attached, [route], called) for called in (API, HOME)
    )] == [(1, 0), (0, 1)]  # fmt: skip
    resolved = [
        next(c["status"] for c in parent["conditions"] if c["type"] == "ResolvedRefs")
        for parent in status(route, known)["parents"]
    ]
    assert resolved == ["False", "True"]


def test_grpc_counts_characters_of_the_service_then_of_the_method():
    matches = (
        "{method: {method: ALongMethodOfAnyService}}", "{headers: [{name: a, value: b}]}",
        "{method: {type: RegularExpression, service: foo.Ba.}}", "{method: {service: foo.Bar}}",
        "{method: {service: foo.Bar, method: Do}}",
        "{method: {service: foo.Bar, method: Do}, headers: [{name: a, value: b}]}",
    )  # fmt: skip
    rules = ", ".join(f"{{matches: [{match}]}}" for match in matches)
    text = a_route("g", kind="GRPCRoute").split("  rules:")[0] + f"  rules: [{rules}]"
    known = objects(a_service("api", protocol="grpc") + text)
    route = known[Ref("GRPCRoute", "shop", "g")]
    assert isinstance(route, GRPCRoute)
    found, _ = entries(Attached(known), [route], API)
    assert [int(entry.id.split("/")[3]) for entry in found] == [5, 4, 3, 2, 0, 1]


def test_a_subset_is_its_services_policys():
    to = "{group: holdfast.dev, kind: ServiceSubset, name: api.blue, port: 80}"
    policies = a_policy("all", "subsets: [{name: blue, labels: {colour: blue}}]") + a_policy(
        "port", "subsets: [{name: green, labels: {colour: green}}]", ", port: 81"
    )
    known = objects(a_service("api") + a_route("r", to=to) + policies)
    route = known[Ref("HTTPRoute", "shop", "r")]
    assert isinstance(route, HTTPRoute)
    attached = Attached(known)
    found, _ = entries(attached, [route], API)
    assert [share.target for share in found[0].shares] == [Target(API, 80, "blue")]
    assert attached.subset(API, 80, "green") is None
    blue = attached.subset(API, 80, "blue")
    assert blue is not None
    assert blue.labels == {"colour": "blue"}


def test_shares_of_connections_are_those_of_the_first_route():
    to = "{name: api, port: 80, weight: 3}, {name: b, port: 80}, {name: gone, port: 80, weight: 2}"
    text = a_service("api", protocol="tcp") + a_service("b", protocol="tcp") + a_route("t", kind="TCPRoute", to=to)
    known = objects(text)
    route = known[Ref("TCPRoute", "shop", "t")]
    assert isinstance(route, TCPRoute)
    found, faults = split(Attached(known), [route], API)
    assert found is not None
    assert [(s.target.service.name, s.weight) for s in found.shares] == [("api", 3), ("b", 1)]
    assert (found.lost, len(faults)) == (2, 1)


def a_policy(name: str, spec: str, port: str = "", created: str = "2026-01-01") -> str:
    return f"""
---
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop, creationTimestamp: "{created}T00:00:00Z"}}
spec:
  target: {{service: api{port}}}
  {spec}
"""


def test_sections_come_from_the_policy_for_the_port_then_from_that_for_all():
    known = objects(
        a_policy("all", "retries: {attempts: 5}\n  timeouts: {request: 9s}\n  circuitBreaking: {maxRequests: 1}")
        + a_policy("port", "retries: {attempts: 1}", ", port: 80")
        + a_policy("late", "timeouts: {request: 1s}", created="2026-02-01")
    )
    attached = Attached(known)
    found = attached.policy(API, 80)
    assert found is not None
    assert found.spec.retries is not None
    assert found.spec.circuit_breaking is not None
    assert (found.spec.retries.attempts, found.spec.timeouts.request) == (1, "9s")
    assert {ref.name for ref in found.sources} == {"all", "port"}
    other = attached.policy(API, 81)
    assert other is not None
    assert other.spec.retries is not None
    assert other.spec.retries.attempts == 5
    assert attached.policy(ServiceRef("shop", "db"), 80) is None
    late, first = known[Ref("TrafficPolicy", "shop", "late")], known[Ref("TrafficPolicy", "shop", "all")]
    assert isinstance(late, TrafficPolicy)
    assert isinstance(first, TrafficPolicy)
    assert attached.overruled(late) is first
    assert attached.overruled(first) is None


def test_a_resolved_backend_has_its_port():
    known = objects(a_service("api") + a_route("r"))
    route = known[Ref("HTTPRoute", "shop", "r")]
    assert isinstance(route, HTTPRoute)
    outcome = Attached(known).resolve(route, route.spec.rules[0].backend_refs[0], API)
    assert isinstance(outcome, Resolved)
    assert (outcome.service.service, outcome.port.protocol) == (API, "http")


def an_external(namespace: str = "shop", protocol: str = "http") -> str:
    return f"""
---
apiVersion: holdfast.dev/v1
kind: ExternalService
metadata: {{name: ext, namespace: {namespace}}}
spec: {{hosts: [a.test], ports: [{{port: 443, protocol: {protocol}}}]}}
"""


def a_grant(kind: str) -> str:
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: g, namespace: other}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}}]
  to: [{kind}]
"""


@pytest.mark.parametrize(
    ("kind", "to", "more", "reason"),
    [
        ("HTTPRoute", "", an_external(), ""),
        ("HTTPRoute", "", "", "BackendNotFound"),
        ("HTTPRoute", "", a_service("ext"), "BackendNotFound"),
        ("HTTPRoute", "", an_external(protocol="tcp"), "UnsupportedProtocol"),
        ("TCPRoute", "", an_external(protocol="tcp"), "InvalidKind"),
        ("HTTPRoute", ", namespace: other", an_external("other"), "RefNotPermitted"),
        (
            "HTTPRoute",
            ", namespace: other",
            an_external("other") + a_grant("{group: '', kind: Service}"),
            "RefNotPermitted",
        ),
        (
            "HTTPRoute",
            ", namespace: other",
            an_external("other") + a_grant("{group: holdfast.dev, kind: ExternalService, name: ext}"),
            "",
        ),
    ],
)
def test_backends_outside_of_the_mesh(kind: str, to: str, more: str, reason: str):
    backend = f"{{group: holdfast.dev, kind: ExternalService, name: ext, port: 443{to}}}"
    known = objects(a_service("api") + a_route("r", kind=kind, to=backend) + more)
    route = known[Ref(kind, "shop", "r")]
    assert isinstance(route, HTTPRoute | TCPRoute)
    outcome = Attached(known).resolve(route, route.spec.rules[0].backend_refs[0], API)
    assert (outcome.reason if isinstance(outcome, Unresolved) else "") == reason
