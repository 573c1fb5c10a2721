"""What TrafficPolicies say of requests, through real Envoys: counted at applications and in what callers get."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import grpc.aio
import pytest

from controlplane.demo.process import free_port
from mesh.model import Upstream
from tests.integration.compile.hosts import Host
from tests.integration.traffic.rig import App, Reply, Rig
from tests.support.meshes import definition, local
from tests.support.waiting import eventually

pytestmark = pytest.mark.real


def policy(spec: str, name: str = "p", target: str = "service: v1") -> str:
    return f"""
---
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  target: {{{target}}}
{spec}
"""


def access(name: str, action: str, principal: str) -> str:
    return f"""
---
apiVersion: holdfast.dev/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{action: {action}, rules: [{{from: [{{principals: [{principal}]}}]}}]}}
"""


ROUTE = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: v1, port: 80}]
  rules:
  - matches: [{path: {value: /own}}]
    backendRefs: [{name: v1, port: 80}]
    timeouts: {request: 0s}
    retry: {attempts: 1, codes: [500]}
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{name: to, value: v2}]}]
    backendRefs: [{name: v2, port: 80}]
"""


@contextmanager
def behaving(app: App, **ways: object) -> Iterator[App]:
    """An application that does as told, and has seen nothing yet."""
    before = {name: getattr(app, name) for name in ways}
    for name, value in ways.items():
        setattr(app, name, value)
    app.seen.clear()
    app.rpcs = 0
    try:
        yield app
    finally:
        for name, value in before.items():
            setattr(app, name, value)


def timed(ask: Callable[[], Reply]) -> tuple[Reply, float]:
    begin = time.monotonic()
    return ask(), time.monotonic() - begin


def call(mesh: Rig, method: str = "test.Echo/Say") -> tuple[str, str]:
    """Status and details of a gRPC call."""

    async def ask() -> tuple[str, str]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.grpc}") as channel:
            try:
                await channel.unary_unary(f"/{method}")(b"x", timeout=10)
            except grpc.aio.AioRpcError as exc:
                return exc.code().name, exc.details() or ""
            return "OK", ""

    return mesh.background.call(ask())


def statuses(mesh: Rig, count: int, path: str = "/", **more: object) -> Counter[int]:
    return Counter(mesh.get(path, service="v1", **more).status for _ in range(count))  # type: ignore[arg-type]


# --- times and tries --------------------------------------------------------------------------------------------------


def test_a_request_ends_with_its_time_and_a_route_s_own_comes_first(mesh: Rig):
    mesh.objects(policy("  timeouts: {request: 300ms}"))
    with behaving(mesh.apps["v1"], delay=1.0):
        reply, took = timed(lambda: mesh.get(service="v1"))
        assert (reply.status, took < 0.9) == (504, True)
        mesh.objects(policy("  timeouts: {request: 300ms}") + ROUTE)
        assert mesh.get("/a", service="v1").status == 504
        assert mesh.get("/own", service="v1").status == 200
        mesh.objects(policy("  timeouts: {request: 0s}"))
        assert mesh.get(service="v1").status == 200


def test_statuses_that_are_named_are_tried_again_if_a_request_may_be_repeated(mesh: Rig):
    mesh.objects(policy("  retries: {attempts: 3, statuses: [503, 409]}"))
    for status, method, tries in ((503, "GET", 4), (409, "PUT", 4), (500, "GET", 1), (503, "POST", 1)):
        with behaving(mesh.apps["v1"], status=status) as app:
            assert mesh.get(service="v1", method=method, body=b"x").status == status
            assert len(app.seen) == tries, (status, method)


@pytest.mark.parametrize(
    ("condition", "status", "tries"),
    [
        ("5xx", 500, 3),
        ("gateway-error", 502, 3),
        ("gateway-error", 500, 1),
        ("retriable-4xx", 409, 3),
        ("retriable-4xx", 404, 1),
    ],
)
def test_conditions_that_are_named(mesh: Rig, condition: str, status: int, tries: int):
    mesh.objects(policy(f"  retries: {{attempts: 2, retryOn: [{condition}]}}"))
    with behaving(mesh.apps["v1"], status=status) as app:
        assert mesh.get(service="v1").status == status
        assert len(app.seen) == tries
        app.seen.clear()
        assert mesh.get(service="v1", method="POST", body=b"x").status == status
        assert len(app.seen) == 1


def test_a_request_that_was_seen_is_not_repeated_unless_it_may_be(mesh: Rig):
    mesh.objects(policy("  retries: {attempts: 2, retryOn: [reset, gateway-error, 5xx]}"))
    with behaving(mesh.apps["v1"], drop=True) as app:
        assert mesh.get(service="v1", method="POST", body=b"x").status == 503
        assert len(app.seen) == 1
        app.seen.clear()
        assert mesh.get(service="v1").status == 503
        assert len(app.seen) == 3


