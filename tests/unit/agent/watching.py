"""A Watch on a store, and what it tells, for its tests."""

import asyncio
import random
from contextlib import asynccontextmanager

from agent import metrics
from agent.state import StoredWorld
from agent.watch import Told, Watch
from mesh import codec, keys
from mesh.model import Metadata, Revision, Service, ServiceRef, World
from mesh.model.instance import Endpoint, EndpointSpec
from mesh.store.protocol import Put

API = ServiceRef("shop", "api")


def put(obj, service: str = "") -> Put:
    return Put(keys.key_for(obj.ref, service=service), codec.encode(obj))


def svc(name: str) -> Service:
    return Service(metadata=Metadata(name=name, namespace="shop"))


def endpoint(name: str, service: str = "api") -> Put:
    spec = EndpointSpec(service=service, node="n", address="10.0.0.1", service_account=service)
    return put(Endpoint(metadata=Metadata(name=name, namespace="shop"), spec=spec), service)


class Listener:
    def __init__(self) -> None:
        self.worlds: list[World] = []
        self.observed: list[Revision] = []
        self.links: list[str] = []
        self.interest: set[ServiceRef] = {API}
        self.told = Told(
            world=self.worlds.append,
            observed=self.observed.append,
            broken=lambda reason: self.links.append("broken"),
            restored=lambda: self.links.append("restored"),
        )

    @property
    def names(self) -> set[str]:
        return {ref.name for ref in self.worlds[-1].objects} if self.worlds else set()

    def endpoints(self, service: ServiceRef = API) -> set[str]:
        return set(self.worlds[-1].endpoints.get(service, ())) if self.worlds else set()


@asynccontextmanager
async def watching(store, stored: StoredWorld | None = None, listener: Listener | None = None):
    listener = listener or Listener()
    watch = Watch(
        listener.told, interest=lambda _world: listener.interest, rng=random.Random(1), counters=metrics.Counters()
    )
    watch.use(stored)
    watch.follow(store)
    task = asyncio.create_task(watch.run())
    try:
        yield watch, listener
    finally:
        task.cancel()
        await asyncio.wait({task})


async def fill(store, count: int) -> None:
    await store.txn((), [put(svc(f"s{n}")) for n in range(count)])


def far(name: str, service: str = "api.west") -> Put:
    spec = EndpointSpec(service=service, node="gw", address="10.0.0.1", service_account="gateway")
    return put(Endpoint(metadata=Metadata(name=name, namespace="shop"), spec=spec), service)


def run(scenario):
    async def bounded():
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())
