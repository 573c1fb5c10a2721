"""Each pair of clusters is peered with one token; then each knows what the other exports, and nothing else."""

import asyncio
from functools import partial

from controlplane.cli.client import Api
from controlplane.demo import sites
from controlplane.demo import topology as top
from controlplane.demo.check.clusters.context import Scene
from controlplane.demo.check.result import Findings
from controlplane.demo.clusters import Clusters
from mesh import codec, keys
from mesh.model import Endpoint, ServiceRef

TITLE = "each pair of clusters is peered with one token, and shares api"
SECONDS = 60.0


async def run(scene: Scene, findings: Findings) -> None:
    clusters, clock = scene.clusters, asyncio.get_running_loop().time
    for one, other in clusters.pairs():
        await peer(clusters, one, other)
    since = clock()
    for name in clusters.names:
        await clusters.until(partial(known, scene, name), f"{name} knows the others' api", SECONDS)
    findings.figure("accepted → every api known everywhere", f"{clock() - since:.1f} s")
    for name in clusters.names:
        await _nothing_else(scene, findings, name)
    findings.figure("trust bundles in each", len(clusters.names))


async def peer(clusters: Clusters, one: str, other: str) -> None:
    """Make the two peers.

    What leaves for the other leaves through gateways of both; without this, hosts dial the other's by themselves.
    """
    token = await clusters.holdfast(one, "peering", "token")
    await clusters.holdfast(other, "peering", "accept", "-", stdin=token)
    for here, there in ((one, other), (other, one)):
        async with Api(clusters[here].connection) as api:
            found = await api.get(f"/v1/objects/peerings/{there}")
            found["spec"]["through"] = "Gateway"
            await api.call("POST", "/v1/apply", body={"objects": [found], "delete": [], "dryRun": False})


async def _nothing_else(scene: Scene, findings: Findings, name: str) -> None:
    store, names = scene.stores[name], scene.clusters.names
    held = sorted(item.key.removeprefix(keys.BUNDLES) for item in (await store.list(keys.BUNDLES)).items)
    wanted = sorted(sites.trust_domain(each) for each in names)
    findings.expect(held == wanted, f"{name} holds trust bundles of {held}, not of {wanted}")
    known_as = {f"{sites.API}.{other}" for other in names if other != name}
    places = [keys.parse(item.key) for item in (await store.list(keys.IMPORTS)).items]
    told = {place.service.name if isinstance(place, keys.EndpointKey) else place.name for place in places if place}
    findings.expect(told == known_as, f"{name} was told of {told}, while {known_as} are exported")


async def known(scene: Scene, name: str) -> str:
    """What this cluster does not know yet of the others' api."""
    for other in scene.clusters.names:
        if other == name:
            continue
        listing = await scene.stores[name].list(keys.endpoints_of(ServiceRef(top.NAMESPACE, f"{sites.API}.{other}")))
        found = [codec.decode("Endpoint", item.value) for item in listing.items]
        healthy = [e for e in found if isinstance(e, Endpoint) and e.spec.health == "healthy"]
        if len(healthy) < len(scene.clusters[other].topology.gateways):
            return f"{name} knows {len(healthy)} healthy gateways of {other}"
    return ""
