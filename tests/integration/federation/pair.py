"""Two clusters of real processes, each with an etcd and a CA of its own, and a wire between them."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.demo.process import free_port
from mesh import keys
from tests.integration.controlplane.fleet import Fleet
from tests.support.relay import Relay
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import namespace, service
from tests.unit.federation.clusters import export, gateway_document, instance

OFFERED = ("api", "old", *(f"s{n}" for n in range(198)))
"""What may run on the host that offers: as many as a certificate holds."""


class Side:
    """One cluster: its replicas, its store, and the relays by which the other one reaches it."""

    def __init__(self, name, fleet, relays, cluster):
        self.name, self.fleet, self.relays, self.cluster = name, fleet, relays, cluster
        self.store = None
        self.hosts = {}

    def alive(self):
        return next(name for name, process in self.fleet.processes.items() if process.running)

    async def call(self, method, path, body=None, **more):
        return await self.fleet.call(self.alive(), method, path, body, **more)

    async def apply(self, *objects, delete=()):
        status, done = await self.fleet.apply(self.alive(), *objects, delete=delete)
        assert status == 200, done
        return done

    async def state(self, peer):
        status, body = await self.call("GET", f"/v1/peerings/{peer}")
        return body if status == 200 else {"state": str(status)}

    async def becomes(self, peer, *states, timeout=30):
        async def look():
            return (await self.state(peer))["state"] in states

        await aeventually(look, timeout=timeout, what=f"{self.name} is {states} with {peer}")

    async def imported(self, peer):
        """The rest of the key -> (value, revision)."""
        prefix = keys.imports_of(peer)
        return {i.key.removeprefix(prefix): (i.value, i.revision) for i in (await self.store.list(prefix)).items}

    async def holds(self, peer, names, timeout=30):
        async def look():
            return set(await self.imported(peer)) == set(names)

        await aeventually(look, timeout=timeout, what=f"{self.name} holds {len(names)} things of {peer}")

    async def host(self, name, address, *accounts, **more):
        """Joined, if it is new: there are not many certificates for one."""
        if name not in self.hosts:
            self.hosts[name] = await self.fleet.join(self.alive(), name, address, *accounts, **more)
        return self.hosts[name]

    async def register(self, node, *instances):
        """(service, namespace, health) each: all that run on the host."""
        host = self.hosts[node]
        body = {"instances": [instance(node, host.address, *one) for one in instances]}
        status, told = await self.call("POST", "/v1/register", body, node=host)
        assert status == 200, told
        assert not told.get("refused"), told

    async def gateway(self, name="gw1"):
        address = "10.9.9.9" if self.name == "east" else "10.9.9.8"
        host = await self.host(name, address, roles=["agent", "gateway"])
        body = {"instances": [gateway_document(name, address)]}
        status, told = await self.call("POST", "/v1/register", body, node=host)
        assert (status, told.get("refused")) == (200, None), told

    async def offer(self, *names):
        """Services with an instance each on one host, a gateway, and leave for all to know them."""
        names = names or ("api",)
        await self.apply(namespace(), *(service(name) for name in names), export())
        await self.gateway()
        await self.host("i1", "10.0.0.1", *(f"shop/{name}" for name in OFFERED))
        await self.register("i1", *((name, "shop", "healthy") for name in names if name in OFFERED))

    async def withdraw(self):
        """Every service and instance; hosts and the gateway stay."""
        for node in self.hosts.keys() - {"gw1"}:
            await self.register(node)
        _, listed = await self.call("GET", "/v1/objects/services")
        names = [found["metadata"]["name"] for found in listed["items"]]
        await self.apply(delete=[{"kind": "Service", "namespace": "shop", "name": name} for name in names])


@asynccontextmanager
async def side(folder, name, *replicas):
    """One cluster; its replicas are made, and only the first runs."""
    cluster = EtcdCluster(folder / name / "etcd", members=1)
    ports = [free_port() for _ in replicas]
    fleet = Fleet(
        cluster, folder / name / "cp", *replicas, peerAddresses=[f"https://127.0.0.1:{port}" for port in ports]
    )

    def target(replica):
        return lambda: ("127.0.0.1", urlsplit(fleet.settings[replica].advertise).port)

    relays = {replica: Relay(port, target(replica)) for replica, port in zip(replicas, ports, strict=True)}
    made = Side(name, fleet, relays, cluster)
    try:
        cluster.launch()
        await cluster.ready()
        for relay in relays.values():
            await relay.start()
        await fleet.init(trust_domain=f"{name}.test", cluster=name, liveness_grace=3600.0)
        await fleet.start(replicas[0])
        made.store = cluster.store()
        yield made
    finally:
        if made.store:
            await made.store.close()
        for relay in relays.values():
            await relay.close()
        fleet.close()
        cluster.close()


@asynccontextmanager
async def pair(folder, west=("cp1",), east=("cp1",)):
    """west and east, not yet peers."""
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(side(folder, "west", *west)),
            await stack.enter_async_context(side(folder, "east", *east)),
        )


async def peer(maker, taker):
    status, made = await maker.call("POST", "/v1/peering/tokens", {})
    assert status == 201, made
    status, done = await taker.call("POST", "/v1/peering/accept", {"token": made["token"]})
    assert status == 201, done
    await asyncio.gather(maker.becomes(taker.name, "connected"), taker.becomes(maker.name, "connected"))


async def anew(west, east):
    """Peers again whose wires are whole, and who offer nothing, whatever a test has left of that."""
    for side in (west, east):
        for relay in side.relays.values():
            relay.mend()
            relay.delay = 0.0
    await east.withdraw()
    for side, other in ((west, east), (east, west)):
        await side.becomes(other.name, "connected", timeout=60)
        await side.holds(other.name, [])


async def offered(maker, taker, *names):
    """`maker` offers these, and all that it tells of them is known: services first, what instances there are next."""
    await maker.offer(*names)
    there = {f"endpoints/shop/{name}/gw1" for name in names if name in OFFERED}

    async def look():
        found = await taker.imported(maker.name)
        healthy = {key for key, (value, _) in found.items() if b'"health":"healthy"' in value}
        return found.keys() == set(names_of(*names)) and healthy == there

    await aeventually(look, timeout=30, what=f"{taker.name} knows {len(names)} services of {maker.name}")


def names_of(*services):
    return [part for name in services for part in (f"services/shop/{name}", f"endpoints/shop/{name}/gw1")]
