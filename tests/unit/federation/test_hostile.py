"""A hostile peer: what it says is contained, told, and touches nobody else."""

import asyncio
import time

import pytest

from ca.limits import Rate
from controlplane import importing, taking
from controlplane.cli.peering import described
from mesh import keys
from multicluster import trust, wire
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import namespace, service
from tests.unit.federation.clusters import (
    API,
    cluster,
    clusters,
    connected,
    export,
    holds,
    imported,
    offer_api,
    peered,
    register,
    state,
)
from tests.unit.federation.forger import Line, forger, offers
from tests.unit.multicluster.roots import root

SERVICE = {"ports": [{"port": 80, "protocol": "http"}], "accounts": ["api"]}
ENDPOINT = {"node": "gw", "address": "10.0.0.1", "port": 15444, "account": "api", "ports": [80], "health": "healthy"}


async def said(cp, peer, word, states=("refused", "lost"), timeout=20):
    async def look():
        body = await state(cp, peer)
        return body if body["state"] in states and word in body["reason"] else None

    return await aeventually(look, timeout=timeout, what=f"{peer} is {states} for {word!r}")


def hostile(tmp_path, script, check, **spec):
    async def run():
        async with cluster(tmp_path, "west") as west, forger(tmp_path, west, **spec) as east:
            east.script = lambda line, hello: script(east, line, hello)
            async with east.serving():
                await check(west, east)

    asyncio.run(run())


def test_a_million_services_are_contained_and_other_peers_do_not_feel_it(tmp_path):
    async def script(east, line: Line, hello):
        await line.say(east.welcome())
        pairs = ((f"services/shop/s{n}", SERVICE) for n in range(1_000_000))
        nonce = 0
        while True:
            part = [next(pairs) for _ in range(2000)]
            nonce += 1
            await line.say(next(offers(part, start=nonce)))

    async def run():
        async with (
            clusters(tmp_path, "west", "north") as (west, north),
            forger(tmp_path, west, maxServices=100) as east,
        ):
            await offer_api(north)
            await peered(north, west)
            await holds(west, "north", *API)
            east.script = lambda line, hello: script(east, line, hello)
            slowest = 0.0
            async with east.serving():
                ending = asyncio.create_task(said(west, "east", "20000 items that are refused", timeout=120))
                flip = 0
                while not ending.done():
                    flip += 1
                    health = ("healthy", "unhealthy")[flip % 2]
                    await register(north, "i1", ("api", "shop", health))
                    began, weight = time.monotonic(), 2 - flip % 2

                    async def arrived(weight=weight):
                        return (await imported(west, "north"))["endpoints/shop/api/gw1"].spec.weight == weight

                    await aeventually(arrived, timeout=60)
                    slowest = max(slowest, time.monotonic() - began)
                body = await ending
            assert body["imported"] == 100
            assert len(await imported(west, "east")) == 100
            assert body["refused"] <= 25_000
            assert len(body["rejected"]) <= 20
            assert (await state(west, "north"))["state"] == "connected"
            print(f"slowest change of another peer meanwhile: {slowest * 1000:.0f} ms")

    asyncio.run(run())


def test_bad_items_are_refused_one_by_one_and_told_to_both_sides(tmp_path):
    heard = []

    async def script(east, line, hello):
        await line.say(east.welcome())
        pairs = [
            ("services/shop/good", SERVICE),
            ("endpoints/shop/good/gw", ENDPOINT),
            ("services/shop/api.west", SERVICE),
            ("services/shop/" + "x" * 300, SERVICE),
            ("services/shop/" + "y" * 100_000, SERVICE),
            ("../objects/Service/shop/api", SERVICE),
            ("services/shop/odd", {"ports": "all"}),
        ]
        for offer in offers(pairs):
            await line.say(offer)
        heard.append(await line.hear())
        await line.hear()

    async def check(west, east):
        await west.apply(namespace(), service("good"))
        before = {key: held.revision for key, held in west.context.mirror.view.services.items()}
        await connected(west, "east")
        body = await state(west, "east")
        assert body["refused"] == 5
        assert set(await imported(west, "east")) == {"services/shop/good", "endpoints/shop/good/gw"}
        assert heard[0].refused == 5
        # The local Service of the same name is not touched, and agents see two names.
        after = west.context.mirror.view.services
        assert {key: held.revision for key, held in after.items()} == before
        assert body["services"] == ["good.shop.east"]

    hostile(tmp_path, script, check)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"trust_domain": "west.test"}, "calls itself"),
        ({"cluster": "west"}, "calls itself"),
        ({"version": 99}, "version"),
        ({"buckets": ("x",) * 5000}, "buckets"),
    ],
)
def test_a_welcome_of_somebody_else_is_not_heard(tmp_path, changes, word):
    async def script(east, line, hello):
        await line.say(east.welcome(**changes))
        await line.hear()

    async def check(west, east):
        await said(west, "east", word)
        assert await imported(west, "east") == {}

    hostile(tmp_path, script, check)