def test_no_attempts_means_none(mesh: Rig):
    mesh.objects(policy("  retries: {attempts: 0, retryOn: [5xx]}"))
    with behaving(mesh.apps["v1"], status=503) as app:
        assert mesh.get(service="v1").status == 503
        assert len(app.seen) == 1


def test_one_try_ends_with_its_time_and_pauses_grow(mesh: Rig):
    mesh.objects(policy("  retries: {attempts: 2, retryOn: [gateway-error], perTry: 200ms, backoff: 1ms}"))
    with behaving(mesh.apps["v1"], delay=1.5) as app:
        reply, took = timed(lambda: mesh.get(service="v1"))
        assert (reply.status, len(app.seen)) == (504, 3)
        assert 0.55 <= took < 1.4
    mesh.objects(policy("  retries: {attempts: 1, statuses: [503], backoff: 1s}"))
    with behaving(mesh.apps["v1"], status=503) as app:
        pauses = [timed(lambda: mesh.get(service="v1"))[1] for _ in range(5)]
        # Each is at random, between nothing and the pause.
        assert 0.1 < max(pauses) < 3
        assert len(app.seen) == 10


def test_a_route_s_own_tries_come_first(mesh: Rig):
    mesh.objects(policy("  retries: {attempts: 3, statuses: [503]}") + ROUTE)
    for path, status, tries in (("/own", 500, 2), ("/own", 503, 1), ("/a", 503, 4), ("/a", 500, 1)):
        with behaving(mesh.apps["v1"], status=status) as app:
            assert mesh.get(path, service="v1").status == status
            assert len(app.seen) == tries, (path, status)


def test_grpc_statuses_that_are_named_are_tried_again(mesh: Rig):
    mesh.objects(policy("  retries: {attempts: 2, retryOn: [unavailable]}", target="service: api"))
    apps = mesh.apps.values()
    for code, tries in ((grpc.StatusCode.UNAVAILABLE, 3), (grpc.StatusCode.INTERNAL, 1)):
        for app in apps:
            app.code, app.rpcs = code, 0
        try:
            assert call(mesh)[0] == code.name
            assert sum(app.rpcs for app in apps) == tries
        finally:
            for app in apps:
                app.code = grpc.StatusCode.OK


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_delay_says_that_it_is_one(mesh: Rig):
    mesh.objects(policy("  faults: [{name: slow, delay: {duration: 400ms}}]"))
    reply, took = timed(lambda: mesh.get(service="v1"))
    assert (reply.by, reply.headers["x-holdfast-fault"]) == ("v1", "shop/p/slow")
    assert took >= 0.4
    line = mesh.caller.logged(lambda x: x.get("fault") == "shop/p/slow")
    assert (line["flags"], line["service"]) == ("DI", "v1.shop:80")
    mesh.objects("")
    assert "x-holdfast-fault" not in mesh.get(service="v1").headers


def test_an_abort_says_that_it_is_one_and_reaches_nobody(mesh: Rig):
    mesh.objects(policy("  faults: [{name: dead, abort: {status: 418}}]"))
    with behaving(mesh.apps["v1"]) as app:
        reply = mesh.get(service="v1", path="/aborted")
        assert (reply.status, reply.headers["x-holdfast-fault"]) == (418, "shop/p/dead")
        assert b"shop/p/dead" in reply.body
        assert app.seen == []
    line = mesh.caller.logged(lambda x: x.get("path") == "/aborted")
    assert (line["fault"], line["flags"]) == ("shop/p/dead", "FI")
    assert mesh.get(service="v2").by == "v2"


def test_percentages_are_shares_of_requests(mesh: Rig):
    mesh.objects(policy("  faults: [{name: some, abort: {status: 500, percent: 25}}]"))
    replies = mesh.in_turn([("/", ())] * 400, service="v1")
    assert 60 <= sum(r.status == 500 for r in replies) <= 140
    assert all(("x-holdfast-fault" in r.headers) == (r.status == 500) for r in replies)
    mesh.objects(
        policy("  faults: [{name: few, abort: {status: 500, percent: 0.5}}, {name: all, abort: {status: 418}}]")
    )
    # The first that matches is the one, also when its percentage lets a request go.
    counts = statuses(mesh, 400)
    assert counts[418] == 0
    assert counts[500] <= 15
    mesh.objects(policy("  faults: [{name: none, abort: {status: 500, percent: 0}}]"))
    assert statuses(mesh, 50) == {200: 50}


