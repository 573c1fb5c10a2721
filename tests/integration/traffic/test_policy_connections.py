"""TrafficPolicy through real Envoys, of connections: who gets the next, who is left out, and how many at once."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from mesh.model import Endpoint
from tests.integration.traffic.policies import answered, policy, route, stat, took
from tests.integration.traffic.rig import INSTANCES, Rig
from tests.support.meshes import endpoint
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

KEYS = 500
"""Of ten endpoints' keys a tenth moves, give or take 1.3 %: over 85 % is three and a half times that away."""


@pytest.fixture(autouse=True)
def fresh(mesh: Rig) -> Iterator[None]:
    mesh.fresh()
    yield
    mesh.fresh()


# --- places ----------------------------------------------------------------------------------------------------------

PLACED = {"v1": {"locality": "eu/a/1"}, "v2": {"locality": "eu/b/1"}, "v3": {"locality": "us/a/1"}}


def test_the_nearest_answer_until_they_are_not_healthy_and_again_when_they_are(mesh: Rig):
    mesh.change(**PLACED)
    mesh.caller_at("eu/a/2")
    mesh.objects(policy("locality: {}"))
    assert answered(mesh).keys() == {"v1"}
    mesh.change(v1={"health": "unhealthy"})
    assert answered(mesh).keys() == {"v2"}
    mesh.change(v2={"health": "lost"})
    assert answered(mesh).keys() == {"v3"}
    mesh.change(v1={"health": "healthy"})
    assert answered(mesh).keys() == {"v1"}
    mesh.caller_at("us/z/9")
    assert answered(mesh).keys() == {"v3"}


def test_strict_does_not_leave_the_region(mesh: Rig):
    mesh.change(**PLACED)
    mesh.caller_at("us/z/1")
    mesh.objects(policy("locality: {strict: true}"))
    assert answered(mesh).keys() == {"v3"}
    mesh.change(v3={"health": "unhealthy"})
    assert answered(mesh, 10).keys() == {"503"}


def test_weights_of_places_count_together_with_failover(mesh: Rig):
    mesh.change(**PLACED)
    mesh.objects(
        policy("""locality:
    prefer: false
    weights: [{locality: eu/a, weight: 80}, {locality: eu/b, weight: 20}]
    failover: [us]
""")
    )
    counts = answered(mesh, 400)
    assert counts.keys() == {"v1", "v2"}
    assert 0.75 <= counts["v1"] / 400 <= 0.85
    mesh.change(v1={"health": "unhealthy"}, v2={"health": "unhealthy"})
    assert answered(mesh).keys() == {"v3"}
    mesh.change(v1={"health": "healthy"}, v2={"health": "healthy"})
    assert 0.75 <= answered(mesh, 400)["v1"] / 400 <= 0.85


def test_failover_goes_in_the_order_that_is_said(mesh: Rig):
    mesh.change(v1={"locality": "eu/a"}, v2={"locality": "asia/a"}, v3={"locality": "us/a"})
    mesh.caller_at("eu/a")
    mesh.objects(policy("locality: {failover: [us, asia]}"))
    assert answered(mesh).keys() == {"v1"}
    mesh.change(v1={"health": "draining"})
    assert answered(mesh).keys() == {"v3"}
    mesh.objects(policy("locality: {failover: [asia, us]}"))
    assert answered(mesh).keys() == {"v2"}


# --- who gets the next one -------------------------------------------------------------------------------------------


