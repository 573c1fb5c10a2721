"""ExternalServices: what a host's configuration has of them, whatever was there before."""

import yaml

from mesh import codec, pb
from mesh.compile import Compiler, Snapshot, check
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.project import interest, project
from mesh.model import Object, Ref, Revision, ServiceRef, Upstream, World
from mesh.model.world import Removed
from tests.support.meshes import bundle, config, definition, local, service, world

FAKE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
CALLS = [
    Upstream(service="ext", port=443, listen="127.0.0.1:9001"),
    Upstream(service="api", port=80, listen="127.0.0.1:9002"),
]
HOST = local(definition("web", upstreams=CALLS))
EXT = Ref("ExternalService", "shop", "ext")


def parsed(text: str) -> list[Object]:
    found = [codec.decode_strict(tree) for tree in yaml.safe_load_all(text) if tree]
    assert all(isinstance(obj, Object) for obj in found), found
    return found  # type: ignore[return-value]


def external(host: str = "a.test", protocol: str = "http") -> list[Object]:
    return parsed(f"""
apiVersion: holdfast.dev/v1
kind: ExternalService
metadata: {{name: ext, namespace: shop}}
spec: {{hosts: [{host}], ports: [{{port: 443, protocol: {protocol}, tls: {{mode: Originate}}}}]}}
""")


ROUTE = parsed("""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules: [{backendRefs: [{group: holdfast.dev, kind: ExternalService, name: ext, port: 443}]}]
""")
POLICY = parsed("""
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {name: p, namespace: shop}
spec: {target: {service: ext}, timeouts: {connect: 2s, request: 3s}}
""")
BASE = world(config(), bundle(FAKE), service("api"))


def clusters(snapshot: Snapshot) -> set[str]:
    return set(snapshot.resources[pb.CLUSTER])


def test_every_way_to_a_state_ends_in_the_same_configuration():
    compiler, state, revision = Compiler(), BASE, 1
    steps: list[list[Object] | Ref] = [
        external(), external("b.test"), ROUTE, external("b.test", "tcp"), external("b.test", "grpc"), POLICY,
        [service("ext", port=443)], EXT, external("c.test"), Ref("Service", "shop", "ext"),
        Ref("HTTPRoute", "shop", "r"), EXT,
    ]  # fmt: skip
    for step in steps:
        revision += 1
        if isinstance(step, Ref):
            state = state.apply([Removed(step)], Revision(revision))
        else:
            state = world(*step, base=state, revision=revision)
        snapshot = compiler.compile(compiler.project(state, HOST))
        fresh = compile_anew(project(state, HOST))
        assert check(snapshot) == ()
        assert (snapshot.digest, snapshot.problems) == (fresh.digest, fresh.problems), step


def test_a_service_of_the_name_comes_first_for_upstreams():
    both = world(*external(), service("ext", port=443), base=BASE)
    assert clusters(compile_anew(project(both, HOST))) == {
        "outbound|443|ext.shop|shop/web",
        "outbound|80|api.shop|shop/web",
    }
    assert "external|443|ext.shop|shop/web" in clusters(compile_anew(project(world(*external(), base=BASE), HOST)))


def test_who_is_to_blame():
    snapshot = compile_anew(project(world(*external(), *POLICY, *ROUTE, base=BASE), HOST))
    policy = Ref("TrafficPolicy", "shop", "p")
    assert snapshot.resources[pb.CLUSTER]["external|443|ext.shop|shop/web"].sources == {EXT, policy}
    assert snapshot.resources[pb.ROUTE]["outbound|443|ext.shop|shop/web"].sources == {EXT, policy}


def test_on_a_host_without_roots_what_needs_them_has_no_endpoints_wherever_it_is_called_from():
    bare = local(definition("web", upstreams=CALLS), trust_file="")
    snapshot = compile_anew(project(world(*external(), *ROUTE, base=BASE), bare))
    assert check(snapshot) == ()
    told = {(p.object, p.path) for p in snapshot.problems}
    assert told == {(EXT, "spec.ports[0].tls.caCertificates")}
    body = snapshot.resources[pb.CLUSTER]["external|443|ext.shop|shop/web"].body
    found = pb.Cluster.FromString(body)
    assert not found.load_assignment.endpoints
    assert b"filename" not in body
    assert clusters(snapshot) >= {"external|443|ext.shop|shop/web"}
    there = project(world(*external(), *ROUTE, base=BASE), HOST)
    assert not compile_anew(there).problems


def test_nobody_asks_for_endpoints_of_what_a_route_leads_to_outside():
    state: World = world(*external(), *ROUTE, base=BASE)
    host = local(definition("web", upstreams=CALLS[1:]))
    assert interest(host, state) == {ServiceRef("shop", "api")}
