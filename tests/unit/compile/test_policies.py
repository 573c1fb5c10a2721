"""What policies say of requests: for whom, of which port, and who is to blame."""

import msgspec
import pytest
import yaml

from mesh import codec, pb
from mesh.compile import project
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.tries import tries
from mesh.compile.view import Frame, Handling
from mesh.model import LocalPort, Object, Ref, Upstream, World
from mesh.model.policyspec import Retries
from tests.support.meshes import bundle, config, definition, local, service, world

FAKE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
CALLS = [Upstream(service="api", port=port, listen=f"127.0.0.1:90{port}") for port in (80, 81)]
HOST = local(definition("web", LocalPort(port=8080, name="http", protocol="http"), upstreams=CALLS))
PORTS = yaml.safe_load("{ports: [{port: 80, protocol: http}, {port: 81, protocol: http}], serviceAccounts: [api]}")


def a_policy(name: str, spec: str, target: str = "service: api") -> Object:
    text = f"""
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  target: {{{target}}}
  {spec}
"""
    found = codec.decode_strict(yaml.safe_load(text))
    assert isinstance(found, Object), found
    return found


def a_world(*policies: Object) -> World:
    api = codec.decode_strict(
        {"apiVersion": "holdfast.dev/v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"}}
        | {"spec": PORTS}
    )
    assert isinstance(api, Object)
    return world(config(), bundle(FAKE), service("web", target="http"), api, *policies)


def frame(*policies: Object) -> Frame:
    return project(a_world(*policies), HOST).frame


def ref(name: str) -> Ref:
    return Ref("TrafficPolicy", "shop", name)


def test_each_section_is_blamed_on_the_policy_that_has_it():
    found = frame(
        a_policy("all", "retries: {attempts: 1}\n  faults: [{name: f, abort: {status: 500}}]"),
        a_policy(
            "port", "timeouts: {request: 1s}\n  faults: [{name: g, abort: {status: 500}}]", "service: api, port: 80"
        ),
        a_policy("quiet", "circuitBreaking: {maxRequests: 1}", "service: api, port: 81"),
    )
    first, second = (upstream.handling for upstream in found.outbound)
    assert (first.timeout, [i.id for i in first.faults]) == ("1s", ["shop/port/g"])
    assert first.sources == {ref("all"), ref("port")}
    assert (second.timeout, [i.id for i in second.faults]) == ("", ["shop/all/f"])
    assert second.sources == {ref("all")}


@pytest.mark.parametrize(
    ("callers", "hit"),
    [
        ("", True),
        ("callers: [shop/web], ", True),
        ('callers: ["spiffe://east.test/ns/shop/sa/web"], ', True),
        ("callers: [shop/other, other/web], ", False),
        ('callers: ["spiffe://west.test/ns/shop/sa/web"], ', False),
    ],
)
def test_faults_are_for_callers_by_name(callers: str, hit: bool):
    found = frame(a_policy("p", f"faults: [{{name: f, {callers}abort: {{status: 500}}}}]"))
    assert [bool(upstream.handling.faults) for upstream in found.outbound] == [hit, hit]


def test_what_does_not_concern_requests_leaves_them_alone():
    """A retry budget is the cluster's: it is no part of a route's key."""
    plain = frame(a_policy("p", "retries: {attempts: 1}"))
    budget = frame(a_policy("p", "retries: {attempts: 1, budget: {percent: 5}}"))
    assert [o.handling for o in plain.outbound] == [o.handling for o in budget.outbound]


def test_limits_are_told_in_front_of_the_instance_and_change_no_listener():
    bound = a_policy("p", "rateLimits: [{name: all, requests: 5}]", "service: web")
    before, after = (compile_anew(project(a_world(*more), HOST)) for more in ((), (bound,)))
    (inbound,) = frame(bound).inbound
    assert ([limit.id for limit in inbound.limits], inbound.limit_sources) == (["shop/p/all"], {ref("p")})
    changed = {
        (pb.SHORT[url], name)
        for url, resources in after.resources.items()
        for name, resource in resources.items()
        if before.resources[url][name].version != resource.version
    }
    assert changed == {("rds", "inbound|80|web.shop")}
    assert ref("p") in after.resources[pb.ROUTE]["inbound|80|web.shop"].sources