@pytest.mark.parametrize(
    ("second", "word"),
    [
        (wire.Offer(nonce=1, position=1), "replayed"),
        (wire.Offer(nonce=3, position=1), "missing"),
        (wire.Offer(nonce=2, position=0), "replayed"),
        ("{", "cannot be read"),
        ('{"type":"offer"}', "cannot be read"),
        ('{"type":"ack","nonce":1}', "cannot be read"),
        ("[" * 50_000, "cannot be read"),
        ("x" * 600_000, ""),
    ],
)
def test_replays_and_garbage_end_the_link_and_leave_what_is_held(tmp_path, second, word):
    async def script(east, line, hello):
        await line.say(east.welcome(position=0 if hello.count else 1, buckets=()))
        for offer in offers([("services/shop/api", SERVICE)]):
            await line.say(offer)
        await line.hear()
        await line.say(second)
        await line.hear()

    async def check(west, east):
        await holds(west, "east", "services/shop/api")
        await said(west, "east", word)
        await holds(west, "east", "services/shop/api")

    hostile(tmp_path, script, check)


@pytest.mark.parametrize(
    ("document", "word"),
    [
        (lambda: trust.document(4, [root("east.test")]), "goes back"),
        (lambda: trust.document(5, [root("east.test")]), "same sequence"),
        (lambda: trust.document(9, [root("west.test")]), "west.test"),
        (lambda: b"{}", "not a SPIFFE bundle"),
    ],
)
def test_a_bundle_that_may_not_be_is_refused_and_the_link_goes_on(tmp_path, document, word):
    async def script(east, line, hello):
        await line.say(east.welcome())
        await line.say(wire.Offer(nonce=1, position=1, bundle=document().decode(), synced=True))
        await line.hear()
        for offer in offers([("services/shop/api", SERVICE)], start=2):
            await line.say(offer)
        await line.hear()
        await line.hear()

    async def check(west, east):
        before = west.context.mirror.view.bundle("east.test")
        own = west.context.mirror.view.bundle("west.test")
        await holds(west, "east", "services/shop/api")
        body = await state(west, "east")
        assert word in body["rejected"]["bundle"]
        assert west.context.mirror.view.bundle("east.test") == before
        assert west.context.mirror.view.bundle("west.test") == own

    hostile(tmp_path, script, check)


@pytest.mark.parametrize(
    ("document", "kept"),
    [
        (lambda east: trust.document(6, [*east.authority.roots, root("east.test")]), 6),
        (lambda east: trust.document(4, east.authority.roots), 5),
        (lambda east: trust.document(9, [root("west.test")]), 5),
        (lambda east: east.url + "/elsewhere", 5),
    ],
)
def test_without_a_session_the_bundle_endpoint_is_read_with_the_same_rules(tmp_path, monkeypatch, document, kept):
    monkeypatch.setattr(importing, "FIRST_REFRESH", 0.2)
    asked = []

    async def script(east, line, hello):
        asked.append(hello)  # and not a word

    async def run():
        async with cluster(tmp_path, "west") as west, forger(tmp_path, west) as east:
            east.script, east.document = (lambda line, hello: script(east, line, hello)), document(east)
            view = west.context.mirror.view
            async with east.serving():
                if kept != 5:
                    await aeventually(lambda: view.bundle("east.test").spec.sequence == kept, timeout=20)
                else:
                    await aeventually(lambda: east.fetched >= 2, timeout=20)
                    assert view.bundle("east.test").spec.sequence == kept
                assert view.bundle("west.test").spec.sequence == 1

    asyncio.run(run())


