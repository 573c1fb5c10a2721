"""One call explained from both sides: outcomes, endpoints, and the objects that say so."""

import pytest
import yaml

from mesh import codec
from mesh.compile import explain, project
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.explain import CannotExplainError, Present
from mesh.model import GATEWAY, Endpoint, EndpointSpec, LocalPort, Metadata, Object, Upstream
from mesh.model.explained import AnswerQuestion, CallQuestion
from tests.support.meshes import (
    bundle,
    config,
    definition,
    endpoint,
    imported,
    local,
    peering,
    policy,
    rule,
    service,
    world,
)

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api, port: 80}]
  rules:
  - name: split
    backendRefs: [{name: v1, port: 80, weight: 3}, {name: v2, port: 80}]
    timeouts: {request: 3s}
  - name: moved
    matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
"""
CALLS = [Upstream(service=s, port=80, listen=f"127.0.0.1:{9000 + n}") for n, s in enumerate(("api", "v1", "gone"))]


def objects(text: str) -> list[Object]:
    route = codec.decode_strict(yaml.safe_load(text))
    assert isinstance(route, Object)
    return [
        config(), bundle("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        *(service(name, accounts=["api"]) for name in ("api", "v1", "v2")), route,
        policy("web-to-v1", "v1", rule("shop/web", name="web")),
        endpoint("v1", "n1", "10.0.0.1"), endpoint("v2", "n2", "10.0.0.2", health="unhealthy"),
    ]  # fmt: skip


def host(*definitions: object, route: str = ROUTE) -> Present:
    here, known = local(*definitions), world(*objects(route))  # type: ignore[arg-type]
    view = project(known, here)
    return Present(compile_anew(view), view.frame, known, here)


CALLER = host(definition("web", upstreams=CALLS))
CALLEE = host(definition("v1", LocalPort(port=8080, protocol="http"), service_account="api"))


def asked(**more: object) -> CallQuestion:
    return CallQuestion(**{"name": "web", "namespace": "shop", "service": "api", "service_namespace": "shop", **more})


@pytest.mark.parametrize(("weights", "said"), [((9, 1), ("90 %", "10 %")), ((1, 2), ("33.33 %", "66.67 %"))])
def test_shares_are_told_as_they_were_written_not_as_envoy_is_given_them(
    weights: tuple[int, int], said: tuple[str, str]
):
    """Beside a copy of some requests Envoy is given weights of 4294967291."""
    text = ROUTE.replace("name: v1, port: 80, weight: 3", f"name: v1, port: 80, weight: {weights[0]}")
    text = text.replace("name: v2, port: 80}", f"name: v2, port: 80, weight: {weights[1]}}}")
    mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}, percent: 50}}"
    text = text.replace("name: split", f"name: split\n    filters: [{mirror}]")
    found = explain.call(host(definition("web", upstreams=CALLS), route=text), asked(path="/x")).outcomes
    for name, weight, share in zip(("v1", "v2"), weights, said, strict=True):
        mine = [o for o in found if o.service == f"{name}.shop:80"]
        assert sorted(bool(o.mirrors) for o in mine) == [False, True]
        assert {o.share for o in mine} == {round(weight / sum(weights) / 2, 8)}
        words = {r.said for o in mine for r in o.reasons if "clusters[" in r.field}
        assert {w.rpartition(", ")[2] for w in words} == {share}


def test_shares_endpoints_and_the_objects_behind_them():
    found = explain.call(CALLER, asked(path="/x"))
    assert [(o.verdict, o.service, o.share) for o in found.outcomes] == [
        ("to", "v1.shop:80", 0.75),
        ("to", "v2.shop:80", 0.25),
    ]
    first = found.outcomes[0]
    assert (first.route, first.timeout_seconds, first.path) == ("HTTPRoute/shop/api/split/0", 3.0, "/x")
    assert {"HTTPRoute shop/api", "Service shop/api"} <= set(first.objects)
    assert [(e.service, e.node, e.health) for e in found.endpoints] == [
        ("v1.shop:80", "n1", "healthy"),
        ("v2.shop:80", "n2", "unhealthy"),
    ]
    assert found.spiffe_id == "spiffe://east.test/ns/shop/sa/web"


def test_an_endpoint_of_ipv6_is_told_from_its_port():
    known = world(*objects(ROUTE), endpoint("v1", "n3", "fd12::3"))
    here = local(definition("web", upstreams=CALLS))
    view = project(known, here)
    found = explain.call(Present(compile_anew(view), view.frame, known, here), asked(path="/x"))
    assert [e.address for e in found.endpoints if e.node == "n3"] == ["[fd12::3]:15443"]


def test_what_the_proxy_answers_by_itself():
    found = explain.call(CALLER, asked(path="/old/x")).outcomes
    assert [(o.verdict, o.status, o.location) for o in found] == [("redirect", 302, "http://api.shop/new")]
    gone = explain.call(CALLER, asked(service="gone")).outcomes
    assert [(o.verdict, o.status, "there is no Service gone.shop" in o.words) for o in gone] == [("answer", 503, True)]


def test_who_is_let_in_and_by_which_rule():
    def rules(caller: str) -> list[tuple[str, str]]:
        question = AnswerQuestion(service="v1", namespace="shop", port=80, caller=caller)
        return [(o.verdict, o.rule) for o in explain.answer(CALLEE, question).outcomes]

    assert rules("spiffe://east.test/ns/shop/sa/web") == [("to", "shop/web-to-v1/web")]
    assert rules("spiffe://east.test/ns/shop/sa/db") == [("deny", "default-deny")]


def test_what_is_not_here_cannot_be_explained():
    with pytest.raises(CannotExplainError, match=r"does not call db\.shop"):
        explain.call(CALLER, asked(service="db"))
    with pytest.raises(CannotExplainError, match="port 81"):
        explain.call(CALLER, asked(port=81))
    with pytest.raises(CannotExplainError, match="no instance"):
        explain.answer(CALLEE, AnswerQuestion(service="v2", namespace="shop", port=80, caller="x"))


def test_a_call_of_several_clusters_tells_of_each_by_what_it_is_reached_and_who_may_answer():
    west, north = service("api"), service("api", accounts=["api", "old"])
    pem = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"
    known = world(
        *objects(ROUTE)[:2], service("api", clusters=["*"]), peering("west"), peering("north", through="Gateway"),
        bundle(pem, domain="west.test"), bundle(pem, domain="north.test"),
        imported(west, "west"), imported(north, "north"), endpoint("api", "n1", "10.0.0.1"),
        endpoint("api.west", "gw-w", "192.0.2.1", mtls_port=15444), endpoint("api.north", "gw-n", "192.0.2.9"),
        Endpoint(
            metadata=Metadata(name="gateway-gw", namespace=GATEWAY.namespace),
            spec=EndpointSpec(
                service=GATEWAY.name, node="gw", address="10.0.0.9", port=15444, service_account="gateway",
                ports=(15444,), health="healthy",
            ),
        ),
    )  # fmt: skip
    calls = [
        Upstream(service="api", port=80, listen="127.0.0.1:9000"),
        Upstream(service="api.shop.west", port=80, listen="127.0.0.1:9001"),
    ]
    here = local(definition("web", upstreams=calls))
    view = project(known, here)
    present = Present(compile_anew(view), view.frame, known, here)
    told = {one.cluster: one for one in explain.call(present, asked()).endpoints}
    assert (told[""].address, told[""].identities) == ("10.0.0.1:15443", ())
    assert (told["west"].address, told["west"].sni) == ("192.0.2.1:15444", "80.api.shop.west.mesh")
    assert told["west"].identities == ("spiffe://west.test/ns/shop/sa/api",)
    assert (told["north"].node, told["north"].sni) == ("gw", "80.api.shop.north.mesh")
    assert told["north"].identities[1] == "spiffe://north.test/ns/shop/sa/old"
    alone = explain.call(present, asked(service="api.west"))
    assert [o.service for o in alone.outcomes] == ["api.shop.west:80"]
    assert [e.cluster for e in alone.endpoints] == ["west"]
