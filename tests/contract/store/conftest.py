"""Two stores, one suite: memory, and a real three-member etcd with TLS and authentication."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from controlplane.demo.etcd_cluster import EtcdCluster
from mesh.model import Revision
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Store
from mesh.store.strict import StrictStore

_rooms = itertools.count()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory) -> Iterator[EtcdCluster]:
    """One cluster for all tests; who stops a member starts it again."""
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"))
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(etcd) -> Iterator[EtcdCluster]:
    """The cluster, whole again afterwards."""
    yield etcd
    for process in etcd.members:
        process.resume()
    etcd.launch()
    asyncio.run(etcd.ready())


@dataclass
class Backend:
    """One kind of store: how to open a client, and how to make happen what happens to stores."""

    name: str
    open: Callable[[], Store]
    compact: Callable[[Revision], Awaitable[None]]
    cluster: EtcdCluster | None = None

    def __post_init__(self):
        # Each test has keys of its own, so one cluster serves all.
        self.room = f"/holdfast/v1/mesh/test-{next(_rooms)}/"

    @asynccontextmanager
    async def store(self):
        store = StrictStore(self.open())
        try:
            yield store
        finally:
            await store.close()


class _Shared(MemoryStore):
    """One memory store, several clients: closing one leaves the others."""

    async def close(self) -> None:
        pass


def memory_backend() -> Backend:
    store = _Shared()

    async def compact(revision):
        store.compact(revision)

    return Backend("memory", lambda: store, compact)


def etcd_backend(cluster: EtcdCluster) -> Backend:
    async def compact(revision):
        admin = cluster.admin()
        try:
            await admin.compact(revision)
        finally:
            await admin.close()

    return Backend("etcd", cluster.store, compact, cluster)


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.real)])
def backend(request) -> Backend:
    if request.param == "memory":
        return memory_backend()
    return etcd_backend(request.getfixturevalue("etcd"))
