"""The watch on a store with real semantics: what it tells, what it holds back, where it goes on."""

import asyncio
import random

from agent import metrics
from agent.gather import Gathered
from agent.watch import Watch
from mesh import codec, keys
from mesh.model import Metadata, Namespace, Ref, ServiceRef
from mesh.model.world import Commit, Deletions
from mesh.store.errors import Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Delete, Put
from tests.support.meshes import imported, peering, service
from tests.support.waiting import aeventually
from tests.unit.agent.watching import API, Listener, endpoint, far, fill, put, run, svc, watching


def test_the_first_world_is_told_when_all_of_interest_is_known():
    async def scenario():
        store = MemoryStore()
        await store.txn((), (put(svc("api")), endpoint("a1"), endpoint("w1", "web")))
        async with watching(store) as (watch, listener):
            await aeventually(lambda: listener.worlds)
            assert listener.names == {"api"}
            assert listener.endpoints() == {"a1"}
            assert not listener.endpoints(ServiceRef("shop", "web")), "nobody here asked for it"
            for world in listener.worlds:
                assert world.endpoints, "no world was told before its endpoints were known"
            await store.txn((), (endpoint("a2"),))
            await aeventually(lambda: listener.endpoints() == {"a1", "a2"})
            assert watch.held == ""

    run(scenario)


def test_garbage_is_a_problem_and_stops_nothing():
    async def scenario():
        store = MemoryStore()
        key = keys.key_for(svc("api").ref)
        await store.txn((), (put(svc("api")), Put(keys.OBJECTS + "Nonsense/x/y", b"{}")))
        async with watching(store) as (watch, listener):
            await aeventually(lambda: listener.worlds)
            known = listener.worlds[-1].objects[svc("api").ref]
            await store.txn((), (Put(key, b"\xff\x00 garbage"), put(svc("web"))))
            await aeventually(lambda: "web" in listener.names)
            world = listener.worlds[-1]
            assert world.objects[svc("api").ref] == known, "what was known before stays in force"
            assert key in world.undecodable
            stored = await watch.stored()
        # It survives a restart, too.
        again = Gathered(stored).world
        assert again.objects[svc("api").ref].metadata.name == "api"
        assert key in again.undecodable
        async with watching(store, stored) as (_, listener):
            await store.txn((), (put(svc("api")),))
            await aeventually(lambda: listener.worlds and key not in listener.worlds[-1].undecodable)

    run(scenario)


def test_what_goes_to_disk_is_never_said_to_be_newer_than_it_is():
    """At no moment: an agent that is killed right after would never hear of the change in between."""

    async def scenario():
        store = MemoryStore()
        async with watching(store) as (watch, listener):
            await aeventually(lambda: listener.worlds)
            for number in range(20):
                await store.txn((), (put(svc(f"s{number}")),))
                while f"s{number}" not in listener.names:
                    await asyncio.sleep(0)
                    kept = (await watch.stored()).ranges[keys.OBJECTS]
                    assert set(kept.known.keys) == set(kept.values), "it says to know what it has not"

    run(scenario)


def test_a_restart_goes_on_where_it_was():
    async def scenario():
        store = MemoryStore()
        await fill(store, 3)
        await store.txn((), (endpoint("a1"),))
        async with watching(store) as (watch, listener):
            await aeventually(lambda: listener.worlds)
            stored = await watch.stored()
        await store.txn((), (Delete(keys.key_for(svc("s0").ref)), put(svc("s9"))))
        listed = []
        real = store.list
        store.list = lambda prefix: listed.append(prefix) or real(prefix)
        async with watching(store, stored) as (_, listener):
            await aeventually(lambda: listener.names == {"s1", "s2", "s9"})
            assert listener.endpoints() == {"a1"}
            assert listed == [], "nothing was listed again"

    run(scenario)


