"""Trials and the search for the guilty, with a real Envoy."""

import asyncio
import time

import pytest

from agent.quarantine import Search, changed, keep, plan, substitute
from agent.xds.stream import Nacked
from mesh.model import Metadata, Revision, Service, World
from mesh.model.world import Upserted
from tests.integration.envoy.rig import (
    LDS,
    application,
    cluster,
    endpoints,
    free_port,
    get,
    listener,
    rig,
    route,
    secret,
    snapshot,
)

pytestmark = pytest.mark.real


def service(name, port, poison=""):
    return Service(metadata=Metadata(name=name, namespace="shop", labels={"port": str(port), "poison": poison}))


def compiled(world, *, target):
    """A small compile: each Service is a listener; a label says that it is a bad one."""
    listeners = []
    for ref, made in world.objects.items():
        labels = made.metadata.labels
        port = int(labels["port"])
        listeners.append(
            listener(ref.name, port, regex="(", source=ref)
            if labels["poison"]
            else listener(ref.name, port, routes="r", source=ref)
        )
    return snapshot(
        world.revision,
        cds=(cluster("api"),),
        eds=(endpoints("api", target),),
        lds=tuple(listeners),
        rds=(route("r", "api"),),
    )


def test_the_guilty_are_found_and_their_neighbours_served():
    async def run():
        ports = [free_port() for _ in range(12)]
        async with rig() as r, application("one") as one:
            await r.envoy.ensure()
            before = World().apply([Upserted(service("s0", ports[0]), Revision(1))], Revision(1))
            await r.acked(compiled(before, target=one))
            await r.ready()
            made = [service(f"s{i}", ports[i], "yes" if i in {0, 7} else "") for i in range(12)]
            after = before.apply([Upserted(s, Revision(2)) for s in made], Revision(2))
            refused = await r.outcome(compiled(after, target=one))
            assert isinstance(refused, Nacked)
            assert refused.type_url == LDS

            started = time.perf_counter()
            search = Search(changed(before.objects, after.objects))
            while (trial := search.next_trial()) is not None:
                words = await r.envoy.validate(compiled(keep(after, before.objects, trial), target=one))
                search.result(accepted=words is None)
            taken = time.perf_counter() - started
            assert {ref.name for ref in search.guilty} == {"s0", "s7"}
            print(f"2 guilty among 12: {search.trials} trials, {taken * 1000:.0f} ms")

            healed = substitute(after, plan(search.guilty, before.objects, after.objects))
            await r.acked(compiled(healed, target=one))
            assert await r.envoy.warming() == 0
            for number, port in enumerate(ports):
                if number != 7:
                    assert await get(port) == "200 one"
            with pytest.raises(ConnectionRefusedError):
                await get(ports[7])

    asyncio.run(run())


def test_trials_see_bad_resources_of_every_type(certificate):
    good = {
        "cds": (cluster("api"),),
        "eds": (endpoints("api", 1),),
        "lds": (listener("in", 1, routes="r"),),
        "rds": (route("r", "api"), route("another", "api")),
        "sds": (secret("identity", *certificate),),
    }
    bad = {
        "cds": (cluster("api", timeout=-1),),
        "eds": (endpoints("api", 70_000),),
        "lds": (listener("in", 1, regex="("),),
        "rds": (route("r", "api", regex="("),),
        "sds": (secret("identity", b"no certificate", b"no key"),),
    }

    async def run():
        async with rig() as r:
            assert await r.envoy.validate(snapshot(1, **good)) is None
            words = {short: await r.envoy.validate(snapshot(1, **{**good, short: made})) for short, made in bad.items()}
            assert all(words.values()), words
            assert "missing )" in words["lds"]
            (name,) = (r.directory / "run").glob("trial*")
            assert name.is_symlink(), "no file holds what was tried"

    asyncio.run(run())