@pytest.fixture
def ten(mesh: Rig) -> Iterator[list[Endpoint]]:
    """Ten endpoints of `v1`: what reaches one of these addresses goes on to its host."""
    found = []
    servers = []
    for number in range(10):
        address, port = f"127.0.0.{81 + number}", mesh.mtls["v1"]

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward = await asyncio.open_connection(INSTANCES["v1"], mesh.mtls["v1"])
            with contextlib.closing(writer), contextlib.closing(onward[1]):
                await asyncio.gather(_pass(reader, onward[1]), _pass(onward[0], writer))

        servers.append(mesh.background.call(asyncio.start_server(serve, address, port)))
        plain = endpoint("v1", f"n{number}", address, mtls_port=port)
        found.append(msgspec.structs.replace(plain, spec=msgspec.structs.replace(plain.spec, service_account="api")))
    mesh.endpoints("v1", *found)
    yield found
    mesh.fresh()
    for server in servers:
        mesh.background.loop.call_soon_threadsafe(server.close)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def went(mesh: Rig, run: str, keys: int, header: str = "x-user: {}") -> dict[int, str]:
    """Key -> address of the endpoint that its request went to, by the caller's log."""
    name, _, value = header.partition(": ")
    asks = [(f"/{run}/{key}", [(name, value.format(key))]) for key in range(keys)]
    assert {reply.status for reply in mesh.in_turn(asks, service="v1")} == {200}

    def logged() -> dict[int, str]:
        lines = [line for line in mesh.caller.lines() if str(line.get("path")).startswith(f"/{run}/")]
        return {int(str(line["path"]).rpartition("/")[2]): str(line["upstream_host"]) for line in lines}

    return eventually(lambda: found if len(found := logged()) == keys else None, what="all requests in the log")


@pytest.mark.parametrize("algorithm", ["RingHash", "Maglev"])
def test_keys_stay_where_they_are_when_one_of_ten_endpoints_leaves(mesh: Rig, ten: list[Endpoint], algorithm: str):
    mesh.objects(policy(f"loadBalancing: {{algorithm: {algorithm}, hash: [{{header: x-user}}]}}", "v1"))
    first = went(mesh, f"{algorithm}-first", KEYS)
    assert len(set(first.values())) == 10
    assert went(mesh, f"{algorithm}-again", KEYS) == first
    mesh.endpoints("v1", *ten[:4], *ten[5:])
    after = went(mesh, f"{algorithm}-after", KEYS)
    gone = f"{ten[4].spec.address}:{ten[4].spec.port}"
    assert gone not in after.values()
    stay = {key: host for key, host in first.items() if host != gone}
    kept = sum(after[key] == host for key, host in stay.items())
    assert kept >= 0.85 * KEYS, (kept, KEYS)
    # What does not have to move does not: of those that stay, all but a few.
    assert kept >= 0.97 * len(stay), (kept, len(stay))
    mesh.endpoints("v1", *ten)
    assert went(mesh, f"{algorithm}-back", KEYS) == first


def test_no_key_moves_because_an_endpoint_of_little_weight_leaves(mesh: Rig, ten: list[Endpoint]):
    heavy = [msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, weight=100)) for one in ten[1:]]
    mesh.endpoints("v1", ten[0], *heavy)
    mesh.objects(policy("loadBalancing: {algorithm: RingHash, hash: [{header: x-user}]}", "v1"))
    first = went(mesh, "light-first", KEYS)
    mesh.endpoints("v1", *heavy)
    after = went(mesh, "light-after", KEYS)
    kept = sum(after[key] == host for key, host in first.items())
    assert kept >= 0.97 * KEYS, kept


def test_a_cookie_that_is_missing_is_set_and_kept_to(mesh: Rig, ten: list[Endpoint]):
    assert ten
    hashed = "hash: [{cookie: {name: seat, ttl: 60s, path: /}}]"
    mesh.objects(policy(f"loadBalancing: {{algorithm: Maglev, {hashed}}}", "v1"))
    replies = [mesh.get("/", service="v1") for _ in range(5)]
    seats = {reply.headers["set-cookie"].partition(";")[0] for reply in replies}
    assert len(seats) == 5
    assert "Max-Age=60" in replies[0].headers["set-cookie"]
    assert len(set(went(mesh, "seated", 20, f"cookie: {seats.pop()}").values())) == 1


