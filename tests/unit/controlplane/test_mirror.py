"""The mirror: one transaction is one change, whatever it wrote where."""

import asyncio
import random

from controlplane import registry
from controlplane.mirror import Mirror
from mesh import codec, keys
from mesh.model import Metadata, Node, NodeSpec
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Delete, Put
from tests.support.waiting import aeventually
from tests.unit.controlplane import harness


def made(document):
    obj = codec.decode_strict(document)
    assert not isinstance(obj, tuple), obj
    return obj


def test_what_one_transaction_wrote_is_seen_at_once():
    async def run():
        store = MemoryStore()
        mirror, seen = Mirror(store, random.Random(1)), []

        def notice(touched):
            if touched:  # not that the store is there
                seen.append((touched, len(mirror.view.instances), len(mirror.view.endpoints)))

        mirror.subscribe(notice)
        task = asyncio.create_task(mirror.run())
        await mirror.ready.wait()
        service, instance = made(harness.service()), made(harness.instance())
        endpoint = registry.endpoint(service, instance, "", "healthy")
        node = Node(metadata=Metadata(name="n1"), spec=NodeSpec(address="10.0.0.1"))
        places = {keys.key_for(obj.ref): obj for obj in (service, instance, node)}
        places[keys.key_for(endpoint.ref, service="api")] = endpoint
        await store.txn((), [Put(key, codec.encode(obj)) for key, obj in places.items()])
        await aeventually(lambda: seen)
        ((touched, instances, endpoints),) = seen
        assert (instances, endpoints) == (1, 1)
        assert (touched.services, touched.instances, touched.nodes) == ({service.service}, {instance.ref}, {"n1"})
        seen.clear()
        await store.txn((), [Delete(key) for key in places])
        await aeventually(lambda: seen)
        assert [(instances, endpoints) for _, instances, endpoints in seen] == [(0, 0)]
        task.cancel()

    asyncio.run(run())


def test_what_is_of_no_concern_changes_nothing():
    """Declarations, elections, the CA's secrets; and what was is not followed at all."""

    async def run():
        store = MemoryStore()
        mirror = Mirror(store, random.Random(1))
        task = asyncio.create_task(mirror.run())
        await mirror.ready.wait()
        junk = (
            keys.EPOCH,
            keys.COMMIT,
            keys.CA + "x",
            keys.ELECTIONS + "x",
            keys.PRIVATE + "new/x",
            keys.MESH + "new/y",
        )
        revision = await store.txn((), [Put(key, b"\x00junk") for key in junk])
        await aeventually(lambda: mirror.view.revision >= revision)
        assert (mirror.view.objects, mirror.view.bad) == ({}, {})
        assert not keys.HISTORY.startswith(keys.ROOT)
        task.cancel()

    asyncio.run(run())
