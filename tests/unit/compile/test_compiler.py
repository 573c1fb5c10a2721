import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import pb
from mesh.compile import Compiler, check, names, project
from mesh.compile.compiler import compile as compile_anew
from mesh.model import GateSpec, LocalPort, Ref, Revision, ServiceRef, Upstream, World
from mesh.model.world import EndpointRemoved, Removed
from tests.support.meshes import config, definition, endpoint, fake_identity, local, policy, rule, service, world

CALLS = [
    Upstream(service="api", port=80, listen="127.0.0.1:9001"),
    Upstream(service="db", port=5432, listen="127.0.0.1:9002"),
]
WEB = definition("web", LocalPort(port=8080, name="http", protocol="http"), upstreams=CALLS)
DB = service("db", port=5432, protocol="tcp")
BASE = world(config(), service("web", target="http"), service("api"), DB, endpoint("api", "a", "10.0.0.1"))


def resources(snapshot, url):
    return {name: pb.decode(url, r.body) for name, r in snapshot.resources[url].items()}


def same(one, two) -> bool:
    """All but what is only said of the way there."""
    return one.digest == two.digest and all(
        {n: (r.version, r.body, r.sources) for n, r in one.resources[u].items()}
        == {n: (r.version, r.body, r.sources) for n, r in two.resources[u].items()}
        for u in pb.SHORT
    )


steps = st.one_of(
    st.tuples(
        st.just("endpoint"),
        st.sampled_from(["api", "db", "unrelated"]),
        st.sampled_from("abc"),
        st.sampled_from(["healthy", "lost", "unhealthy"]),
    ),
    st.tuples(st.just("gone"), st.sampled_from(["api", "db"]), st.sampled_from("abc")),
    st.tuples(st.just("service"), st.sampled_from(["api", "db"]), st.sampled_from(["http", "tcp", "grpc"])),
    st.tuples(st.just("no service"), st.sampled_from(["api", "db", "web"])),
    st.tuples(st.just("policy"), st.sampled_from(["p", "q"]), st.sampled_from(["Allow", "Deny"])),
    st.tuples(st.just("certificate"), st.booleans()),
    st.tuples(st.just("skip")),
)


def apply(state: World, step) -> World:
    revision = Revision(state.revision + 1)
    match step:
        case ("endpoint", name, where, health):
            return world(
                endpoint(name, where, "10.0.0.9", ports=(80, 5432), health=health), base=state, revision=revision
            )
        case ("gone", name, where):
            return state.apply([EndpointRemoved(ServiceRef("shop", name), f"{name}-{where}")], revision)
        case ("service", name, protocol):
            port = 80 if name == "api" else 5432
            return world(service(name, port=port, protocol=protocol), base=state, revision=revision)
        case ("no service", name):
            return state.apply([Removed(Ref("Service", "shop", name))], revision)
        case ("policy", name, action):
            return world(policy(name, "web", rule("shop/api"), action=action), base=state, revision=revision)
    return state


@given(st.lists(steps, max_size=12))
def test_step_by_step_is_the_same_as_at_once(path):
    compiler, state, host = Compiler(), BASE, local(WEB)
    before = compiler.compile(compiler.project(state, host))
    for step in path:
        state = apply(state, step)
        if step[0] == "certificate":
            host = local(WEB, identities=None if step[1] else {})
        if step[0] == "skip":
            continue
        after = compiler.compile(compiler.project(state, host))
        assert same(after, compile_anew(project(state, host)))
        assert check(after) == ()
        assert after.base == before.digest
        for url in pb.SHORT:
            old, new = before.resources[url], after.resources[url]
            differ = {n for n in {*old, *new} if old.get(n) != new.get(n)}
            assert after.changed.get(url, frozenset()) >= differ
            assert (old is new) == (not after.changed.get(url))
        before = after