def test_what_a_route_shares_out_is_hashed_by_the_keys_of_all_backends(mesh: Rig, ten: list[Endpoint]):
    assert ten
    mesh.objects(
        policy("loadBalancing: {algorithm: Maglev, hash: [{header: x-user}]}", "v1")
        + route("{name: v1, port: 80}, {name: v2, port: 80}")
    )
    for number in range(40):
        mesh.get(f"/shared/{number}", headers=[("x-user", "one")])
    lines = eventually(
        lambda: x if len(x := [e for e in mesh.caller.lines() if str(e.get("path")).startswith("/shared/")]) == 40
        else None,
        what="all requests in the log",
    )  # fmt: skip
    hosts = {str(line["upstream_host"]).rpartition(":")[0] for line in lines}
    assert len(hosts) == 2
    assert INSTANCES["v2"] in hosts


def test_the_least_busy_is_preferred(mesh: Rig):
    mesh.objects(policy("loadBalancing: {algorithm: LeastRequest, choices: 10}"))
    app = mesh.apps["v1"]
    app.delay = 12.0
    for one in mesh.apps.values():
        one.seen.clear()
    busy = [mesh.background.submit(mesh.aget("/busy")) for _ in range(12)]
    eventually(lambda: sum(len(one.seen) for one in mesh.apps.values()) == 12, what="all are under way or answered")
    held = len(app.seen)
    assert answered(mesh, 30).keys() == {"v2", "v3"}
    assert len(app.seen) == held
    assert {future.result(30).status for future in busy} == {200}


def test_random_is_not_in_turns(mesh: Rig):
    mesh.objects(policy("loadBalancing: {algorithm: Random}"))
    by = [mesh.get().by for _ in range(60)]
    assert set(by) == set(INSTANCES)
    assert any(by[n] == by[n + 1] for n in range(59))


def test_a_new_endpoint_gets_its_share_by_and_by(mesh: Rig):
    window = 4.0
    there = mesh.world.endpoints[next(ref for ref in mesh.world.endpoints if ref.name == "api")]
    mesh.endpoints("api", *(e for name, e in there.items() if name != "api-v3"))
    mesh.objects(policy(f"loadBalancing: {{slowStart: {{window: {window:g}s, minWeightPercent: 1}}}}"))
    time.sleep(window)  # until the others are new no longer
    mesh.endpoints("api", *there.values())
    assert answered(mesh, 60)["v3"] <= 10
    eventually(lambda: answered(mesh, 60)["v3"] >= 18, timeout=4 * window, what="a third")


def test_panic_tries_those_that_say_they_are_not_well(mesh: Rig):
    mesh.change(v1={"health": "unhealthy"}, v2={"health": "unhealthy"})
    mesh.objects("")
    assert answered(mesh).keys() == {"v3"}
    mesh.objects(policy("loadBalancing: {panicPercent: 50}"))
    assert answered(mesh).keys() == {"v1", "v2", "v3"}
    mesh.change(v1={"health": "healthy"})
    assert answered(mesh).keys() == {"v1", "v3"}


# --- who is left out -------------------------------------------------------------------------------------------------


def test_an_instance_that_answers_503_is_left_out_and_comes_back(mesh: Rig):
    mesh.objects(
        policy("""outlierDetection:
    {consecutiveGatewayErrors: 2, interval: 200ms, baseEjection: 2s, maxEjection: 2s, maxEjectionPercent: 50}
""")
    )
    mesh.apps["v1"].status = 503
    eventually(lambda: answered(mesh, 12).keys() == {"v2", "v3"}, what="it is left out")
    assert stat(mesh, "outlier_detection.ejections_enforced_total") >= 1
    mesh.apps["v1"].status = 200
    eventually(lambda: answered(mesh, 12).keys() == {"v1", "v2", "v3"}, what="it is back")


def test_a_criterion_of_0_leaves_nobody_out(mesh: Rig):
    mesh.objects(policy("outlierDetection: {consecutiveGatewayErrors: 0, interval: 100ms}"))
    mesh.apps["v1"].status = 503
    assert answered(mesh, 90)["503"] >= 25
    mesh.objects(policy("outlierDetection: {consecutiveErrors: 3, consecutiveGatewayErrors: 0, interval: 100ms}"))
    eventually(lambda: answered(mesh, 12).keys() == {"v2", "v3"}, what="it is left out for any 5xx")


