"""What may be said of Services of other clusters: upstreams, backends, policies, exports."""

import pytest
import yaml

from mesh import codec
from mesh.model import Callers, Object, ServiceDefinition, ServiceRef, Upstream
from mesh.validate import validate
from tests.support.meshes import export, imported, policy, rule, service


def faults(text: str, *existing: Object) -> dict[str, str]:
    made = codec.decode_strict(yaml.safe_load(text))
    assert isinstance(made, Object), made
    return {v.path: v.reason for v in validate(made, {one.ref: one for one in existing})}


@pytest.mark.parametrize(
    ("upstream", "called"),
    [
        (Upstream(service="api", port=80), ServiceRef("shop", "api")),
        (Upstream(service="api.west", port=80), ServiceRef("shop", "api.west")),
        (Upstream(service="api.west", namespace="pay", port=80), ServiceRef("pay", "api.west")),
        (Upstream(service="api.pay.west", port=80), ServiceRef("pay", "api.west")),
        (Upstream(service="api.pay.west", namespace="pay", port=80), ServiceRef("pay", "api.west")),
    ],
)
def test_upstreams_name_services_of_peers(upstream: Upstream, called: ServiceRef):
    assert upstream.called("shop") == called
    assert ServiceDefinition(name="web", namespace="shop", upstreams=(upstream,)).wants == (called,)
    assert not [v for v in upstream.check("u") if v.path != "u.listen"]


@pytest.mark.parametrize("name", ["api.west.", ".west", "api..west", "a.b.c.d", "api.shop.We", "a.b.c/x", "a.b."])
def test_upstreams_that_name_nothing(name: str):
    assert [v.path for v in Upstream(service=name, port=80).check("u")] == ["u.service"]


def test_an_upstream_has_one_namespace():
    (fault,) = Upstream(service="api.pay.west", namespace="shop", port=80).check("u")
    assert fault.path == "u.namespace"


def test_two_upstreams_that_are_one():
    both = (Upstream(service="api.west", port=80), Upstream(service="api.shop.west", port=80))
    made = ServiceDefinition(name="web", namespace="shop", upstreams=both, callers=Callers(users=("web",)))
    assert "upstreams[1].listen" in {v.path for v in made.check() if "twice" in v.reason}


ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api}}]
  rules: [{{backendRefs: [{{group: holdfast.dev, kind: ImportedService, name: {name}{port}}}]}}]
"""


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute", "TCPRoute"])
def test_backends(kind: str):
    where = "spec.rules[0].backendRefs[0]"
    assert faults(ROUTE.format(kind=kind, name="api.west", port=", port: 80")) == {}
    assert faults(ROUTE.format(kind=kind, name="api.west", port="")).keys() == {f"{where}.port"}
    for name in ("api", "api.west.more", "api."):
        assert faults(ROUTE.format(kind=kind, name=name, port=", port: 80")).keys() == {f"{where}.name"}, name


def test_grants():
    text = """
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]
  to: [{group: holdfast.dev, kind: ImportedService, name: NAME}]
"""
    assert faults(text.replace("NAME", "api.west")) == {}
    assert faults(text.replace("NAME", "api")).keys() == {"spec.to[0].name"}


TRAFFIC = """
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: p, namespace: shop}}
spec:
  target: {{service: {name}}}
  {says}
"""


@pytest.mark.parametrize(
    ("says", "paths"),
    [
        ("timeouts: {request: 2s}", set()),
        ("locality: {failover: [eu]}", set()),
        ("outlierDetection: {consecutiveGatewayErrors: 9}", set()),
        ("healthCheck: {type: tcp}", {"spec.healthCheck"}),
        ("subsets: [{name: blue, labels: {a: b}}]", {"spec.subsets"}),
        ("rateLimits: [{name: all, requests: 5, window: 1s}]", {"spec.rateLimits"}),
    ],
)
def test_policies_say_what_callers_can_have(says: str, paths: set[str]):
    assert faults(TRAFFIC.format(name="api.west", says=says)).keys() == paths
    assert faults(TRAFFIC.format(name="api.west.more", says=says)).keys() == {"spec.target.service", *paths}


def test_policies_know_the_ports_of_what_is_imported():
    far = imported(service("db", port=5432, protocol="tcp"), "west")
    assert faults(TRAFFIC.format(name="db.west", says="timeouts: {request: 2s}"), far).keys() == {
        "spec.timeouts.request"
    }


def test_who_may_call_is_said_where_the_service_is():
    found = {v.path: v.reason for v in validate(policy("p", "api.west", rule("shop/web")))}
    assert "is said there" in found["spec.target.service"]


@pytest.mark.parametrize(
    ("namespace", "fine"),
    [
        ("batch", True), ("spiffe://west.test/ns/batch", True), ("spiffe://west.test/ns/batch/", False),
        ("spiffe://west.test/ns/", False), ("spiffe://west.test", False), ("spiffe:///ns/batch", False),
        ("spiffe://WEST/ns/batch", False), ("spiffe://west.test/ns/a/ns/b", False),
        ("spiffe://west.test/x/ns/b", False),
    ],
)  # fmt: skip
def test_namespaces_of_other_trust_domains(namespace: str, fine: bool):
    assert bool(validate(policy("p", "api", rule(namespaces=[namespace])))) != fine


def test_an_export_covers_services_of_its_namespace_by_name_and_label():
    api, db = service("api"), service("db")
    assert export("api").covers(api)
    assert not export("api").covers(db)
    assert export("*").covers(db)
    assert not export("*", selector={"public": "yes"}).covers(db)
