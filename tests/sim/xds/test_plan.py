"""What `plan` says of a change is what is then sent, resource by resource and version by version.

Besides, a proxy gets the endpoints of each changed cluster again (it warms until it has them) and a secret when it asks
for it first, and is not told of what it drops by itself with the cluster or listener that named it.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from agent.pipeline import Pipeline
from agent.planning import changed
from agent.xds.stream import Stream
from agent.xds.wire import Request, Send
from mesh import codec, pb
from mesh.compile import difference
from mesh.model import Ref, Revision, World
from mesh.model.uplink import Proposed
from mesh.model.world import Removed, Upserted
from tests.support.changes import HOST, Changes
from tests.support.meshes import bundle, config

COUNT = 250
"""Of changes, from each seed."""
REFERS = {"route_config_name": pb.ROUTE, "service_name": pb.ENDPOINT}


def names_in(tree: Any) -> Iterator[tuple[str, str]]:
    """Type and name of all that a cluster or listener names."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in REFERS and isinstance(value, str):
                yield REFERS[key], value
            elif key.endswith(("_sds_secret_config", "_sds_secret_configs")):
                yield from ((pb.SECRET, one["name"]) for one in (value if isinstance(value, list) else [value]))
            yield from names_in(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from names_in(item)


class Proxy:
    """Asks for what its clusters and listeners name, and acknowledges everything."""

    def __init__(self) -> None:
        self.stream = Stream("1.")
        self.held: dict[tuple[str, str], str] = {}
        self._refers: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self.asked: set[tuple[str, str]] = set()
        self.sent: list[tuple[str, str, str]] = []
        self.removed: list[tuple[str, str]] = []

    def take(self, outputs: tuple[object, ...]) -> None:
        queue = list(outputs)
        while queue:
            output = queue.pop(0)
            if not isinstance(output, Send):
                continue
            url = output.type_url
            for resource in output.resources:
                self.sent.append((url, resource.name, resource.version))
                self.held[url, resource.name] = resource.version
                if url in {pb.CLUSTER, pb.LISTENER}:
                    self._refers[url, resource.name] = set(names_in(pb.to_json(pb.decode(url, resource.body))))
            for name in output.removed:
                self.removed.append((url, name))
                self.held.pop((url, name), None)
                self._refers.pop((url, name), None)
            queue += self.stream.on_request(Request(url, nonce=output.nonce))
            queue += self._ask()

    def _ask(self) -> list[object]:
        wanted = {name for names in self._refers.values() for name in names}
        out: list[object] = []
        for url in (pb.ENDPOINT, pb.ROUTE, pb.SECRET):
            more = sorted(name for kind, name in wanted - self.asked if kind == url)
            less = sorted(name for kind, name in self.asked - wanted if kind == url)
            for name in less:
                self.held.pop((url, name), None)
            if more or less:
                out += self.stream.on_request(Request(url, tuple(more), tuple(less)))
        self.asked = wanted
        return out


def proposed(change: Upserted | Removed) -> Proposed:
    if isinstance(change, Removed):
        return Proposed(kind=change.ref.kind, namespace=change.ref.namespace, name=change.ref.name)
    ref: Ref = change.object.ref
    document = codec.to_document(change.object)
    return Proposed(kind=ref.kind, namespace=ref.namespace, name=ref.name, object=document)


@pytest.mark.parametrize("seed", range(5, 9))
def test_what_is_planned_is_what_is_sent(seed: int):
    rng = random.Random(seed)
    changes, pipeline, proxy = Changes(rng), Pipeline(HOST), Proxy()
    pipeline.world = World().apply([Upserted(o, Revision(1)) for o in (config(), bundle("x"))], Revision(1))
    offer = pipeline.compile(pipeline.inputs())
    proxy.take(proxy.stream.on_snapshot(offer.snapshot))
    for url in (pb.CLUSTER, pb.LISTENER):
        proxy.take(proxy.stream.on_request(Request(url)))
    short = {name: url for url, name in pb.SHORT.items()}
    told = 0
    for number in range(COUNT):
        those = changes.objects(pipeline.world)
        then = changed(offer, [proposed(change) for change in those])
        planned = difference(offer.snapshot, then.offer.snapshot)
        told += len(planned)

        before, proxy.sent, proxy.removed = dict(proxy.held), [], []
        pipeline.world = pipeline.world.apply(those, Revision(number + 2))
        offer = pipeline.compile(pipeline.inputs())
        proxy.take(proxy.stream.on_snapshot(offer.snapshot))

        wanted = {(short[d.type], d.name, d.after) for d in planned if d.action != "remove" and d.type != "sds"}
        new = [one for one in proxy.sent if before.get(one[:2]) != one[2] and one[0] != pb.SECRET]
        again = [one for one in proxy.sent if before.get(one[:2]) == one[2]]
        assert sorted(new) == sorted(wanted), number
        assert all(url == pb.ENDPOINT for url, _, _ in again), again
        gone = {(short[d.type], d.name) for d in planned if d.action == "remove"}
        assert set(proxy.removed) <= gone, number
        # What it was not told to drop it has dropped by itself.
        assert gone.isdisjoint(proxy.held), number
        there = {(url, name): r.version for url, known in offer.snapshot.resources.items() for name, r in known.items()}
        assert proxy.held == {pair: v for pair, v in there.items() if pair[0] != pb.SECRET or pair in proxy.asked}, (
            number
        )
    assert told > COUNT, "most changes change something here"
