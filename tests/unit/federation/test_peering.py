"""Two whole control planes in one process, each with a store and a CA of its own, over real TLS."""

import asyncio
import time

import msgspec

from ca import bundle
from ca.signer.memory import MemorySigner
from controlplane import backup, peers
from controlplane.cli.errors import Exit
from controlplane.peered import PeerRecord
from controlplane.setup import InitOptions, init_store
from controlplane.touched import Touched
from mesh import codec, keys
from mesh.model import Ref, ServiceRef
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Delete, Put
from tests.support.waiting import aeventually
from tests.unit.cli.test_commands import Cli
from tests.unit.controlplane.harness import replica, service, settings_for
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
from tests.unit.multicluster.roots import root


def test_a_token_makes_peers_of_two_and_each_sees_what_the_other_exports(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await connected(west, "east")
            await connected(east, "west")
            await holds(west, "east", *API)
            found = await imported(west, "east")
            held = found["services/shop/api"]
            assert (held.metadata.name, held.spec.trust_domain) == ("api.east", "east.test")
            way = found["endpoints/shop/api/gw1"].spec
            assert (way.service, way.address, way.port, way.weight, way.health) == (
                "api.east", "10.9.9.9", 15444, 2, "healthy",
            )  # fmt: skip
            for cp, other in ((west, "east"), (east, "west")):
                bundle = cp.context.mirror.view.bundle(f"{other}.test")
                assert bundle.spec.roots
            assert await imported(east, "west") == {}

    asyncio.run(run())


def test_a_change_travels_and_a_deletion_too(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await holds(west, "east", *API)
            await register(east, "i1", ("api", "shop", "unhealthy"))

            async def lighter():
                return (await imported(west, "east"))["endpoints/shop/api/gw1"].spec.weight == 1

            await aeventually(lighter)
            ours = await west.store.get(keys.DELETIONS)
            await east.apply(delete=[{"kind": "ExportPolicy", "namespace": "shop", "name": "out"}])
            await holds(west, "east")
            # Declared, so that agents obey at once, and of the peer's imports alone.
            assert msgspec.json.decode((await west.store.get(keys.total_of("east"))).value) == {"total": 2}
            assert await west.store.get(keys.DELETIONS) == ours
            commit = msgspec.json.decode((await west.store.get(keys.COMMIT)).value)
            assert (commit["deleted"], commit["withdrawn"]) == (2, {"east": 2})

    asyncio.run(run())


def test_a_new_root_of_one_is_in_the_others_bundle_at_once(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await peered(east, west)
            await connected(west, "east")
            fresh = root("east.test")
            await bundle.publish(east.store, "east.test", (fresh,), time.time())
            await aeventually(lambda: fresh in west.context.mirror.view.bundle("east.test").spec.roots, timeout=5)
            await connected(west, "east")

    asyncio.run(run())


def test_a_root_that_comes_after_a_restore_is_believed(tmp_path):
    """The backup's bundle is older than what the peer has seen; and the one that it is restored as is not."""

    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await peered(east, west)
            await connected(west, "east")
            saved = list(await backup.dump(east.store, cluster="east", trust_domain="east.test", now=time.time()))
            for root_since in (root("east.test"), root("east.test")):
                await bundle.publish(east.store, "east.test", (root_since,), time.time())
            await aeventually(lambda: west.context.mirror.view.bundle("east.test").spec.sequence == 3, timeout=5)
            await backup.restore(east.store, saved, overwrite=True, author="test", new_epoch="another", now=time.time())
            fresh = root("east.test")
            await bundle.publish(east.store, "east.test", (fresh,), time.time())
            await aeventually(lambda: fresh in west.context.mirror.view.bundle("east.test").spec.roots, timeout=20)
            await connected(west, "east")

    asyncio.run(run())


def test_the_commands_make_show_pause_and_delete_a_peering(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            (tmp_path / "w").mkdir()
            (tmp_path / "e").mkdir()
            there, here = Cli(east, tmp_path / "e"), Cli(west, tmp_path / "w")
            file = tmp_path / "to-west.token"
            made = await there("peering", "token", "--out", str(file))
            assert made.exit_code == 0, made.output
            assert file.stat().st_mode & 0o777 == 0o600
            done = await here("peering", "accept", str(file))
            assert "peered with east (trust domain east.test)" in done.stdout, done.output
            again = await here("peering", "accept", "-", stdin=file.read_text())
            assert again.exit_code == 0, again.output
            await holds(west, "east", *API)
            listed = (await here("peering", "list")).stdout
            assert "connected" in listed
            told = (await here("peering", "describe", "east")).stdout
            assert "api.shop.east" in told
            assert "1 services, 1 endpoints" in told
            assert (await here("peering", "pause", "east")).exit_code == 0

            async def is_paused():
                return "paused" in (await here("peering", "list")).stdout

            await aeventually(is_paused)
            await holds(west, "east", *API)
            assert (await here("peering", "resume", "east")).exit_code == 0
            await connected(west, "east")
            assert (await here("peering", "delete", "east")).exit_code == 0
            await holds(west, "east")
            assert (await here("peering", "delete", "east")).exit_code == Exit.NOT_FOUND
            await aeventually(lambda: west.context.mirror.view.bundle("east.test") is None)

            async def told_there():
                body = await state(east, "west")
                return body["state"] == "refused" and "delete it here as well" in body["reason"]

            await aeventually(told_there, timeout=20)
            bad = await here("peering", "accept", "-", stdin="hfp1.nonsense")
            assert bad.exit_code == Exit.REFUSED
            assert "cut or altered" in bad.stderr

    asyncio.run(run())


def test_addresses_that_all_changed_are_learned_from_the_peers_own_call(tmp_path):
    """east moves while west cannot reach it: west hears of it when east dials."""

    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await holds(west, "east", *API)
            held = west.context.mirror.view.objects[Ref("Peering", "", "east")]
            spec = msgspec.structs.replace(held.object.spec, addresses=("https://127.0.0.1:1",))
            moved = msgspec.structs.replace(held.object, spec=spec)
            await west.store.txn((), (Put(keys.key_for(moved.ref), codec.encode(moved)),))
            for session in list(east.context.exporting.sessions):
                await session.link.close()
            for session in list(west.context.exporting.sessions):
                await session.link.close()
            await aeventually(
                lambda: west.context.mirror.view.peering("east").spec.addresses == (east.url,), timeout=20
            )
            await connected(west, "east")

    asyncio.run(run())


def test_a_long_pause_is_no_loss(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await holds(west, "east", *API)
            view = west.context.mirror.view

            async def change(**spec):
                held = view.peering("east")
                document = codec.to_document(held)
                document["spec"] |= spec
                status, told = await west.call("PUT", "/v1/objects/peerings/east", document)
                assert status == 200, told

            await change(paused=True, removeAfter="1h")
            await aeventually(lambda: view.peers["east"].state == "paused")
            long_ago = msgspec.structs.replace(view.peers["east"], lost=1.0)
            await west.store.txn((), (Put(keys.PEERS + "east", codec.encode_struct(long_ago)),))
            await aeventually(lambda: view.peers["east"].lost == 1.0)
            await change(paused=False)
            await connected(west, "east")
            await holds(west, "east", *API)

    asyncio.run(run())


def test_status_and_metrics_tell_of_peers(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await connected(west, "east")
            _, told = await west.call("GET", "/v1/status")
            (peer,) = told["peers"]
            assert (peer["name"], peer["state"], peer["imported"], peer["lostSeconds"]) == ("east", "connected", 1, 0)
            (tmp_path / "w").mkdir()
            shown = await Cli(west, tmp_path / "w")("status")
            assert "peers          1 connected; 1 services imported" in shown.stdout
            async with west.request("GET", "/metrics", token=west.admin) as answer:
                page = await answer.text()
            assert 'holdfast_controlplane_peer_connected{peer="east"} 1.0' in page
            assert 'holdfast_controlplane_peer_imported{peer="east",what="services"} 1.0' in page
            assert 'holdfast_controlplane_peer_offer_seconds_count{peer="east"}' in page
            _, told = await east.call("GET", "/v1/peerings")
            assert told["items"][0]["exported"] == 1

    asyncio.run(run())


def test_imported_services_are_listed_and_watched_without_their_endpoints(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            start = await west.store.revision() + 1
            await peered(east, west)
            await holds(west, "east", *API)
            _, listed = await west.call("GET", "/v1/objects/importedservices")
            assert ([item["metadata"]["name"] for item in listed["items"]], listed["bad"]) == (["api.east"], [])
            _, listed = await west.call("GET", "/v1/objects/importedservices?namespace=other")
            assert listed["items"] == []
            _, found = await west.call("GET", "/v1/objects/importedservices/shop/api.east")
            assert found["spec"]["trustDomain"] == "east.test"
            watch = f"/v1/watch/importedservices?revision={start}&namespace=shop"
            async with west.request("GET", watch, token=west.admin) as answer:
                seen = [msgspec.json.decode(await answer.content.readline()) for _ in range(4)]
            told = [line for line in seen if line["type"] != "mark"]
            assert [(line["type"], line["object"]["metadata"]["name"]) for line in told] == [("put", "api.east")]
            status, _ = await west.call("DELETE", "/v1/objects/importedservices/shop/api.east")
            assert status == 422

    asyncio.run(run())


def test_a_root_that_is_taken_away_ends_the_sessions_that_may_stand_on_it(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            extra = root("east.test")
            await bundle.publish(east.store, "east.test", (extra,), time.time())
            await peered(east, west)
            await holds(west, "east", *API)
            await connected(east, "west")
            served, serving = west.context.exporting.sessions[0], east.context.exporting.sessions[0]
            await bundle.retire(east.store, "east.test", extra)
            await aeventually(lambda: extra not in west.context.mirror.view.bundle("east.test").spec.roots)
            # Both ways: the one that west serves to east, and the one that it dialled.
            await aeventually(lambda: served not in west.context.exporting.sessions, timeout=15)
            await aeventually(lambda: serving not in east.context.exporting.sessions, timeout=15)
            await connected(west, "east")
            await aeventually(lambda: len(west.context.exporting.sessions) == 1, timeout=20)
            await holds(west, "east", *API)

    asyncio.run(run())


def test_what_others_change_under_imports_is_put_right(tmp_path, monkeypatch):
    """By hand, or by a restore of this side's own store: the peer's word counts."""
    monkeypatch.setattr(peers, "SWEEP_SECONDS", 0.5)

    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await holds(west, "east", *API)
            await connected(west, "east")
            saved = list(await backup.dump(west.store, cluster="west", trust_domain="west.test", now=time.time()))
            prefix = keys.imports_of("east")
            stray = prefix + "services/shop/stray"
            await west.store.txn((), (Delete(prefix + API[1]), Put(stray, b"{}")))
            await aeventually(lambda: west.context.mirror.view.bad.get(stray))
            await west.store.txn((), (Delete(stray),))
            await holds(west, "east", *API)
            await east.apply(service("later"))
            later = ("services/shop/later", "endpoints/shop/later/gw1")
            await holds(west, "east", *API, *later)
            await backup.restore(west.store, saved, overwrite=True, author="test", new_epoch="another", now=time.time())
            await holds(west, "east", *API, *later)

    asyncio.run(run())


def test_what_a_peer_may_not_know_does_not_wake_its_session(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await east.apply(service("inner"), export("api"))
            await peered(east, west)
            await holds(west, "east", *API)
            await connected(west, "east")
            (session,) = east.context.exporting.sessions
            offered = session.exporter.nonce
            await register(east, "i3", ("inner", "shop", "healthy"), address="10.0.0.3")
            quiet = Touched(endpoints={ServiceRef("shop", "inner")})
            await aeventually(lambda: not session.wake.is_set())
            east.context.exporting._notice(quiet)
            assert not session.wake.is_set()
            east.context.exporting._notice(Touched(endpoints={ServiceRef("shop", "api")}))
            assert session.wake.is_set()
            await register(east, "i1", ("api", "shop", "unhealthy"))
            await aeventually(lambda: session.exporter.nonce > offered)
            assert set(await imported(west, "east")) == set(API)

    asyncio.run(run())


def test_a_peer_that_we_could_not_see_is_tried_before_anything_of_it_is_removed(tmp_path):
    """West's whole control plane was away for days, and its last word was that east is lost."""

    async def run():
        async with cluster(tmp_path, "east") as east:
            await offer_api(east)
            store, signer = MemoryStore(), MemorySigner("west.test", clock=time.time)
            options = InitOptions(trust_domain="west.test", cluster="west")
            made = await init_store(store, signer, options, time.time())
            async with replica(store, signer, settings_for(tmp_path, "west-cp1"), made.admin_token) as west:
                west.name = "west"
                await peered(east, west)
                await holds(west, "east", *API)
                held = west.context.mirror.view.peering("east")
            prefix = keys.imports_of("east")
            before = (await store.list(prefix)).items
            spec = msgspec.structs.replace(held.spec, remove_after="1h")
            patient = msgspec.structs.replace(held, spec=spec)
            lost = PeerRecord(trust_domain="east.test", state="lost", since=1.0, lost=1.0)
            await store.txn(
                (),
                (
                    Put(keys.key_for(patient.ref), codec.encode(patient)),
                    Put(keys.PEERS + "east", codec.encode_struct(lost)),
                ),
            )
            async with replica(store, signer, settings_for(tmp_path, "west-cp2"), made.admin_token) as west:
                west.name = "west"
                await connected(west, "east")
                assert (await store.list(prefix)).items == before  # not even for a moment

    asyncio.run(run())


def test_a_session_in_which_nothing_is_amiss_stays(tmp_path, monkeypatch):
    """However often the leader looks whether what is stored is what was written."""
    monkeypatch.setattr(peers, "SWEEP_SECONDS", 0.05)

    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await holds(west, "east", *API)
            await connected(west, "east")
            (session,) = east.context.exporting.sessions
            for n, health in enumerate(("unhealthy", "healthy") * 10):
                await register(east, "i1", ("api", "shop", health))
                weight = 1 + n % 2

                async def arrived(weight=weight):
                    return (await imported(west, "east"))["endpoints/shop/api/gw1"].spec.weight == weight

                await aeventually(arrived)
            assert east.context.exporting.sessions == [session]

    asyncio.run(run())


def test_a_peer_is_where_its_networks_are(tmp_path):
    """Whoever names them later has what is elsewhere taken away, with the reason; and it comes back with them."""

    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await peered(east, west)
            await offer_api(east)
            await holds(west, "east", *API)
            for networks, names in ((["198.51.100.0/24"], API[:1]), (["198.51.100.0/24", "10.9.9.0/24"], API)):
                _, peering = await west.call("GET", "/v1/objects/peerings/east")
                await west.apply(peering | {"spec": peering["spec"] | {"networks": networks}})
                await holds(west, "east", *names)
                told = (await state(west, "east"))["rejected"]
                refused = {"endpoints/shop/api/gw1"} - {name for name in names if name.startswith("endpoints")}
                assert set(told) == refused, told
                assert all("spec.networks of its Peering" in reason for reason in told.values())

    asyncio.run(run())
