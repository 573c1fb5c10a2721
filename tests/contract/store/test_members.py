"""What only a cluster can do: members that die, freeze, or lose the quorum. Real etcd only."""

import asyncio
import time
from contextlib import contextmanager

import pytest

from mesh.store.errors import Conflict, Refused, Unavailable
from mesh.store.etcd import EtcdStore
from mesh.store.protocol import Compare, Put, Range
from tests.contract.store.conftest import etcd_backend
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real


@contextmanager
def within(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def pinned(cluster, number, user="holdfast-controlplane"):
    """A client whose first choice is this member."""

    class First:
        def shuffle(self, members):
            members.sort(key=lambda member: member.address != cluster.endpoints[number])

    return EtcdStore(cluster.endpoints, tls=cluster.tls(user), rng=First())


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_reads_and_compared_writes_go_on_without_one_member(cluster, fault):
    """The member asked first dies or freezes under an open connection; the others answer in the same call."""
    key = etcd_backend(cluster).room + "a"

    async def run():
        number = (await cluster.leader() + 1) % 3
        store = pinned(cluster, number)
        revision = await store.txn([], [Put(key, b"0")])
        cluster.kill_member(number) if fault == "kill" else cluster.pause_member(number)
        with within(5):
            assert (await store.get(key)).value == b"0"
            revision = await store.txn([Compare(key, revision)], [Put(key, b"1")])
        with within(1):
            # The broken one is not asked again, so now any write is quick.
            await store.txn([], [Put(key, b"2")])
            with pytest.raises(Conflict):
                await store.txn([Compare(key, revision)], [Put(key, b"3")])
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_compared_write_survives_the_loss_of_its_member_under_way(cluster, fault):
    """Or says honestly that it does not know; it never says Conflict after it wrote."""
    key = etcd_backend(cluster).room + "a"

    async def run():
        number = (await cluster.leader() + 1) % 3
        store, other = pinned(cluster, number), pinned(cluster, (number + 1) % 3)
        revision = await store.txn([], [Put(key, b"0")])

        async def writer():
            seen, done = revision, 0
            for n in range(1, 300):
                try:
                    seen = await store.txn([Compare(key, seen)], [Put(key, str(n).encode())])
                    done += 1
                except Unavailable:
                    seen = (await store.get(key)).revision
            return done

        async with asyncio.TaskGroup() as group:
            task = group.create_task(writer())

            async def some():
                return int((await other.get(key)).value) > 50

            await aeventually(some)
            cluster.kill_member(number) if fault == "kill" else cluster.pause_member(number)
        assert task.result() >= 298
        await store.close()
        await other.close()

    asyncio.run(run())


def test_a_creation_that_may_have_happened_is_not_sent_twice(cluster):
    """Deleted meanwhile, a late second run would bring the key back; so the caller is told in time."""
    key = etcd_backend(cluster).room + "token"

    async def run():
        number = (await cluster.leader() + 1) % 3
        store = pinned(cluster, number)
        await store.revision()
        cluster.pause_member(number)
        with within(6), pytest.raises(Unavailable):
            await store.txn([Compare(key, 0)], [Put(key, b"x")])
        with within(1):
            # The next one goes elsewhere at once.
            await store.txn([Compare(key + "2", 0)], [Put(key + "2", b"x")])
        await store.close()

    asyncio.run(run())


def test_without_a_quorum_nothing_hangs_and_it_recovers(cluster):
    key = etcd_backend(cluster).room + "a"

    async def run():
        store = EtcdStore(cluster.endpoints, tls=cluster.tls(), timeout=2)
        await store.txn([], [Put(key, b"1")])
        cluster.kill_member(0)
        cluster.kill_member(1)
        with within(3), pytest.raises(Unavailable):
            await store.get(key)
        with within(3), pytest.raises(Unavailable):
            await store.txn([], [Put(key, b"2")])
        cluster.launch()

        async def back():
            try:
                return await store.get(key)
            except Unavailable:
                return None

        assert await aeventually(back, timeout=20)
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_watch_ends_when_its_member_does(cluster, fault):
    """A frozen member sends nothing and closes nothing; silence ends the stream."""
    room = etcd_backend(cluster).room

    async def run():
        store = pinned(cluster, 2)
        watch = store.watch([Range(room, await store.revision() + 1)])
        await anext(watch)
        cluster.kill_member(2) if fault == "kill" else cluster.pause_member(2)
        with within(20 if fault == "pause" else 2), pytest.raises(Unavailable):
            async for _ in watch:
                pass
        with within(3):
            again = store.watch([Range(room, await store.revision() + 1)])
            await anext(again)
            await again.aclose()
        await store.close()

    asyncio.run(run())


def test_a_watch_on_a_member_without_leader_ends(cluster):
    """It asked for a leader, so it is not left in the dark."""
    room = etcd_backend(cluster).room

    async def run():
        store = pinned(cluster, 2)
        watch = store.watch([Range(room, await store.revision() + 1)])
        await anext(watch)
        cluster.kill_member(0)
        cluster.kill_member(1)
        with within(15), pytest.raises(Unavailable):
            async for _ in watch:
                pass
        await store.close()

    asyncio.run(run())


def test_a_reader_of_the_mesh_can_do_nothing_else(cluster):
    """The gate's user."""

    async def run():
        store = cluster.store("holdfast-gate")
        mesh = etcd_backend(cluster).room
        await store.list(mesh)
        await store.revision()
        watch = store.watch([Range(mesh, await store.revision() + 1)])
        await anext(watch)
        await watch.aclose()
        for outside in ("/holdfast/v1/private/", "/holdfast/v1/", "/"):
            with pytest.raises(Refused):
                await store.list(outside)
            with pytest.raises(Refused):
                await anext(store.watch([Range(outside, 1)]))
        with pytest.raises(Refused):
            await store.txn([], [Put(mesh + "a", b"")])
        await store.close()

    asyncio.run(run())


def test_who_has_no_certificate_of_the_right_ca_is_not_heard(cluster, tmp_path):
    from controlplane import etcd_pki
    from mesh.store.etcd import Tls

    async def run():
        now = time.time()
        foreign = etcd_pki.make_ca(now)
        pair = etcd_pki.make_client(foreign, "root", now)
        trusted = cluster.tls().ca_pem
        for tls, name in (
            (Tls(trusted), "etcd"),
            (Tls(trusted, pair.cert, pair.key), "etcd"),
            (Tls(foreign.cert, *cluster.tls()[1:]), "etcd"),
            (cluster.tls(), "another.name"),
        ):
            store = EtcdStore(cluster.endpoints, tls=tls, server_name=name, timeout=1)
            with within(3), pytest.raises(Unavailable):
                await store.revision()
            await store.close()
            good = cluster.store()
            await good.revision()
            await good.close()

    asyncio.run(run())


def test_credentials_are_renewed_under_load(cluster):
    key = etcd_backend(cluster).room + "a"

    async def run():
        store = cluster.store("holdfast-gate")
        with pytest.raises(Refused):
            await store.txn([], [Put(key, b"")])
        store.renew_tls(cluster.tls("holdfast-controlplane"))
        async with asyncio.TaskGroup() as group:
            for n in range(50):
                group.create_task(store.txn([], [Put(f"{key}{n}", b"")]))
                if n % 10 == 0:
                    await asyncio.sleep(0)
                    store.renew_tls(cluster.tls("holdfast-controlplane"))
        await store.close()

    asyncio.run(run())


def test_users_may_be_set_up_again_and_lose_what_they_should_not_have(cluster):
    from mesh.store.etcd import Role

    async def run():
        admin = cluster.admin()
        name = "somebody"
        await admin.ensure_users({name: Role("/holdfast/v1/", write=True)})
        await admin.ensure_users({name: Role("/holdfast/v1/mesh/", write=False)})
        await admin.ensure_users()
        await admin.enable_auth()
        assert await admin.auth_enabled()
        states = await admin.status()
        assert [state.version[:4] for state in states] == ["3.6."] * 3
        assert sum(state.leader for state in states) == 1
        assert not any(state.problems for state in states)
        cluster.kill_member(0)
        down = (await admin.status())[0]
        assert down.version == ""
        assert down.problems
        await admin.close()

    asyncio.run(run())
