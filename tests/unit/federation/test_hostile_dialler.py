"""A hostile peer that dials: what it may open, what it may say, and how often."""

import asyncio
import contextlib
import time

import aiohttp
import msgspec
import pytest

from ca.limits import Rate
from controlplane import exporting
from multicluster import exports, wire
from tests.support.waiting import aeventually
from tests.unit.federation.clusters import cluster, clusters, connected, offer_api, peered, register, state
from tests.unit.federation.forger import forger

GOOD = "spiffe://east.test/controlplane/cp1"


@contextlib.asynccontextmanager
async def dialled(west, east, http):
    """A session of a peer that has a good certificate; what it says is its own business."""
    context = east.dialler(GOOD, west.issuing.trusted)
    url = west.url + "/v1/peering/session"
    async with http.ws_connect(url, ssl=context, server_hostname="east.peer.holdfast") as ws:
        yield ws


def hello(**said):
    first = wire.Hello(versions=(1,), cluster="east", trust_domain="east.test")
    return wire.encode(msgspec.structs.replace(first, **said)).decode()


async def ready(west):
    await aeventually(lambda: west.context.mirror.view.bundle("east.test"))


def test_a_peers_certificate_opens_the_session_and_nothing_else(tmp_path):
    """Whatever name the peer's own CA puts on a certificate, and whatever server name it asks for."""

    async def attempt(west, context, sni, path="/v1/peering/session", **more):
        """Status; 0: the handshake fails."""
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(west.url + path, ssl=context, server_hostname=sni, **more) as response:
                    return response.status
            except aiohttp.ClientError:
                return 0

    async def run():
        async with (
            cluster(tmp_path, "west") as west,
            forger(tmp_path, west) as east,
            forger(tmp_path, west, "north"),
        ):
            await west.add_node("n1", "shop/api")
            await aeventually(lambda: west.context.mirror.view.bundle("north.test"))
            ours = "controlplane.holdfast"
            roots = west.issuing.trusted

            async def status(identity, sni, path="/v1/peering/session"):
                return await attempt(west, east.dialler(identity, roots), sni, path)

            good = "spiffe://east.test/controlplane/cp1"
            assert await status(good, "east.peer.holdfast") == 400  # let in; but it is no WebSocket
            assert await status(good, ours) == 0
            assert await status(good, "north.peer.holdfast") == 0
            assert await status(good, "west.peer.holdfast") == 0
            for forged in (
                "spiffe://west.test/controlplane/cp1",
                "spiffe://west.test/node/n1",
                "spiffe://north.test/controlplane/cp1",
                "spiffe://east.test/node/n1",
                "spiffe://east.test/ns/shop/sa/api",
            ):
                for sni in ("east.peer.holdfast", "north.peer.holdfast", ours):
                    for path in ("/v1/peering/session", "/v1/status", "/v1/uplink", "/v1/proxies", "/v1/standings"):
                        assert await status(forged, sni, path) in {0, 401, 403}
            for path in ("/v1/status", "/v1/uplink", "/v1/objects/services", "/v1/standings", "/v1/peerings"):
                assert await status(good, "east.peer.holdfast", path) == 403
            # Our own certificates are nobody's at a peer's door.
            async with aiohttp.ClientSession() as session:
                own = west.cert_tls("/controlplane/cp9")
                own.check_hostname = False
                with pytest.raises(aiohttp.ClientError):
                    await session.get(west.url + "/v1/standings", ssl=own, server_hostname="east.peer.holdfast")
            assert await attempt(west, east.dialler("", roots), "east.peer.holdfast") == 401

    asyncio.run(run())


def test_a_script_that_dials_and_says_nonsense_is_shown_the_door(tmp_path):
    async def run():
        async with cluster(tmp_path, "west") as west, forger(tmp_path, west) as east:
            await ready(west)
            for word in (
                "{}",
                '{"type":"offer","nonce":1}',
                "x" * 600_000,
                hello(cluster="north", trust_domain="north.test"),
                hello(position=2**70),
                hello(position=-1),
                hello(count=2**70),
            ):
                async with aiohttp.ClientSession() as http, dialled(west, east, http) as ws:
                    await ws.send_str(word)
                    async with asyncio.timeout(10):
                        async for message in ws:
                            assert msgspec.json.decode(message.data)["type"] == "bye"
            assert west.context.exporting.sessions == []

    asyncio.run(run())