def test_of_several_faults_the_first_that_matches_counts(mesh: Rig):
    faults = """
  faults:
  - {name: one, abort: {status: 501}, match: {headers: [{name: x-test, value: "1"}]}}
  - {name: two, abort: {status: 502}, match: {methods: [POST, PUT]}}
  - {name: three, abort: {status: 503}, match: {pathPrefix: /cart/, headers: [{name: x-test, type: RegularExpression, value: "[12]"}]}}
  - {name: four, abort: {status: 504}, match: {pathPrefix: /cart, methods: [GET]}}
"""  # noqa: E501
    asked = {
        ("GET", "/", ""): 200,
        ("GET", "/cart", "1"): 501,
        ("POST", "/cart", "1"): 501,
        ("POST", "/cart", "2"): 502,
        ("GET", "/cart/x?y=1", "2"): 503,
        ("GET", "/cart?y=1", "3"): 504,
        ("GET", "/cartoon", "2"): 200,
        ("GET", "/x?/cart", ""): 200,
        ("DELETE", "/cart", ""): 200,
    }
    for more in ("", ROUTE.replace("value: /a}", "value: /}")):  # without a route, and with rules in an order
        mesh.objects(policy(faults) + more)
        found = {
            key: mesh.get(key[1], service="v1", method=key[0], headers=[("x-test", key[2])] if key[2] else []).status
            for key in asked
        }
        assert found == asked


def test_faults_leave_the_order_of_routes(mesh: Rig):
    fault = "  faults: [{name: a, delay: {duration: 50ms}, match: {headers: [{name: x-test, value: '1'}]}}]"
    mesh.objects(policy(fault) + ROUTE)
    for test in ("0", "1"):
        said = [("x-test", test), ("to", "v2")]
        replies = mesh.get("/a", service="v1", headers=said), mesh.get("/", service="v1", headers=said)
        assert [r.by for r in replies] == ["v1", "v2"]
        assert [r.headers.get("x-holdfast-fault") for r in replies] == [None if test == "0" else "shop/p/a"] * 2
        assert mesh.get("/", service="v1", headers=said[:1]).status == 404


def test_faults_for_a_caller_by_its_identity(mesh: Rig, other: int):
    for caller in ("shop/other", "spiffe://east.test/ns/shop/sa/other"):
        mesh.objects(
            access("other", "Allow", "shop/other")
            + policy(f'  faults: [{{name: them, callers: ["{caller}"], abort: {{status: 500}}}}]')
        )
        assert [mesh.get(service="v1").status, mesh.get(port=other).status] == [200, 500]


def test_grpc_faults(mesh: Rig):
    faults = """
  faults:
  - {name: gone, abort: {grpcStatus: 8}, match: {pathPrefix: /test.Echo}}
  - {name: bad, abort: {status: 503}}
"""
    mesh.objects(policy(faults, target="service: api, port: 7070"))
    status, details = call(mesh)
    assert (status, "shop/p/gone" in details) == ("RESOURCE_EXHAUSTED", True)
    assert call(mesh, "test.Other/Say")[0] == "UNAVAILABLE"
    assert mesh.get().status == 200  # the policy is for another port


def test_an_application_cannot_say_that_it_is_a_fault_or_a_limit(mesh: Rig):
    mesh.objects("")
    with behaving(mesh.apps["v1"], headers={"x-holdfast-fault": "a/b/c", "x-holdfast-limited-by": "a/b/c"}):
        headers = mesh.get(service="v1").headers
    assert not [name for name in headers if name.startswith("x-holdfast")]


# --- rate limits ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(mesh: Rig, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Where another identity, shop/other, reaches `v1`. Somebody has to let it in."""
    port = free_port("127.0.0.1")
    host = Host("other", tmp_path_factory.mktemp("other"), mesh.background)
    mesh.more.append(host)
    upstream = Upstream(service="v1", port=80, listen=f"127.0.0.1:{port}")
    host.publish(
        mesh.world,
        local(definition("other", upstreams=[upstream]), identities={"shop/other": mesh.ca.workload("shop/other")},
              node="other", address="127.0.0.75", mtls_port=free_port("127.0.0.75"), access_log=str(host.log)),
    )  # fmt: skip
    return port


def limits(*items: str, name: str = "p") -> str:
    return policy("  rateLimits:\n" + "".join(f"  - {item}\n" for item in items), name)


def test_what_is_over_a_limit_is_refused_by_its_name(mesh: Rig):
    mesh.objects("")  # no policy of another test, whichever came before
    listener = mesh.callees["v1"].republish(mesh.world)
    mesh.objects(limits("{name: all, requests: 3, window: 1m}"))
    with behaving(mesh.apps["v1"]) as app:
        replies = [mesh.get(service="v1", path="/limited") for _ in range(8)]
        assert [r.status for r in replies] == [200] * 3 + [429] * 5
        assert len(app.seen) == 3
    hints = {
        "x-holdfast-limited-by": "shop/p/all",
        "retry-after": "20",
        "x-ratelimit-limit": "3",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "20",
    }
    assert {name: replies[-1].headers.get(name) for name in hints} == hints
    assert not hints.keys() & replies[0].headers.keys()
    for host in (mesh.callees["v1"], mesh.caller):
        line = host.logged(lambda x: x.get("path") == "/limited" and x["status"] == 429)
        assert line["limited_by"] == "shop/p/all"
    assert statuses(mesh, 5, path="/") == {429: 5}
    assert mesh.get(service="v2").status == 200
    after = mesh.callees["v1"].republish(mesh.world)
    url = next(url for url in after.resources if url.endswith("Listener"))
    assert {n: r.version for n, r in after.resources[url].items()} == {
        n: r.version for n, r in listener.resources[url].items()
    }


