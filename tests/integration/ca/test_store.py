"""Tokens, the root and the bundle on a real etcd."""

import asyncio

import pytest

from ca import bundle
from ca.signer.memory import new_root
from mesh import keys
from tests.support import servers, tokens
from tests.support.ca import DOMAIN, NOW
from tests.support.roots import replicas_agree_on_one_root

pytestmark = pytest.mark.real


@pytest.fixture
def etcd(tmp_path_factory):
    """Three members, empty for each test."""
    with servers.etcd(tmp_path_factory.mktemp("etcd"), members=3) as cluster:
        yield cluster


def test_join_tokens_roots_and_bundles_hold_on_real_etcd(etcd):
    async def go():
        one, two = etcd.store(timeout=20), etcd.store(timeout=20)
        try:
            await tokens.one_winner_of_many(one)
            await replicas_agree_on_one_root(two)
            await tokens.nothing_secret_is_stored(one)
            everything = await one.list(keys.ROOT)
            assert all(b"PRIVATE KEY" not in item.value for item in everything.items)
            roots = [new_root(str(number), NOW).pem for number in range(4)]
            async with asyncio.TaskGroup() as group:
                for number, root in enumerate(roots):
                    group.create_task(bundle.publish((one, two)[number % 2], DOMAIN, (root,), NOW))
            held, _ = await bundle.read(one, DOMAIN)
            assert held is not None
            assert (set(held.spec.roots), held.spec.sequence) == (set(roots), 4)
        finally:
            await one.close()
            await two.close()

    asyncio.run(go())