def test_a_peer_that_dials_again_and_again_costs_one_selection_and_waits(tmp_path, monkeypatch):
    selections = []
    real = exports.select
    monkeypatch.setattr(exports, "select", lambda local, peering: selections.append(1) or real(local, peering))
    monkeypatch.setattr(exporting, "HELLOS", Rate(0.01, 8))

    async def run():
        async with cluster(tmp_path, "west") as west, forger(tmp_path, west) as east, aiohttp.ClientSession() as http:
            await offer_api(west)
            await ready(west)
            selections.clear()
            refused = 0
            for _ in range(20):
                try:
                    async with dialled(west, east, http) as ws:
                        await ws.send_str(hello())
                        assert msgspec.json.decode((await ws.receive(timeout=10)).data)["type"] == "welcome"
                except aiohttp.WSServerHandshakeError as exc:
                    assert exc.status == 429
                    assert int(exc.headers["Retry-After"]) >= 1
                    refused += 1
            assert refused == 12
            assert len(selections) == 1
            # What changes is made anew, and nothing else.
            await register(west, "i3", ("api", "shop", "healthy"), address="10.0.0.3")
            peering = west.context.mirror.view.peering("east")
            weight = wire.OfferedEndpoint(node="", address="", port=0, account="").weight

            def told():
                (items,) = west.context.exporting.selected(peering).values()
                (gateway,) = (value for key, value in items.items() if key.startswith("endpoints/"))
                return msgspec.json.decode(gateway).get("weight", weight)

            await aeventually(lambda: told() == 3)
            assert len(selections) == 1

    asyncio.run(run())


def test_a_peer_that_dials_again_and_again_does_not_hold_up_another(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "HELLOS", Rate(0.01, 4))

    async def run():
        async with (
            clusters(tmp_path, "west", "north") as (west, north),
            forger(tmp_path, west) as east,
            aiohttp.ClientSession() as http,
        ):
            await ready(west)
            for _ in range(6):
                with contextlib.suppress(aiohttp.WSServerHandshakeError):
                    async with dialled(west, east, http):
                        pass
            await peered(west, north)
            await connected(north, "west")

    asyncio.run(run())


def test_of_one_peer_so_many_connections_are_held_and_the_newest_win(tmp_path):
    async def run():
        async with cluster(tmp_path, "west") as west, forger(tmp_path, west) as east, aiohttp.ClientSession() as http:
            await ready(west)
            async with contextlib.AsyncExitStack() as stack:
                # Some say hello, some say nothing: both are held.
                opened = []
                for number in range(exporting.MAX_SESSIONS + 3):
                    ws = await stack.enter_async_context(dialled(west, east, http))
                    opened.append(ws)
                    if number % 2:
                        await ws.send_str(hello())
                for ws in opened[:3]:
                    async with asyncio.timeout(10):
                        while not ws.closed:
                            await ws.receive()
                for ws in opened[3:]:
                    await ws.ping()
                    assert not ws.closed
                await aeventually(lambda: len(west.context.exporting._links["east"]) == exporting.MAX_SESSIONS)
                await aeventually(lambda: len(west.context.exporting.sessions) == 2)
            await aeventually(lambda: west.context.exporting.sessions == [])
            assert west.context.exporting._links["east"] == []

    asyncio.run(run())


def test_what_a_peer_tells_that_it_holds_is_paced(tmp_path, monkeypatch):
    """Comparing costs work, and it may dial anew when it has told all that one session may tell."""
    monkeypatch.setattr(exporting, "DIGESTS", Rate(1_000, 2_000))

    async def run():
        async with cluster(tmp_path, "west") as west, forger(tmp_path, west) as east, aiohttp.ClientSession() as http:
            await ready(west)
            async with dialled(west, east, http) as ws:
                await ws.send_str(hello(count=5))
                welcome = msgspec.json.decode((await ws.receive(timeout=10)).data, type=wire.Welcome)
                assert welcome.buckets
                began = time.monotonic()
                for part in range(4):
                    items = {f"services/shop/s{part}-{number}": "0" * 16 for number in range(1_000)}
                    await ws.send_str(wire.encode(wire.Digests(items=items, done=part == 3)).decode())
                while True:
                    offer = msgspec.json.decode((await ws.receive(timeout=20)).data, type=wire.ToImporter)
                    if isinstance(offer, wire.Offer):
                        break
                assert time.monotonic() - began > 1.5
                assert (await state(west, "east"))["name"] == "east"

    asyncio.run(run())
