"""TrafficPolicy through real Envoys: how long and how often something is tried, and how much of it at once.

An Envoy that is paused (SIGSTOP) is a host that cannot be reached: the kernel takes the connection, and nobody answers.
"""

import contextlib
import ctypes
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.integration.traffic.policies import answered, connected, policy, stat, took
from tests.integration.traffic.rig import INSTANCES, Rig
from tests.integration.traffic.test_policy_requests import call, timed
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

ONE_TRY = "\n  retries: {attempts: 0}"


@pytest.fixture(autouse=True)
def fresh(mesh: Rig) -> Iterator[None]:
    mesh.fresh()
    yield
    mesh.fresh()


@contextlib.contextmanager
def unreachable(mesh: Rig, name: str) -> Iterator[None]:
    mesh.callees[name].envoy.pause()
    try:
        yield
    finally:
        mesh.callees[name].envoy.resume()


# --- connections -----------------------------------------------------------------------------------------------------


def test_a_connect_ends_with_its_time(mesh: Rig):
    # Envoy counts from when its loop woke, a little before the connect: 2 s were seen to be 1.9994.
    for limit, least, most in (("300ms", 0.28, 1.5), ("2s", 1.9, 4.0)):
        mesh.objects(policy(f"timeouts: {{connect: {limit}}}{ONE_TRY}", "v1"))
        with unreachable(mesh, "v1"):
            reply, took = timed(lambda: mesh.get(service="v1"))
        assert (reply.status, least <= took < most) == (503, True), took


def test_who_cannot_be_reached_is_left_out_after_so_many_tries(mesh: Rig):
    def tries(failures: int) -> int:
        outliers = f"outlierDetection: {{consecutiveConnectFailures: {failures}, interval: 100ms, baseEjection: 60s}}"
        mesh.objects(policy(f"timeouts: {{connect: 150ms}}\n  {outliers}{ONE_TRY}"))
        with unreachable(mesh, "v1"):
            return answered(mesh, 30)["503"]

    assert tries(2) == 2
    assert tries(0) >= 8


def test_no_more_are_left_out_than_the_policy_says(mesh: Rig):
    def left_out(percent: int) -> int:
        mesh.objects(
            policy(f"""outlierDetection:
    {{consecutiveErrors: 1, interval: 100ms, baseEjection: 60s, maxEjectionPercent: {percent}}}""")
        )
        for app in mesh.apps.values():
            app.status = 500
        answered(mesh, 30)
        return stat(mesh, "outlier_detection.ejections_active")

    assert [left_out(percent) for percent in (34, 100)] == [1, 3]


def test_so_many_requests_wait_for_a_connection(mesh: Rig):
    mesh.objects(policy("timeouts: {connect: 10s}\n  circuitBreaking: {maxPendingRequests: 2}"))
    with contextlib.ExitStack() as stack:
        for name in INSTANCES:
            stack.enter_context(unreachable(mesh, name))
        asked = [mesh.background.submit(mesh.aget("/waiting")) for _ in range(10)]
        eventually(lambda: stat(mesh, "upstream_rq_pending_overflow") == 8, what="the others are refused")
    assert Counter(future.result(20).status for future in asked) == {200: 2, 503: 8}


def test_so_many_connections_to_a_service(mesh: Rig):
    """What is over the bound is closed, until there is room again."""
    mesh.objects(policy("circuitBreaking: {maxConnections: 3}"))

    async def four() -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            return [await stack.enter_async_context(connected(mesh)) for _ in range(4)]

    *names, over = mesh.background.call(four())
    assert (sorted(names), over) == (sorted(INSTANCES), "")
    eventually(lambda: took(mesh, "127.0.0.1").keys() != {""}, what="there is room")


def test_so_many_tries_beyond_the_first_at_once(mesh: Rig):
    for app in mesh.apps.values():
        app.status, app.delay = 503, 0.2

    def tries(most: int) -> int:
        retries = "\n  retries: {attempts: 3, statuses: [503], backoff: 1ms}"
        outliers = "\n  outlierDetection: {consecutiveGatewayErrors: 0}"
        mesh.objects(policy(f"circuitBreaking: {{maxRetries: {most}}}{retries}{outliers}"))
        for app in mesh.apps.values():
            app.seen.clear()
        assert {reply.status for reply in mesh.at_once(10)} == {503}
        return sum(len(app.seen) for app in mesh.apps.values())

    assert tries(1000) == 40
    assert 10 < tries(1) <= 14


# --- keep-alive ------------------------------------------------------------------------------------------------------

_PIDFD_GETFD = 438
"""The same system call on all architectures; Python has no name for it."""


def sockets_to(pid: int, address: str, port: int) -> Iterator[socket.socket]:
    """Copies of a child's connections there."""
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if not str(entry.readlink()).startswith("socket:"):
                    continue
            except FileNotFoundError:  # closed since it was listed
                continue
            copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, int(entry.name), 0)
            if copy < 0 and ctypes.get_errno() == errno.EBADF:  # closed since then
                continue
            assert copy >= 0, os.strerror(ctypes.get_errno())
            with socket.socket(fileno=copy) as found, contextlib.suppress(OSError):
                if found.family == socket.AF_INET and found.getpeername() == (address, port):
                    yield found
    finally:
        os.close(process)


