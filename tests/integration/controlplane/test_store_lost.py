"""An etcd that lost all its data, beside control-plane nodes that run."""

import asyncio
import random
import time

import pytest

from ca.signer.memory import MemorySigner
from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.mirror import Mirror
from controlplane.setup import InitOptions, init_store
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real
DOMAIN = "lost.test"


def test_what_a_node_knows_outlives_it_until_there_is_a_mesh_again(tmp_path):
    async def init(store):
        await init_store(store, MemorySigner(DOMAIN, clock=time.time), InitOptions(trust_domain=DOMAIN), time.time())

    async def run():
        async with EtcdCluster(tmp_path / "etcd", members=1) as cluster:
            store = cluster.store()
            await init(store)
            mirror = Mirror(store, random.Random(1))
            following = asyncio.create_task(mirror.run())
            await mirror.ready.wait()
            epoch, known = mirror.view.epoch, set(mirror.view.objects)
            assert epoch
            assert known

            cluster.wipe()
            cluster.launch()
            await cluster.ready()
            await aeventually(lambda: "holds no mesh" in mirror.outage, timeout=30)
            assert not mirror.connected
            assert (mirror.view.epoch, set(mirror.view.objects)) == (epoch, known)

            await init(store)
            await aeventually(lambda: mirror.connected and mirror.view.epoch != epoch, timeout=30)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await store.close()

    asyncio.run(run())