def test_an_endpoint_changes_one_load_assignment_and_nothing_else():
    compiler, host = Compiler(), local(WEB)
    first = compiler.compile(compiler.project(BASE, host))
    newer = world(endpoint("api", "b", "10.0.0.2"), base=BASE, revision=2)
    second = compiler.compile(compiler.project(newer, host))
    assert second.changed == {pb.ENDPOINT: {names.load_assignment(ServiceRef("shop", "api"), 80)}}
    assert second.digest != first.digest
    for url in (pb.CLUSTER, pb.LISTENER, pb.ROUTE, pb.SECRET):
        assert second.resources[url] is first.resources[url]
    back = newer.apply([EndpointRemoved(ServiceRef("shop", "api"), "api-b")], Revision(3))
    assert compiler.compile(compiler.project(back, host)).digest == first.digest


def test_a_policy_for_http_leaves_the_listener_alone():
    compiler, host = Compiler(), local(WEB)
    first = compiler.compile(compiler.project(BASE, host))
    second = compiler.compile(compiler.project(world(policy("p", "web", rule("shop/api")), base=BASE), host))
    assert second.changed == {pb.ROUTE: {"inbound|80|web.shop"}}
    assert Ref("AuthorizationPolicy", "shop", "p") in second.resources[pb.ROUTE]["inbound|80|web.shop"].sources
    assert second.resources[pb.LISTENER] is first.resources[pb.LISTENER]


def test_a_renewed_certificate_is_one_secret():
    compiler = Compiler()
    compiler.compile(compiler.project(BASE, local(WEB)))
    renewed = local(WEB, identities={"shop/web": fake_identity("shop/other")})
    assert compiler.compile(compiler.project(BASE, renewed)).changed == {pb.SECRET: {"identity|shop/web"}}


def test_nothing_is_opened_without_a_certificate():
    snapshot = compile_anew(project(BASE, local(WEB, identities={})))
    assert "inbound" not in snapshot.resources[pb.LISTENER]
    assert [n for n in snapshot.resources[pb.CLUSTER] if n.startswith("outbound")] == []
    route = resources(snapshot, pb.ROUTE)["outbound|80|api.shop|shop/web"]
    assert route.virtual_hosts[0].routes[0].direct_response.status == 503
    assert any("certificate" in p.reason for p in snapshot.problems)
    assert check(snapshot) == ()


def test_a_service_that_appears_changes_no_listener():
    empty, host, compiler = world(config()), local(WEB), Compiler()
    first = compiler.compile(compiler.project(empty, host))
    second = compiler.compile(compiler.project(world(service("api"), base=empty), host))
    assert set(second.changed) == {pb.ROUTE, pb.CLUSTER, pb.ENDPOINT}
    assert first.resources[pb.LISTENER] is second.resources[pb.LISTENER]


def test_upstreams_are_taken_by_their_names_only():
    cluster = resources(compile_anew(project(BASE, local(WEB))), pb.CLUSTER)["outbound|80|api.shop|shop/web"]
    context = pb.UpstreamTlsContext.FromString(cluster.transport_socket.typed_config.value)
    combined = context.common_tls_context.combined_validation_context
    matchers = combined.default_validation_context.match_typed_subject_alt_names
    assert [m.matcher.exact for m in matchers] == ["spiffe://east.test/ns/shop/sa/api"]
    assert combined.validation_context_sds_secret_config.name == "bundle|east.test"
    assert context.sni == "80.api.shop.east.mesh"


def test_the_gate_stands_in_an_empty_world():
    spec = GateSpec(listen="127.0.0.1:2400", etcd=("127.0.0.1:2379",), etcd_ca="a", etcd_cert="b", etcd_key="c")
    host = local(identities={"gate": fake_identity("x/y")}, gate=spec)
    snapshot = compile_anew(project(World(), host))
    assert set(snapshot.resources[pb.LISTENER]) == {"gate"}
    assert check(snapshot) == ()
    assert snapshot.problems == ()


