"""`init` on a store in memory."""

import asyncio
import time

import pytest

from ca.signer.memory import MemorySigner
from controlplane import auth
from controlplane.setup import InitOptions, SetupError, _check, init_store
from mesh import codec, keys
from mesh.model import Ref
from mesh.store.errors import Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.fakes.cut_store import CutStore

OPTIONS = InitOptions(trust_domain="mesh.test", cluster="east")
NOW = time.time()


def init(store, options=OPTIONS, signer=None):
    return init_store(store, signer or MemorySigner("mesh.test", clock=time.time), options, NOW)


def test_a_fresh_store_becomes_a_mesh():
    async def run():
        store = MemoryStore()
        made = await init(store)
        assert made.fresh
        assert made.roots
        config = codec.decode("MeshConfig", (await store.get(keys.key_for(Ref("MeshConfig", "", "default")))).value)
        assert (config.spec.trust_domain, config.spec.cluster) == ("mesh.test", "east")
        assert await store.get(keys.key_for(Ref("Namespace", "", "default")))
        assert await store.get(keys.EPOCH)
        assert await store.get(keys.BUNDLES + "mesh.test")
        caller = await auth.operator(store, auth.operator_key(made.admin_token), NOW)
        assert caller == auth.Operator("admin", "admin")
        late = await auth.operator(store, auth.operator_key(made.admin_token), NOW + OPTIONS.admin_ttl + 1)
        assert isinstance(late, auth.Rejected)

    asyncio.run(run())


def test_twice_changes_nothing():
    async def run():
        store, signer = MemoryStore(), MemorySigner("mesh.test", clock=time.time)
        await init(store, signer=signer)
        before = await store.revision()
        again = await init(store, signer=signer)
        assert not again.fresh
        assert again.admin_token == ""
        assert await store.revision() == before

    asyncio.run(run())


def test_a_lost_admin_token_can_be_replaced():
    async def run():
        store, signer = MemoryStore(), MemorySigner("mesh.test", clock=time.time)
        await init(store, signer=signer)
        again = await init(store, InitOptions(trust_domain="mesh.test", cluster="east", new_token=True), signer)
        assert isinstance(await auth.operator(store, auth.operator_key(again.admin_token), NOW), auth.Operator)

    asyncio.run(run())


@pytest.mark.parametrize("other", [{"trust_domain": "other.test"}, {"cluster": "west"}])
def test_another_mesh_is_not_initialised_over(other):
    async def run():
        store = MemoryStore()
        await init(store)
        before = await store.revision()
        with pytest.raises(SetupError, match="another mesh already"):
            await init(store, InitOptions(**{"trust_domain": "mesh.test", "cluster": "east", **other}))
        assert await store.revision() == before

    asyncio.run(run())


def test_a_run_that_broke_off_anywhere_is_simply_repeated():
    async def run():
        for cut in range(1, 4):
            store, signer = CutStore(), MemorySigner("mesh.test", clock=time.time)
            store.left = cut
            with pytest.raises(Unavailable):
                await init(store, signer=signer)
            made = await init(store, signer=signer)
            assert made.admin_token
            assert made.roots

    asyncio.run(run())


def test_a_store_with_a_broken_off_restore_is_refused():
    async def run():
        store = MemoryStore()
        await store.txn((), (Put(keys.PRIVATE + "restoring", b"{}"),))
        with pytest.raises(SetupError, match="restore"):
            await init(store)

    asyncio.run(run())


def test_all_faults_of_the_options_are_told():
    options = InitOptions(trust_domain="Not A Domain", cluster="a/b", admin_ttl=1, etcd_root_cert="x")
    with pytest.raises(SetupError) as caught:
        _check(options)
    for path in ("spec.trustDomain", "spec.cluster", "admin ttl", "etcd root"):
        assert path in str(caught.value)