def test_a_new_interest_lists_only_what_is_new():
    async def scenario():
        store = MemoryStore()
        await store.txn((), (put(svc("api")), endpoint("a1"), endpoint("w1", "web")))
        listed = []
        real = store.list
        store.list = lambda prefix: listed.append(prefix) or real(prefix)
        async with watching(store) as (watch, listener):
            await aeventually(lambda: listener.worlds)
            listed.clear()
            listener.interest = {API, ServiceRef("shop", "web")}
            watch.interested()
            await aeventually(lambda: listener.endpoints(ServiceRef("shop", "web")) == {"w1"})
            assert listed == [keys.endpoints_of(ServiceRef("shop", "web"))]
            listener.interest = {ServiceRef("shop", "web")}
            watch.interested()
            await aeventually(lambda: not listener.endpoints())
            await store.txn((), (endpoint("w2", "web"),))
            await aeventually(lambda: listener.endpoints(ServiceRef("shop", "web")) == {"w1", "w2"})

    run(scenario)


def test_what_peers_told_is_followed_as_soon_as_there_is_a_peering():
    far_api = ServiceRef("shop", "api.west")

    async def scenario():
        store = MemoryStore()
        of_west, of_north = (put(imported(service("api"), cluster)) for cluster in ("west", "north"))
        await store.txn((), (put(svc("api")), of_west, of_north, far("gw-1"), far("gw-1", "db.west")))
        listener = Listener()
        listener.interest = {far_api}
        async with watching(store, listener=listener) as (watch, _):
            await aeventually(lambda: listener.worlds)
            assert listener.names == {"api"}, "of whom there is no Peering, nobody asks"
            assert listener.endpoints(far_api) == {"gw-1"}
            await store.txn((), (put(peering("west")),))
            await aeventually(lambda: listener.names == {"api", "api.west", "west"})
            assert not listener.endpoints(ServiceRef("shop", "db.west")), "nobody here calls it"
            await store.txn((), (far("gw-2"),))
            await aeventually(lambda: listener.endpoints(far_api) == {"gw-1", "gw-2"})
            stored = await watch.stored()
        assert Gathered(stored).world.objects.keys() == listener.worlds[-1].objects.keys()
        async with watching(store, stored, listener):
            await store.txn((), (Delete(keys.key_for(peering("west").ref)),))
            await aeventually(lambda: listener.names == {"api"})

    run(scenario)


def test_a_mass_deletion_of_imports_is_held_like_any_other():
    async def scenario():
        store = MemoryStore()
        known = [imported(service(f"s{n}"), "west") for n in range(20)]
        await store.txn((), (put(peering("west")), *map(put, known)))
        async with watching(store) as (watch, listener):
            await aeventually(lambda: len(listener.names) == 21)
            await store.txn((), tuple(Delete(keys.key_for(one.ref)) for one in known[:15]))
            await aeventually(lambda: watch.held)
            assert keys.imported_services_of("west") in watch.held
            assert len(watch.world.objects) == 21
            assert await watch.release() == 15
            await aeventually(lambda: len(listener.names) == 6)

    run(scenario)


def test_an_undeclared_mass_deletion_is_held_until_an_operators_word():
    async def scenario():
        store = MemoryStore()
        await fill(store, 20)
        async with watching(store) as (watch, listener):
            await aeventually(lambda: len(listener.names) == 20)
            gone = [Delete(keys.key_for(svc(f"s{n}").ref)) for n in range(15)]
            await store.txn((), (*gone, put(svc("new"))))
            await aeventually(lambda: "new" in listener.names)
            assert len(listener.names) == 21, "its neighbours went on; the loss is held"
            assert "15 of 20" in watch.held
            stored = await watch.stored()
            assert await watch.release() == 15
            assert listener.names == {*(f"s{n}" for n in range(15, 20)), "new"}
            assert watch.held == ""
        # Had it been restarted meanwhile, it would still hold them.
        async with watching(store, stored) as (watch, listener):
            await aeventually(lambda: listener.worlds)
            assert len(listener.names) == 21
            assert watch.held
            back = await store.txn((), (put(svc("s0")),))
            await aeventually(lambda: watch.newest >= back)
            assert await watch.release() == 14, "what came back is held no more"

    run(scenario)


