"""What policies say of connections, from objects to what a host is given: who is to blame, and what is left alone."""

import msgspec
import yaml

from mesh import codec, pb
from mesh.compile import Compiler, Snapshot, interest
from mesh.model import Endpoint, NodeLocal, Object, Ref, ServicePort, ServiceRef, Upstream, World
from tests.support.meshes import FAKE_ROOT, bundle, config, definition, endpoint, local, service, world

PORTS = {"api": 80, "db": 5432, "replica": 5432}


def host(locality: str = "") -> NodeLocal:
    calls = [Upstream(service=name, port=PORTS[name], listen=f"127.0.0.1:{PORTS[name]}") for name in ("api", "db")]
    return local(definition("web", upstreams=calls), locality=locality)


def known(*texts: str) -> World:
    services = [service(name, port=port, protocol="tcp" if port > 80 else "http") for name, port in PORTS.items()]
    more = [codec.decode_strict(tree) for text in texts for tree in yaml.safe_load_all(text) if tree]
    assert all(isinstance(obj, Object) for obj in more), more
    return world(config(), bundle(FAKE_ROOT), *services, *more)  # type: ignore[arg-type]


def policy(name: str, spec: str, port: str = "") -> str:
    return f"""
---
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  target: {{service: {name}{port}}}
  {spec}
"""


SPLIT = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: db}]
  rules: [{backendRefs: [{name: db, port: 5432}, {name: replica, port: 5432}]}]
"""


def made(seen: World, here: NodeLocal | None = None, compiler: Compiler | None = None) -> Snapshot:
    compiler = compiler or Compiler()
    return compiler.compile(compiler.project(seen, here or host()))


def changed(before: str, after: str) -> set[str]:
    """What is sent again when policies change."""
    compiler = Compiler()
    first = made(known(before), compiler=compiler)
    second = made(known(after), compiler=compiler)
    return {
        f"{pb.SHORT[url]} {name}"
        for url, resources in second.resources.items()
        for name, resource in resources.items()
        if (old := first.resources[url].get(name)) is None or old.version != resource.version
    }


def test_a_policy_changes_the_cluster_and_no_listener():
    cluster = {"cds outbound|5432|db.shop|shop/web"}
    for spec in (
        "circuitBreaking: {maxConnections: 1}", "outlierDetection: {interval: 9s}", "healthCheck: {}",
        "timeouts: {connect: 3s}", "tcpKeepalive: {idle: 9s}", "retries: {budget: {}}",
        "loadBalancing: {algorithm: Maglev, hash: [{source: true}]}",
    ):  # fmt: skip
        assert changed("", policy("db", spec)) == cluster, spec


def test_only_how_long_tcp_may_be_idle_is_the_listeners():
    idle = "timeouts: {idle: 60s}"
    assert changed("", policy("api", idle)) == {"cds outbound|80|api.shop|shop/web"}
    assert "lds outbound|shop/web|127.0.0.1:5432" in changed("", policy("db", idle))


def test_what_requests_are_hashed_by_is_in_the_route_too():
    spec = "loadBalancing: {algorithm: RingHash, hash: [{header: x-user}]}"
    assert changed("", policy("api", spec)) == {f"{t} outbound|80|api.shop|shop/web" for t in ("cds", "rds")}


def test_a_policy_that_says_nothing_of_connections_changes_nothing():
    assert changed("", policy("api", "rateLimits: [{name: a, requests: 1}]")) == set()
    assert changed("", policy("gone", "healthCheck: {}")) == set()


def test_resources_name_the_policies_they_are_from():
    seen = known(
        policy("api", "loadBalancing: {algorithm: RingHash, hash: [{header: x}]}"),
        policy("db", "timeouts: {idle: 60s}"), policy("replica", "locality: {}"), SPLIT,
    )  # fmt: skip
    found = made(seen).resources
    api, db, replica = (Ref("TrafficPolicy", "shop", name) for name in PORTS)
    assert api in found[pb.CLUSTER]["outbound|80|api.shop|shop/web"].sources
    assert api in found[pb.ROUTE]["outbound|80|api.shop|shop/web"].sources
    assert {db, replica} <= found[pb.CLUSTER]["outbound|5432|db.shop|shop/web"].sources
    assert db in found[pb.LISTENER]["outbound|shop/web|127.0.0.1:5432"].sources
    assert all(r.sources.isdisjoint({db, replica}) for r in found[pb.LISTENER].values() if ":80" in r.name)


def test_endpoints_move_when_their_place_or_labels_do():
    def there(obj: Endpoint) -> pb.ClusterLoadAssignment:
        view = compiler.project(world(obj, base=seen), host("eu/a/1"))
        body = compiler.compile(view).resources[pb.ENDPOINT]["80|api.shop"].body
        return pb.ClusterLoadAssignment.FromString(body)

    compiler, seen = Compiler(), known(policy("api", "locality: {strict: true}"))
    plain = endpoint("api", "one", "10.0.0.1")
    for locality, count in (("eu/b/1", 1), ("us/a/1", 0), ("eu/a/1", 1)):
        spec = msgspec.structs.replace(plain.spec, locality=locality)
        assert len(there(msgspec.structs.replace(plain, spec=spec)).endpoints) == count


def test_what_tcp_cannot_have_is_said_and_left_out():
    found = made(known(policy("db", "healthCheck: {type: grpc}")))
    assert [(str(p.object), p.path) for p in found.problems] == [("TrafficPolicy shop/db", "spec.healthCheck")]
    assert not health_checks(found, "5432|db.shop")
    requests = (
        "retries: {attempts: 1}\n  faults: [{name: a, abort: {status: 500}}]\n  rateLimits: [{name: a, requests: 1}]"
    )
    for spec in (requests, requests + "\n  circuitBreaking: {maxConnections: 1}"):
        found = made(known(policy("db", spec)))
        assert {p.path for p in found.problems} == {"spec.retries", "spec.faults", "spec.rateLimits"}


def health_checks(found: Snapshot, name: str) -> list[pb.HealthCheck]:
    body = found.resources[pb.CLUSTER][f"outbound|{name}|shop/web"].body
    return list(pb.Cluster.FromString(body).health_checks)


def test_ports_that_cannot_answer_a_check_are_not_asked():
    two = (ServicePort(port=80, protocol="http"), ServicePort(port=5432, protocol="tcp"))
    calls = [Upstream(service="api", port=p, listen=f"127.0.0.1:{p}") for p in (80, 5432)]
    here = local(definition("web", upstreams=calls))
    found = made(world(service("api", ports=two), base=known(policy("api", "healthCheck: {type: http}"))), here)
    assert found.problems == ()
    assert health_checks(found, "80|api.shop")
    assert not health_checks(found, "5432|api.shop")


def test_endpoints_of_all_shares_of_connections_are_of_interest():
    here = host()
    assert interest(here, known(SPLIT)) == {ServiceRef("shop", name) for name in PORTS}
