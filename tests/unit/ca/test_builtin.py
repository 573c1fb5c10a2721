"""The root in the store: one for all replicas, sealed, and refused when it was tampered with."""

import asyncio
import json

import pytest

from ca.seal import Cipher
from ca.signer.builtin import ROOT_KEY, BuiltinSigner
from ca.signer.protocol import SignerRefused, SignerUnavailable
from mesh import keys
from mesh.store.errors import Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.support.ca import DOMAIN, SEAL_KEY, Clock, key_and_csr
from tests.support.roots import replicas_agree_on_one_root


def signer(store, key: bytes = SEAL_KEY) -> BuiltinSigner:
    return BuiltinSigner(store, Cipher([key]), DOMAIN, clock=Clock())


def test_replicas_that_start_at_once_agree_on_one_root():
    asyncio.run(replicas_agree_on_one_root(MemoryStore()))


def test_the_key_is_not_readable_and_the_certificate_is():
    async def go():
        store = MemoryStore()
        roots = await signer(store).roots()
        (item,) = (await store.list(keys.CA)).items
        record = json.loads(item.value)
        assert item.key == ROOT_KEY
        assert record["certificate"] == roots[0]
        assert record["key"]["sealed"] == 1
        assert b"PRIVATE" not in item.value

    asyncio.run(go())


def test_another_seal_key_makes_no_second_root():
    async def go():
        store = MemoryStore()
        await signer(store).roots()
        revision = await store.revision()
        with pytest.raises(SignerRefused, match="not held"):
            await signer(store, bytes(32)).roots()
        assert await store.revision() == revision

    asyncio.run(go())


@pytest.mark.parametrize("damage", ["garbage", "empty", "another key", "another certificate"])
def test_a_damaged_root_is_refused_and_not_replaced(damage):
    async def go():
        store, other = MemoryStore(), MemoryStore()
        await signer(store).roots()
        await signer(other).roots()
        mine, theirs = [json.loads((await s.get(ROOT_KEY)).value) for s in (store, other)]
        value = {
            "garbage": b"\xff",
            "empty": b"{}",
            "another key": json.dumps({**mine, "key": theirs["key"]}).encode(),
            "another certificate": json.dumps({**mine, "certificate": theirs["certificate"]}).encode(),
        }[damage]
        await store.txn([], [Put(ROOT_KEY, value)])
        fresh = signer(store)
        with pytest.raises(SignerRefused):
            await fresh.sign_intermediate(key_and_csr()[1], 3600)
        assert (await store.get(ROOT_KEY)).value == value

    asyncio.run(go())


def test_a_store_that_is_away_is_unavailable():
    class Away(MemoryStore):
        async def get(self, key, *, at=None):
            raise Unavailable("no quorum")

    async def go():
        with pytest.raises(SignerUnavailable):
            await signer(Away()).roots()

    asyncio.run(go())