def test_what_a_peer_offers_is_paced_by_its_bytes_too(tmp_path, monkeypatch):
    """Few items may be much: all of it goes into the store, and to every replica."""
    monkeypatch.setattr(importing, "BYTES", Rate(100_000, 200_000))
    answered = []

    async def script(east, line, hello):
        await line.say(east.welcome())
        large = SERVICE | {"padding": "x" * 15_000}
        for offer in offers([(f"services/shop/s{number}", large) for number in range(40)], each=10):
            await line.say(offer)
        for _ in range(4):
            await line.hear()
            answered.append(time.monotonic())
        await line.hear()

    async def check(west, east):
        await aeventually(lambda: len(answered) == 4, timeout=60)
        assert answered[3] - answered[0] > 2  # 600 kB of them, of which 200 kB go at once
        assert (await state(west, "east"))["imported"] == 40

    hostile(tmp_path, script, check)


def test_a_service_that_is_not_told_whole_is_named(tmp_path):
    async def script(east, line, hello):
        await line.say(east.welcome())
        for offer in offers([("services/shop/api", SERVICE | {"cut": True}), ("services/shop/web", SERVICE)]):
            await line.say(offer)
        await line.hear()
        await line.hear()

    async def check(west, east):
        await connected(west, "east")
        body = await state(west, "east")
        assert (body["services"], body["cut"]) == (["api.shop.east", "web.shop.east"], ["api.shop.east"])
        assert "  not whole    api.shop.east has more endpoints there than are told" in described(body)

    hostile(tmp_path, script, check)


def test_addresses_that_are_none_are_refused(tmp_path):
    async def script(east, line, hello):
        await line.say(east.welcome())
        await line.say(wire.Offer(nonce=1, position=1, addresses=("http://evil:1", "file:///etc"), synced=True))
        await line.hear()
        await line.hear()

    async def check(west, east):
        await connected(west, "east")
        assert (await state(west, "east"))["rejected"]["addresses"]
        assert west.context.mirror.view.peering("east").spec.addresses == (east.url,)

    hostile(tmp_path, script, check)


def test_a_peer_that_changes_its_addresses_all_the_time_is_slowed_down(tmp_path, monkeypatch):
    """Every agent of the mesh reads each change of a Peering."""
    monkeypatch.setattr(taking, "NEWS", Rate(0.5, 2))
    answered = []

    async def script(east, line, hello):
        await line.say(east.welcome())
        for nonce in range(1, 5):
            addresses = (east.url, f"https://h{nonce}.test:1")
            await line.say(wire.Offer(nonce=nonce, position=1, addresses=addresses, synced=True))
            await line.hear()
            answered.append(time.monotonic())

    async def check(west, east):
        await aeventually(lambda: len(answered) >= 4, timeout=60)
        assert answered[3] - answered[1] > 3
        # The same of a peer that dials, and tells of others each time.
        learn = west.context.exporting._learn
        faults = [await learn("east", (east.url, f"https://g{number}.test:1")) for number in range(20)]
        assert "too often" in faults[-1]
        assert not faults[0]

    hostile(tmp_path, script, check)


@pytest.mark.parametrize(
    "identity",
    ["spiffe://west.test/controlplane/cp1", "spiffe://east.test/node/n1", "spiffe://east.test/ns/shop/sa/api"],
)
def test_a_server_that_is_no_control_plane_of_the_peer_hears_nothing(tmp_path, identity):
    async def run():
        async with cluster(tmp_path, "west") as west, forger(tmp_path, west) as east, east.serving(identity):
            await said(west, "east", "")
            assert east.dialled == 0

    asyncio.run(run())


def test_what_was_imported_is_not_told_on_around_a_ring(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east", "north") as three:
            west, east, north = three
            for maker, taker in ((west, east), (east, north), (north, west)):
                await peered(maker, taker)
            for cp in three:
                await offer_api(cp)
            for cp in three:
                for other in three:
                    if other is not cp:
                        await holds(cp, other.name, *API)
            for cp in three:
                listing = await cp.store.list(keys.IMPORTS)
                assert len(listing.items) == 4  # of each of the two others a service and a gateway

    asyncio.run(run())


def test_a_peer_that_may_know_one_thing_is_not_told_another(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east", "north") as (west, east, north):
            await east.apply(namespace(), service("api"), service("web"), export("api", to=["west"], name="a"))
            await east.apply(export("web", to=["north"], name="b"))
            await peered(east, west)
            await peered(east, north)
            await holds(west, "east", "services/shop/api")
            await holds(north, "east", "services/shop/web")
            await east.apply(export("api", to=["west", "north"], name="a"))
            await holds(north, "east", "services/shop/api", "services/shop/web")
            await holds(west, "east", "services/shop/api")

    asyncio.run(run())
