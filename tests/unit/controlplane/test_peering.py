"""Two whole control planes in one process, each with a store and a CA of its own, over real TLS."""

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager

from ca.signer.memory import MemorySigner
from controlplane.cli.errors import Exit
from controlplane.setup import InitOptions, init_store
from mesh import codec, keys
from mesh.store.memory import MemoryStore
from tests.support.waiting import aeventually
from tests.unit.cli.test_commands import Cli
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
            "ports": [{"port": 15444 if name == "gateway" else 8080}],
            "health": health,
        },
    }


async def gateway(cp, node="gw1", address="10.9.9.9", health="healthy"):
    port = {"port": 15444, "targetPort": 15444}
    system = "holdfast-system"
    status, done = await cp.apply(namespace(system), service("gateway", system, ports=[port]))
    assert status == 200, done
    await register(cp, node, ("gateway", system, health), address=address)


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


def test_a_token_makes_peers_of_two_and_each_sees_what_the_other_exports(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await connected(west, "east")
            await connected(east, "west")
            await holds(west, "east", *API)
            found = await imported(west, "east")
            held = found["services/shop/api"]
            assert (held.metadata.name, held.spec.trust_domain) == ("api.east", "east.test")
            way = found["endpoints/shop/api/gw1"].spec
            assert (way.service, way.address, way.port, way.weight, way.health) == (
                "api.east", "10.9.9.9", 15444, 2, "healthy",
            )  # fmt: skip
            for cp, other in ((west, "east"), (east, "west")):
                bundle = cp.context.mirror.view.bundle(f"{other}.test")
                assert bundle.spec.roots
            assert await imported(east, "west") == {}

    asyncio.run(run())


def test_a_change_travels_and_a_deletion_too(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            await peered(east, west)
            await holds(west, "east", *API)
            await register(east, "i1", ("api", "shop", "unhealthy"))

            async def lighter():
                return (await imported(west, "east"))["endpoints/shop/api/gw1"].spec.weight == 1

            await aeventually(lighter)
            before = await west.store.get(keys.DELETIONS)
            await east.apply(delete=[{"kind": "ExportPolicy", "namespace": "shop", "name": "out"}])
            await holds(west, "east")
            assert (await west.store.get(keys.DELETIONS)) != before  # declared, so that agents obey at once

    asyncio.run(run())


def test_a_new_root_of_one_is_in_the_others_bundle_at_once(tmp_path):
    async def run():
        from ca import bundle
        from tests.unit.multicluster.roots import root

        async with clusters(tmp_path, "west", "east") as (west, east):
            await peered(east, west)
            await connected(west, "east")
            fresh = root("east.test")
            await bundle.publish(east.store, "east.test", (fresh,), time.time())
            await aeventually(lambda: fresh in west.context.mirror.view.bundle("east.test").spec.roots, timeout=5)
            await connected(west, "east")

    asyncio.run(run())


def test_the_commands_make_show_pause_and_delete_a_peering(tmp_path):
    async def run():
        async with clusters(tmp_path, "west", "east") as (west, east):
            await offer_api(east)
            (tmp_path / "w").mkdir()
            (tmp_path / "e").mkdir()
            there, here = Cli(east, tmp_path / "e"), Cli(west, tmp_path / "w")
            file = tmp_path / "to-west.token"
            made = await there("peering", "token", "--out", str(file))
            assert made.exit_code == 0, made.output
            assert file.stat().st_mode & 0o777 == 0o600
            done = await here("peering", "accept", str(file))
            assert "peered with east (trust domain east.test)" in done.stdout, done.output
            again = await here("peering", "accept", "-", stdin=file.read_text())
            assert again.exit_code == 0, again.output
            await holds(west, "east", *API)
            listed = (await here("peering", "list")).stdout
            assert "connected" in listed
            told = (await here("peering", "describe", "east")).stdout
            assert "api.shop.east" in told
            assert "1 services, 1 endpoints" in told
            assert (await here("peering", "pause", "east")).exit_code == 0

            async def is_paused():
                return "paused" in (await here("peering", "list")).stdout

            await aeventually(is_paused)
            await holds(west, "east", *API)
            assert (await here("peering", "resume", "east")).exit_code == 0
            await connected(west, "east")
            assert (await here("peering", "delete", "east")).exit_code == 0
            await holds(west, "east")
            assert (await here("peering", "delete", "east")).exit_code == Exit.NOT_FOUND
            await aeventually(lambda: west.context.mirror.view.bundle("east.test") is None)

            async def told_there():
                body = await state(east, "west")
                return body["state"] == "refused" and "delete it here as well" in body["reason"]

            await aeventually(told_there, timeout=20)
            bad = await here("peering", "accept", "-", stdin="hfp1.nonsense")
            assert bad.exit_code == Exit.REFUSED
            assert "cut or altered" in bad.stderr

    asyncio.run(run())