def test_each_instance_counts_for_itself(mesh: Rig):
    mesh.objects(policy("  rateLimits: [{name: each, requests: 2, window: 1m}]", target="service: api"))
    assert Counter(mesh.get().status for _ in range(20)) == {200: 6, 429: 14}


def test_a_burst_and_the_room_that_comes_back(mesh: Rig):
    mesh.objects(limits("{name: burst, requests: 60, window: 1h, burst: 4}"))
    assert statuses(mesh, 10) == {200: 4, 429: 6}
    mesh.objects(limits("{name: more, requests: 5, window: 2s, burst: 1}"))
    begin, passed = time.monotonic(), 0
    while (took := time.monotonic() - begin) < 4:
        passed += mesh.get(service="v1").status == 200
    assert 1 + took * 2.5 * 0.6 <= passed <= 1 + took * 2.5 + 1


def test_each_caller_has_its_own_room(mesh: Rig, other: int):
    mesh.objects(access("other", "Allow", "shop/other") + limits("{name: own, requests: 3, window: 1m, by: Caller}"))
    assert statuses(mesh, 8) == {200: 3, 429: 5}
    assert Counter(mesh.get(port=other).status for _ in range(5)) == {200: 3, 429: 2}
    # Only the certificate says who calls.
    forged = [("x-forwarded-client-cert", "URI=spiffe://east.test/ns/shop/sa/third")]
    assert mesh.get(service="v1", headers=forged).status == 429


def test_only_what_matches_counts(mesh: Rig):
    mesh.objects(
        limits(
            "{name: search, requests: 2, window: 1m, match: {pathPrefix: /search, methods: [GET]}}",
            "{name: bulk, requests: 1, window: 1m, by: Caller, match: {headers: [{name: x-kind, value: bulk}]}}",
        )
    )
    assert statuses(mesh, 20) == {200: 20}
    assert statuses(mesh, 5, path="/search/x?q=1") == {200: 2, 429: 3}
    assert statuses(mesh, 3, path="/search", method="POST") == {200: 3}
    assert statuses(mesh, 3, path="/searching") == {200: 3}
    replies = [mesh.get(service="v1", headers=[("x-kind", "bulk")]) for _ in range(3)]
    assert [r.status for r in replies] == [200, 429, 429]
    assert replies[-1].headers["x-holdfast-limited-by"] == "shop/p/bulk"


def test_all_limits_must_have_room_and_the_narrow_ones_come_first(mesh: Rig, other: int):
    mesh.objects(
        access("other", "Allow", "shop/other")
        + limits("{name: all, requests: 5, window: 1m}", "{name: own, requests: 3, window: 1m, by: Caller}")
    )
    mine = [mesh.get(service="v1") for _ in range(10)]
    assert Counter(r.status for r in mine) == {200: 3, 429: 7}
    assert {r.headers.get("x-holdfast-limited-by") for r in mine} == {None, "shop/p/own"}
    theirs = [mesh.get(port=other) for _ in range(3)]
    assert [r.status for r in theirs] == [200, 200, 429]
    assert theirs[-1].headers["x-holdfast-limited-by"] == "shop/p/all"


def test_who_is_denied_takes_no_room(mesh: Rig, other: int):
    mesh.objects(access("refused", "Deny", "shop/other") + limits("{name: shared, requests: 3, window: 1m}"))
    assert Counter(mesh.get(port=other).status for _ in range(6)) == {403: 6}
    assert statuses(mesh, 5) == {200: 3, 429: 2}


def test_limits_of_grpc(mesh: Rig):
    mesh.objects(policy("  rateLimits: [{name: rpc, requests: 1, window: 1m}]", target="service: api, port: 7070"))
    found = Counter(call(mesh)[0] for _ in range(12))
    assert found == {"OK": 3, "RESOURCE_EXHAUSTED": 9}


def test_limits_come_and_go_on_open_connections(mesh: Rig):
    mesh.objects(limits("{name: tight, requests: 1, window: 1m}"))
    assert statuses(mesh, 3) == {200: 1, 429: 2}
    mesh.objects("")
    assert eventually(lambda: statuses(mesh, 5) == {200: 5}, what="no limit")
