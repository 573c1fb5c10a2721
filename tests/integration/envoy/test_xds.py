"""Our delta ADS server and a real Envoy."""

import asyncio
import stat
import statistics
import time

import pytest

from agent.xds.stream import Nacked
from tests.integration.envoy.rig import (
    CDS,
    EDS,
    LDS,
    RDS,
    SDS,
    application,
    cluster,
    endpoints,
    free_port,
    get,
    listener,
    one_service,
    rig,
    route,
    secret,
    serving,
    snapshot,
    tls_get,
)
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real


def test_a_snapshot_comes_into_force_in_order_and_its_socket_is_private():
    async def run():
        port = free_port()
        async with rig() as r, application("one") as one:
            await r.envoy.ensure()
            first = await r.acked(one_service(port, one))
            assert first.types == (CDS, EDS, LDS, RDS)
            await r.ready()
            assert await r.envoy.warming() == 0
            assert await get(port) == "200 one"
            (stream,) = r.server.streams()
            assert stream.node == "vm1"
            assert stream.held == {CDS: 1, EDS: 1, LDS: 1, RDS: 1}
            path = r.directory / "xds" / "s.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
            info = await r.envoy.info()
            assert info.version.startswith("1.")
            dump = await r.envoy.config_dump()
            assert any("EndpointsConfigDump" in c["@type"] for c in dump["configs"])
            assert b"envoy_server_live" in await r.envoy.prometheus()

    asyncio.run(run())


def test_an_endpoint_change_is_acknowledged_within_milliseconds(record_property):
    async def run():
        port, taken = free_port(), []
        async with rig() as r, application("one") as one, application("two") as two:
            await r.envoy.ensure()
            last = one_service(port, one)
            await r.acked(last)
            await r.ready()
            for number in range(100):
                last = snapshot(2 + number, last, eds=(endpoints("api", two if number % 2 == 0 else one),))
                started = time.perf_counter()
                answer = await r.acked(last)
                taken.append(time.perf_counter() - started)
                assert answer.types == (EDS,)
            assert await get(port) == "200 one"
            assert await get(port) == "200 one"
        p50, worst = statistics.median(taken) * 1000, max(taken) * 1000
        record_property("endpoint_change_ack_ms", {"p50": round(p50, 2), "max": round(worst, 2)})
        print(f"endpoint change -> ACK: p50 {p50:.2f} ms, max {worst:.2f} ms")
        assert p50 < 50

    asyncio.run(run())


def test_a_server_that_comes_back_sends_nothing_that_is_held_and_all_that_changed():
    async def run():
        port = free_port()
        async with rig() as r, application("one") as one, application("two") as two:
            await r.envoy.ensure()
            first = one_service(port, one)
            await r.acked(first)
            await r.ready()
            await r.restart_server()
            answer = await r.acked(first)
            # Clusters and listeners are answered, with nothing in it: no resource goes over the wire.
            assert set(answer.types) <= {CDS, LDS}
            stats = await r.envoy.stats("^(cluster_manager.cluster_modified|listener_manager.listener_modified)$")
            assert set(stats.values()) == {0}
            assert await get(port) == "200 one"

            await r.restart_server()
            answer = await r.acked(snapshot(2, first, eds=(endpoints("api", two),)))
            assert EDS in answer.types
            assert await get(port) == "200 two"

    asyncio.run(run())


def test_traffic_flows_while_the_server_is_away():
    async def run():
        port = free_port()
        async with rig() as r, application("one") as one:
            await r.envoy.ensure()
            await r.acked(one_service(port, one))
            await r.ready()
            await r.restart_server()  # and it has no snapshot yet: it says nothing
            await aeventually(lambda: r.server.streams(), timeout=10)
            assert await get(port) == "200 one"

    asyncio.run(run())


def test_a_changed_cluster_is_in_force_again_and_a_new_one_shares_known_endpoints():
    async def run():
        async with serving() as (r, port, first):
            second = snapshot(2, first, cds=(cluster("api", timeout=2), cluster("other", endpoints="api")))
            await r.acked(second)
            assert await r.envoy.warming() == 0
            await r.acked(snapshot(3, second, rds=(route("r", "other"),), cds=(cluster("other", endpoints="api"),)))
            assert await get(port) == "200 one"
            assert await r.envoy.warming() == 0

    asyncio.run(run())


def test_an_address_passes_from_one_listener_to_another():
    async def run():
        async with serving() as (r, port, first):
            await r.acked(snapshot(2, first, lds=(listener("renamed", port, routes="r"),)))
            assert await get(port) == "200 one"
            assert r.refusals() == []

    asyncio.run(run())


def test_a_changed_listener_keeps_its_routes():
    """The same route configuration is not sent again, and nothing waits for it."""

    async def run():
        async with serving() as (r, port, first):
            answer = await r.acked(snapshot(2, first, lds=(listener("in", port, routes="r", mark="other"),)))
            assert answer.types == (LDS,)
            assert await r.envoy.warming() == 0
            assert await get(port) == "200 one"

    asyncio.run(run())