def test_idle_connections_are_probed_as_the_policy_says(mesh: Rig):
    mesh.objects(policy("tcpKeepalive: {idle: 61s, interval: 7s, probes: 4}", "v1"))
    assert mesh.get(service="v1").status == 200
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    found = [
        (s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *(s.getsockopt(socket.IPPROTO_TCP, o) for o in options))
        for s in sockets_to(mesh.caller.envoy.pid, INSTANCES["v1"], mesh.mtls["v1"])
    ]
    assert (1, 61, 7, 4) in found


# --- health that callers look for themselves -------------------------------------------------------------------------


def test_an_answer_that_takes_too_long_is_none(mesh: Rig):
    mesh.apps["v1"].delay = 0.8
    for limit, wanted in (("300ms", {"v2", "v3"}), ("5s", {"v1", "v2", "v3"})):
        check = f"{{type: http, path: /live, interval: 200ms, timeout: {limit}, unhealthyThreshold: 1}}"
        mesh.objects(policy(f"healthCheck: {check}"))
        for app in mesh.apps.values():
            app.seen.clear()
        eventually(lambda: all(len(app.seen) >= 3 for app in mesh.apps.values()), what="all were asked a few times")
        assert answered(mesh, 9).keys() == wanted


def test_who_failed_has_to_be_well_so_often(mesh: Rig):
    app, checks = mesh.apps["v1"], 6
    mesh.objects(
        policy(f"""healthCheck:
    {{type: http, path: /live, interval: 200ms, unhealthyThreshold: 1, healthyThreshold: {checks}}}
  outlierDetection: {{consecutiveGatewayErrors: 0}}""")
    )
    app.status = 503
    eventually(lambda: answered(mesh, 12).keys() == {"v2", "v3"}, what="it is left out")
    app.seen.clear()
    app.status = 200
    eventually(lambda: "v1" in answered(mesh, 3), what="it is back")
    asked = [seen["path"] for seen in app.seen]
    assert asked.index("/") >= checks


def test_health_over_grpc(mesh: Rig):
    mesh.objects(policy("healthCheck: {type: grpc, interval: 200ms, unhealthyThreshold: 1, healthyThreshold: 1}"))

    def who() -> set[str]:
        async def ask() -> set[str]:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.grpc}") as channel:
                say = channel.unary_unary("/test.Echo/Say")
                return {(await say(b"x", timeout=10)).decode().split()[0] for _ in range(12)}

        return mesh.background.call(ask())

    mesh.apps["v1"].serving = False
    eventually(lambda: who() == {"v2", "v3"}, what="it is left out")
    mesh.apps["v1"].serving = True
    eventually(lambda: who() == {"v1", "v2", "v3"}, what="it is back")


# --- what is left ----------------------------------------------------------------------------------------------------


def test_a_new_endpoint_starts_faster_with_more_aggression(mesh: Rig):
    """Of its share, (age / window)^(1 / aggression)."""

    def share(aggression: float) -> float:
        there = mesh.world.endpoints[next(ref for ref in mesh.world.endpoints if ref.name == "api")]
        mesh.endpoints("api", *(e for name, e in there.items() if name != "api-v3"))
        slow = f"{{window: {window}s, minWeightPercent: 1, aggression: {aggression:g}}}"
        mesh.objects(policy(f"loadBalancing: {{slowStart: {slow}}}"))
        time.sleep(window)  # until the others are new no longer
        mesh.endpoints("api", *there.values())
        began, by = time.monotonic(), Counter[str]()
        while time.monotonic() < began + window / 6:
            by[mesh.get().by] += 1
        return by["v3"] / by.total()

    window = 4
    assert share(20) > 0.2 > 0.1 > share(0.5)


@pytest.mark.parametrize("condition", ["cancelled", "deadline-exceeded", "internal", "resource-exhausted"])
def test_grpc_conditions_that_are_named(mesh: Rig, condition: str):
    mesh.objects(policy(f"retries: {{attempts: 2, retryOn: [{condition}]}}"))
    for app in mesh.apps.values():
        app.code, app.rpcs = grpc.StatusCode[condition.replace("-", "_").upper()], 0
    assert call(mesh)[0] == mesh.apps["v1"].code.name
    assert sum(app.rpcs for app in mesh.apps.values()) == 3


def test_a_limit_for_headers_that_match_an_expression(mesh: Rig):
    match = "{headers: [{name: x-kind, type: RegularExpression, value: 'bulk-[0-9]+'}]}"
    mesh.objects(policy(f"rateLimits: [{{name: bulk, requests: 1, window: 1m, match: {match}}}]", "v1"))
    kinds = ("bulk-1", "bulk-22", "bulk-", "other")
    found = {kind: mesh.get(service="v1", headers=[("x-kind", kind)]).status for kind in kinds}
    assert found == {"bulk-1": 200, "bulk-22": 429, "bulk-": 200, "other": 200}


def test_a_share_of_requests_is_delayed(mesh: Rig):
    mesh.objects(policy("faults: [{name: some, delay: {duration: 100ms, percent: 50}}]", "v1"))
    asked = [timed(lambda: mesh.get(service="v1")) for _ in range(40)]
    late = [seconds for reply, seconds in asked if "x-holdfast-fault" in reply.headers]
    assert 8 <= len(late) <= 32
    assert min(late) >= 0.09  # Envoy reads the clock once per turn of its loop, and in whole milliseconds
