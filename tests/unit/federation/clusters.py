"""Two whole control planes in one process, each with a store and a CA of its own, over real TLS."""

import contextlib
import time
from contextlib import asynccontextmanager

import msgspec

from ca.signer.memory import MemorySigner
from controlplane.setup import InitOptions, init_store
from mesh import codec, keys
from mesh.model import GatewaySpec, gateway_instance
from mesh.store.memory import MemoryStore
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import namespace, replica, service, settings_for


@asynccontextmanager
async def cluster(folder, name, **more):
    """One cluster called `name`, of trust domain `<name>.test`."""
    store, signer = MemoryStore(), MemorySigner(f"{name}.test", clock=time.time)
    made = await init_store(
        store, signer, InitOptions(trust_domain=f"{name}.test", cluster=name, liveness_grace=600.0), time.time()
    )
    folder = folder / name
    folder.mkdir(exist_ok=True)
    async with replica(store, signer, settings_for(folder, f"{name}-cp1", **more), made.admin_token) as cp:
        cp.signer, cp.name, cp.folder = signer, name, folder
        yield cp


@asynccontextmanager
async def clusters(folder, *names):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(cluster(folder, name)) for name in names]


async def peered(maker, taker):
    """A token here, its acceptance there."""
    status, made = await maker.call("POST", "/v1/peering/tokens", {})
    assert status == 201, made
    status, accepted = await taker.call("POST", "/v1/peering/accept", {"token": made["token"]})
    assert status == 201, accepted
    return made["token"]


async def state(cp, peer):
    status, body = await cp.call("GET", f"/v1/peerings/{peer}")
    return body if status == 200 else {"state": status, **body}


async def connected(cp, peer):
    async def look():
        return (await state(cp, peer))["state"] == "connected"

    await aeventually(look, timeout=15, what=f"{cp.name} is in step with {peer}")


def export(*services, to=("*",), name="out"):
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": "ExportPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"services": list(services) or ["*"], "to": list(to)},
    }


async def register(cp, node, *instances, address="10.0.0.1"):
    """A host with the instances that it tells of: (service, namespace, health)."""
    await cp.add_node(node, *(f"{ns}/{name}" for name, ns, _ in instances), address=address)
    body = {"instances": [instance(node, address, *one) for one in instances]}
    status, told = await cp.call("POST", "/v1/register", body, tls=cp.node_tls(node))
    assert status == 200, told
    assert not told.get("refused"), told


def instance(node, address, name, ns, health):
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": "Instance",
        "metadata": {"name": f"{name}-{node}", "namespace": ns},
        "spec": {
            "node": node,
            "service": name,
            "serviceAccount": name,
            "address": address,
            "ports": [{"port": 8080}],
            "health": health,
        },
    }


def gateway_document(node, address, health="healthy"):
    """As the host's agent registers it."""
    return msgspec.to_builtins(gateway_instance(node, address, GatewaySpec(), health))


GATEWAY_AT = {"east": "10.9.9.9", "west": "10.9.9.8"}
"""Whoever else there is has its own as well: what is an address of ours, no peer may be at."""


async def gateway(cp, node="gw1", address="", health="healthy"):
    address = address or GATEWAY_AT.get(cp.name, "10.9.9.7")
    await cp.add_node(node, address=address, roles=("agent", "gateway"))
    body = {"instances": [gateway_document(node, address, health)]}
    status, told = await cp.call("POST", "/v1/register", body, tls=cp.node_tls(node))
    assert (status, told.get("refused")) == (200, None), told


async def imported(cp, peer):
    """What lies under imports/<peer>/: the rest of the key -> object."""
    listing = await cp.store.list(keys.imports_of(peer))
    found = {}
    for item in listing.items:
        kind = "ImportedService" if "/services/" in item.key else "Endpoint"
        found[item.key.removeprefix(keys.imports_of(peer))] = codec.decode(kind, item.value)
    return found


async def holds(cp, peer, *names):
    async def look():
        return set(await imported(cp, peer)) == set(names)

    await aeventually(look, timeout=15, what=f"{cp.name} holds {names} of {peer}")


API = ("services/shop/api", "endpoints/shop/api/gw1")


async def offer_api(cp):
    await cp.apply(namespace(), service(), export())
    await gateway(cp)
    await register(cp, "i1", ("api", "shop", "healthy"))
    await register(cp, "i2", ("api", "shop", "healthy"), address="10.0.0.2")