def test_endpoints_that_do_not_exist_hold_up_nothing():
    async def run():
        port = free_port()
        async with rig() as r, application("one") as one:
            await r.envoy.ensure()
            first = one_service(port, one)
            await r.acked(first)
            await r.ready()
            second = snapshot(2, first, cds=(cluster("api"), cluster("nobody")), rds=(route("r", "nobody"),))
            await r.acked(second)
            assert await r.envoy.warming() == 0
            assert (await get(port)).startswith("503")
            third = snapshot(3, second, eds=(endpoints("api", one), endpoints("nobody", one)))
            await r.acked(third)
            assert await get(port) == "200 one"
            # Envoy keeps the last endpoints of a cluster that it still has.
            await r.acked(snapshot(4, third, eds=(endpoints("api", one),)))
            assert await get(port) == "200 one"

    asyncio.run(run())


def test_a_listener_that_waits_for_its_secret_is_acknowledged_and_not_in_force(certificate):
    """That it warms is the only sign: the old one goes on serving."""

    async def run():
        async with serving() as (r, port, first):
            second = snapshot(2, first, lds=(listener("in", port, routes="r", tls="identity", answered=False),))
            await r.acked(second)
            assert await r.envoy.warming() == 1
            assert await get(port) == "200 one"

            lds = (listener("in", port, routes="r", tls="identity"),)
            await r.acked(snapshot(3, second, lds=lds, sds=(secret("identity", *certificate),)))
            await aeventually(lambda: is_zero(r.envoy.warming()), what="nothing warms")
            await aeventually(lambda: is_answer(tls_get(port), "200 one"))

    asyncio.run(run())


def test_a_refused_secret_lets_nobody_in_until_a_good_one_comes(certificate):
    """Envoy takes the listener into force without it, so `compile` must never name a secret that is not sound."""

    async def run():
        async with serving() as (r, port, first):
            tls = (listener("in", port, routes="r", tls="identity"),)
            second = snapshot(2, first, lds=tls, sds=(secret("identity", b"no certificate", b"no key"),))
            refused = await r.outcome(second)
            assert isinstance(refused, Nacked)
            assert (refused.type_url, refused.names) == (SDS, ("identity",))
            await aeventually(lambda: is_zero(r.envoy.warming()))
            with pytest.raises((OSError, EOFError)):
                await tls_get(port)

            third = snapshot(3, second, sds=(secret("identity", *certificate),))
            await r.acked(third)
            await aeventually(lambda: is_answer(tls_get(port), "200 one"))

    asyncio.run(run())


def test_a_secret_that_does_not_exist_holds_up_nothing_and_lets_nobody_in(certificate):
    """Told that there is none, Envoy takes the listener into force: so `compile` must leave out what has no secret."""

    async def run():
        port, other = free_port(), free_port()
        async with rig() as r, application("one") as one:
            await r.envoy.ensure()
            first = one_service(port, one)
            await r.acked(first)
            await r.ready()
            plain, tls = listener("in", port, routes="r"), listener("tls", other, routes="r", tls="identity")
            clusters = (cluster("api"), cluster("safe", endpoints="api", tls="identity"))
            second = snapshot(2, first, cds=clusters, lds=(plain, tls))
            await r.acked(second)
            assert await r.envoy.warming() == 0
            with pytest.raises((OSError, EOFError)):
                await tls_get(other)
            assert await get(port) == "200 one"

            await r.acked(snapshot(3, second, sds=(secret("identity", *certificate),)))
            await aeventually(lambda: is_answer(tls_get(other), "200 one"))

    asyncio.run(run())


async def is_zero(number):
    return await number == 0


async def is_answer(answer, expected):
    return await answer == expected


def test_a_refused_listener_leaves_its_neighbours_in_force_and_is_not_sent_again():
    async def run():
        good, bad = free_port(), free_port()
        async with rig() as r, application("one") as one, application("two") as two:
            await r.envoy.ensure()
            first = one_service(good, one)
            await r.acked(first)
            await r.ready()
            second = snapshot(
                2,
                first,
                cds=(cluster("api"), cluster("new")),
                eds=(endpoints("api", one), endpoints("new", two)),
                lds=(listener("in", good, routes="r"), listener("poison", bad, regex="(")),
            )
            refused = await r.outcome(second)
            assert isinstance(refused, Nacked)
            assert (refused.type_url, refused.names) == (LDS, ("poison",))
            assert "poison" in refused.error
            # Endpoints go on, and the refused listener stays away, whatever else is published.
            third = snapshot(3, second, eds=(endpoints("api", two), endpoints("new", two)))
            r.server.publish(third)
            await aeventually(lambda: is_answer(get(good), "200 two"))
            assert len(r.refusals()) == 1
            # Without it all is well.
            await r.acked(snapshot(4, third, lds=(listener("in", good, routes="r", mark="v2"),)))
            assert await get(good) == "200 two"
            assert len(r.refusals()) == 1

    asyncio.run(run())