def test_tcp_takes_no_limits():
    tcp = world(
        config(),
        service("web", protocol="tcp", target="http"),
        a_policy("p", "rateLimits: [{name: a, requests: 5}]", "service: web"),
    )
    host = local(definition("web", LocalPort(port=8080, name="http", protocol="tcp")))
    assert [port.limits for port in project(tcp, host).frame.inbound] == [()]


def test_faults_and_tries_change_no_listener():
    said = a_policy(
        "p", "timeouts: {request: 1s}\n  retries: {attempts: 1}\n  faults: [{name: f, delay: {duration: 1s}}]"
    )
    before, after = (compile_anew(project(a_world(*more), HOST)) for more in ((), (said,)))
    for url in (pb.LISTENER, pb.CLUSTER):
        assert {n: r.body for n, r in before.resources[url].items()} == {
            n: r.body for n, r in after.resources[url].items()
        }
    route = after.resources[pb.ROUTE]["outbound|80|api.shop|shop/web"]
    assert route.sources == {ref("p"), Ref("Service", "shop", "api")}


def a_route(name: str, rule: str) -> Object:
    text = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: 80}}]
  rules: [{rule}]
"""
    found = codec.decode(yaml.safe_load(text)["kind"], msgspec.json.encode(yaml.safe_load(text)))
    assert isinstance(found, Object), found
    return found


@pytest.mark.parametrize(
    "rule",
    [
        (
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: api, port: 81}, fraction: {numerator: "
            "1, denominator: 0}}}], backendRefs: [{name: api, port: 81}]}"
        ),
        f"{{timeouts: {{request: {'9' * 400}h}}, backendRefs: [{{name: api, port: 81}}]}}",
    ],
)
def test_a_route_that_cannot_be_expressed_is_answered_for_and_stops_nothing(rule: str):
    """Such an object is refused on its way in; another writer of the store could have put it there."""
    snapshot = compile_anew(project(a_world(a_route("bad", rule)), HOST))
    bad, good = (snapshot.resources[pb.ROUTE][f"outbound|{port}|api.shop|shop/web"] for port in (80, 81))
    assert b"cannot make sense of the routes" in bad.body
    assert b"cannot make sense of the routes" not in good.body
    assert any("cannot be expressed" in problem.reason for problem in snapshot.problems)


def test_matches_times_faults_are_bounded():
    matches = ", ".join(f"{{path: {{value: /{n}}}}}" for n in range(64))
    routes = [a_route(f"r{n}", f"{{matches: [{matches}], backendRefs: [{{name: api, port: 81}}]}}") for n in range(5)]
    faults = ", ".join(f"{{name: f{n}, abort: {{status: 500, percent: 1}}}}" for n in range(16))
    policy = a_policy("p", f"faults: [{faults}]", "service: api, port: 80")
    assert frame(policy, *routes[:3]).outbound[0].fault == ""
    found = project(a_world(policy, *routes), HOST).frame
    assert "320 matches of routes and 16 faults" in found.outbound[0].fault
    assert any("320 matches" in problem.reason for problem in found.problems)


@pytest.mark.parametrize("protocol", ["grpc", "http2"])
def test_a_broken_connection_is_unavailable_to_a_grpc_caller_alone(protocol: str):
    """A POST over plain HTTP that was seen is never repeated, whatever a policy names."""
    retries = Retries(attempts=1, retry_on=("unavailable",))
    found = tries(Handling(retries=retries), protocol)
    assert ("reset" in found.other.retry_on.split(",")) == (protocol == "grpc")
    assert "reset" not in tries(Handling(), protocol).other.retry_on.split(",")