@pytest.mark.parametrize("listen", ["example.com:1", "127.0.0.1:0", "127.0.0.1", "127.0.0.1:99999"])
def test_a_gate_that_cannot_be_is_a_problem(listen):
    spec = GateSpec(listen=listen, etcd=("127.0.0.1:2379",), etcd_ca="a", etcd_cert="b", etcd_key="c")
    snapshot = compile_anew(project(World(), local(gate=spec)))
    assert snapshot.resources[pb.LISTENER] == {}
    assert [p.path for p in snapshot.problems] == ["gate.listen"]


def test_check_finds_what_is_open():
    snapshot = compile_anew(project(BASE, local(WEB)))
    broken = {**snapshot.resources, pb.SECRET: {}, pb.ENDPOINT: {}}
    found = check(type(snapshot)(revision=snapshot.revision, digest=b"", resources=broken))
    assert "sds bundle is referred to, and is not there" in found
    assert "eds 80|api.shop is referred to, and is not there" in found


@pytest.mark.slow
def test_the_cost_of_an_endpoint_does_not_grow_with_the_mesh():
    def cost(count: int) -> float:
        calls = [Upstream(service=f"s{n}", port=80, listen=f"127.0.{n // 200}.1:{n % 200 + 1}") for n in range(count)]
        host = local(definition("web", upstreams=calls))
        state = world(
            *(service(f"s{n}") for n in range(count)), *(endpoint(f"s{n}", "a", "10.0.0.1") for n in range(count))
        )
        compiler = Compiler()
        compiler.compile(compiler.project(state, host))
        best = 1.0
        for n in range(200):
            state = world(endpoint("s0", "a", f"10.0.1.{n}"), base=state, revision=n + 2)
            begin = time.perf_counter()
            snapshot = compiler.compile(compiler.project(state, host))
            best = min(best, time.perf_counter() - begin)
            assert snapshot.changed == {pb.ENDPOINT: {"80|s0.shop"}}
        return best

    few, many = cost(10), cost(1000)
    assert many < 3 * few, (few, many)


def test_nothing_in_the_gate_ends_a_quiet_watch():
    spec = GateSpec(listen="127.0.0.1:2400", etcd=("127.0.0.1:2379",), etcd_ca="a", etcd_cert="b", etcd_key="c")
    snapshot = compile_anew(project(World(), local(identities={"gate": fake_identity("x/y")}, gate=spec)))
    chain = resources(snapshot, pb.LISTENER)["gate"].filter_chains[0]
    manager = pb.HttpConnectionManager.FromString(chain.filters[-1].typed_config.value)
    # Set, and 0: absent would be five minutes.
    assert manager.HasField("stream_idle_timeout")
    assert manager.stream_idle_timeout.ToSeconds() == 0
    assert not manager.HasField("request_timeout")
    assert not manager.common_http_protocol_options.HasField("max_connection_duration")
    assert not manager.common_http_protocol_options.HasField("max_stream_duration")
    routes = resources(snapshot, pb.ROUTE)["gate"].virtual_hosts[0].routes
    for route in routes:
        assert route.route.HasField("timeout")
        assert route.route.timeout.ToSeconds() == 0
        assert not route.route.HasField("idle_timeout")
        # Only a read has to end.
        assert route.route.HasField("max_stream_duration") == (route.match.path == "/etcdserverpb.KV/Range")
    # Only reads are asked twice.
    assert [r.match.path for r in routes if r.route.retry_policy.HasField("per_try_timeout")] == [
        "/etcdserverpb.KV/Range"
    ]
    cluster = resources(snapshot, pb.CLUSTER)["gate|etcd"]
    options = pb.UpstreamHttpOptions.FromString(next(iter(cluster.typed_extension_protocol_options.values())).value)
    assert not options.common_http_protocol_options.HasField("max_connection_duration")
    assert not options.common_http_protocol_options.HasField("max_stream_duration")
    # etcd hangs up on whoever pings more often than every 5 s.
    ping = options.explicit_http_config.http2_protocol_options.connection_keepalive
    assert ping.interval.ToMilliseconds() > 5000