def test_a_declared_mass_deletion_is_obeyed_at_once():
    async def scenario():
        store = MemoryStore()
        await fill(store, 20)
        async with watching(store) as (watch, listener):
            await aeventually(lambda: len(listener.names) == 20)
            gone = [Delete(keys.key_for(svc(f"s{n}").ref)) for n in range(15)]
            commit = Put(keys.COMMIT, codec.encode_struct(Commit(author="ops", deleted=15)))
            await store.txn((), (*gone, commit))
            await aeventually(lambda: len(listener.names) == 5)
            assert watch.held == ""

    run(scenario)


def test_an_old_declaration_does_not_excuse_a_later_loss():
    async def scenario():
        store = MemoryStore()
        await fill(store, 20)
        await store.txn((), (Put(keys.COMMIT, codec.encode_struct(Commit(author="ops", deleted=50))),))
        async with watching(store) as (watch, listener):
            await aeventually(lambda: len(listener.names) == 20)
            await store.txn((), [Delete(keys.key_for(svc(f"s{n}").ref)) for n in range(15)])
            await aeventually(lambda: watch.held)
            assert len(listener.names) == 20

    run(scenario)


def test_what_is_held_is_obeyed_when_it_is_declared_after_all():
    async def scenario():
        store = MemoryStore()
        await fill(store, 20)
        async with watching(store) as (watch, listener):
            await aeventually(lambda: len(listener.names) == 20)
            await store.txn((), [Delete(keys.key_for(svc(f"s{n}").ref)) for n in range(15)])
            await aeventually(lambda: watch.held)
            await store.txn((), (Put(keys.DELETIONS, codec.encode_struct(Deletions(total=15))),))
            await aeventually(lambda: len(listener.names) == 5)
            assert watch.held == ""

    run(scenario)


def test_a_broken_store_is_told_and_what_is_known_stays():
    class Failing:
        def __init__(self, store) -> None:
            self.store, self.broken = store, False

        def __getattr__(self, name):
            if self.broken and name in {"get", "list", "revision"}:
                raise Unavailable("no quorum")
            return getattr(self.store, name)

        async def watch(self, ranges):
            async for batch in self.store.watch(ranges):
                if self.broken:
                    raise Unavailable("no quorum")
                yield batch

    async def scenario():
        store = Failing(MemoryStore())
        await fill(store, 3)
        async with watching(store) as (watch, listener):
            await aeventually(lambda: len(listener.names) == 3)
            store.broken = True
            await store.store.txn((), (put(svc("later")),))
            await aeventually(lambda: "broken" in listener.links)
            assert len(watch.world.objects) == 3
            store.broken = False
            await aeventually(lambda: "later" in listener.names)

    run(scenario)


def test_the_world_from_disk_is_whole_before_anything_is_heard():
    async def scenario():
        store = MemoryStore()
        await fill(store, 3)
        await store.txn((), (Put(keys.EPOCH, b"e1"), endpoint("a1"), put(Namespace(metadata=Metadata(name="shop")))))
        async with watching(store) as (watch, listener):
            await aeventually(lambda: listener.worlds and listener.worlds[-1].epoch == "e1")
            stored, live = await watch.stored(), listener.worlds[-1]
        listener = Listener()
        cold = Watch(listener.told, interest=lambda _w: {API}, rng=random.Random(1), counters=metrics.Counters())
        world = cold.use(stored)
        assert world.objects == live.objects
        assert world.endpoints == live.endpoints
        assert (world.revision, world.epoch) == (live.revision, "e1")
        assert world.objects[Ref("Service", "shop", "s1")].metadata.resource_version

    run(scenario)