def test_who_looks_for_itself_finds_what_fails_for_it_alone(mesh: Rig):
    app = mesh.apps["v1"]
    app.refuses = "/sa/web"
    check = "{type: http, path: /live, interval: 200ms, timeout: 1s, unhealthyThreshold: 2}"
    mesh.objects(policy(f"healthCheck: {check}\n  outlierDetection: {{consecutiveGatewayErrors: 0}}"))
    eventually(lambda: answered(mesh, 12).keys() == {"v2", "v3"}, what="it is left out")
    asked = [seen for seen in app.seen if seen["path"] == "/live"]
    assert asked[-1]["host"] == "api.shop"
    eventually(lambda: stat(mesh, "health_check.failure") >= 2, what="it is asked again")
    mesh.caller.logged(lambda line: "503" in str(line.get("health_check_failure_event")))
    # Its ports for TCP and gRPC cannot be asked so, and are left alone.
    assert took(mesh, *["127.0.0.1"] * 12).keys() == {"v1", "v2", "v3"}
    app.refuses = ""
    eventually(lambda: answered(mesh, 12).keys() == {"v1", "v2", "v3"}, what="it is back")


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_health_is_asked_through_mtls(mesh: Rig, kind: str):
    mesh.objects(policy(f"healthCheck: {{type: {kind}, interval: 200ms}}"))
    before = stat(mesh, "ssl.handshake")
    eventually(lambda: stat(mesh, "ssl.handshake") >= before + 6, what="they are asked, and again")
    # Nobody is healthy who has not been asked.
    assert stat(mesh, "membership_healthy") == 3
    assert answered(mesh).keys() == {"v1", "v2", "v3"}


# --- how many at once ------------------------------------------------------------------------------------------------


def test_what_is_over_a_bound_is_answered_503_and_counted(mesh: Rig):
    mesh.objects(policy("circuitBreaking: {maxRequests: 2}"))
    for app in mesh.apps.values():
        app.delay = 0.5
    before = stat(mesh, "upstream_rq_active_overflow")
    statuses = Counter(reply.status for reply in mesh.at_once(10, "/over"))
    assert statuses == {200: 2, 503: 8}
    assert stat(mesh, "upstream_rq_active_overflow") == before + 8
    assert mesh.caller.logged(lambda line: line.get("path") == "/over" and line.get("status") == 503)["flags"] == "UO"
    assert mesh.get().status == 200


def test_a_connection_takes_so_many_requests(mesh: Rig):
    mesh.objects(policy("circuitBreaking: {maxRequestsPerConnection: 2}"))
    before = stat(mesh, "upstream_cx_total")
    assert answered(mesh, 30).keys() == {"v1", "v2", "v3"}
    assert stat(mesh, "upstream_cx_total") >= before + 12


def test_retries_stay_within_their_budget(mesh: Rig):
    again = ", retry: {attempts: 3, codes: [503], backoff: 1ms}"
    for app in mesh.apps.values():
        app.status = 503

    def tries(spec: str) -> int:
        patient = policy(f"outlierDetection: {{consecutiveGatewayErrors: 0}}{spec}")
        mesh.objects(patient + route("{name: api, port: 80}", again))
        for app in mesh.apps.values():
            app.seen.clear()
        assert {reply.status for reply in mesh.at_once(10)} == {503}
        return sum(len(app.seen) for app in mesh.apps.values())

    assert tries("") == 40
    assert tries("\n  retries: {budget: {percent: 0, minConcurrent: 0}}") == 10
    assert stat(mesh, "upstream_rq_retry_overflow") >= 10
    assert 10 < tries("\n  retries: {budget: {percent: 0, minConcurrent: 1}}") < 40
