"""Of several hundred TLS connections, each is let in where the simulator says, by the name that it asks for.

More of them, and other ones: HOLDFAST_NAMES=5000 HOLDFAST_SEED=7 in the environment.
"""

import asyncio
import os
import random
import ssl
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from controlplane.demo.process import free_port
from mesh import pb
from mesh.compile import Snapshot, check, project
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.parts import network_filter
from mesh.compile.simulate import Closed, To, Verdict, answer
from mesh.model import Identity, LocalPort
from tests.integration.compile.hosts import context
from tests.integration.traffic.differential import rig
from tests.support.meshes import TestCa, bundle, config, definition, local, policy, rule, service, world
from tests.support.snapshots import with_messages

pytestmark = pytest.mark.real

CONNECTIONS = int(os.environ.get("HOLDFAST_NAMES", "300"))
SEED = int(os.environ.get("HOLDFAST_SEED", "1"))
AT_ONCE = 8

PORTS = (70, 71)
DATABASES = ("db", "db-2", "d")
OURS = tuple(f"{port}.{name}.shop.east.mesh" for port in PORTS for name in DATABASES)
WILD = (
    "*.mesh",
    "*.east.mesh",
    "*.shop.East.mesh",
    "*.db.shop.east.mesh",
    "*.x.db.shop.east.mesh",
    "70.db.Other.mesh",
    "*.b",
)
"""Chains of other names beside those that a host has. Those of a gateway are of this form."""


def with_wildcards(snapshot: Snapshot, names: Iterable[str]) -> Snapshot:
    """The compiled listener with a chain more for each name, to a cluster of its own; else like the first one."""
    ((_, found),) = [(n, r) for n, r in snapshot.resources[pb.LISTENER].items() if n.startswith("inbound")]
    listener = pb.Listener.FromString(found.body)
    first = next(c for c in listener.filter_chains if c.filter_chain_match.server_names)
    more = []
    for name in names:
        chain = pb.FilterChain()
        chain.CopyFrom(first)
        chain.name = f"chain {name}"
        del chain.filter_chain_match.server_names[:]
        chain.filter_chain_match.server_names.append(name)
        del chain.filters[:]
        chain.filters.append(network_filter("tcp", pb.TcpProxy(stat_prefix="x", cluster=name)))
        more.append(chain)
    listener.filter_chains.extend(more)
    return with_messages(snapshot, listener)


def compiled(ca: TestCa, port: int, log: Path) -> Snapshot:
    state = world(
        config(),
        bundle(ca.root),
        *(
            service(name, accounts=[name], port=port, protocol="tcp", target=f"t{port}")
            for name in DATABASES
            for port in PORTS[:1]
        ),
        policy("all", "", rule("shop/web")),
    )
    here = [definition(name, LocalPort(port=1000 + n, name="t70")) for n, name in enumerate(DATABASES)]
    held = {d.identity: ca.workload(d.identity) for d in here}
    found = compile_anew(project(state, local(*here, identities=held, mtls_port=port, access_log=str(log))))
    assert check(found) == ()
    return with_wildcards(found, WILD)


def asked(rng: random.Random) -> str:
    """A name that is near to some chain's."""
    base = rng.choice((*OURS, *WILD, "mesh", "b", "other.test")).removeprefix("*.")
    labels = base.split(".")
    for _ in range(rng.randint(0, 2)):
        match rng.randint(0, 4):
            case 0:
                labels.insert(0, rng.choice(("x", "70", "db", "a-b", "east")))
            case 1 if len(labels) > 1:
                del labels[0]
            case 2:
                labels.append(rng.choice(("mesh", "b", "x")))
            case 3:
                place = rng.randrange(len(labels))
                labels[place] = labels[place] + rng.choice(("x", "0", "-1"))
            case _:
                place = rng.randrange(len(labels))
                labels[place] = "".join(rng.choice((c.upper(), c)) for c in labels[place])
    return ".".join(labels)


def said_of(verdict: Verdict) -> str:
    """The cluster; empty: nobody."""
    assert isinstance(verdict, To | Closed), verdict
    return verdict.cluster if isinstance(verdict, To) else ""


async def reached(port: int, tls: ssl.SSLContext, name: str) -> str:
    """The cluster that answers a connection for this name."""
    client = rig.Client("127.0.0.1", port, tls=tls, sni=name)
    try:
        found = await client.ask("GET", "/", "h", ())
        return found.body if isinstance(found, rig.Answer) else ""
    finally:
        client.close()


async def compare(folder: Path, ca: TestCa, caller: Identity, names: list[str]) -> tuple[list[str], Counter[str]]:
    port, echo = free_port(), rig.Echo(folder)
    snapshot = compiled(ca, port, folder / "access.log")
    clusters = [await echo.serve(name) for name in (*snapshot.resources[pb.CLUSTER], *WILD)]
    snapshot = with_messages(snapshot, *clusters)
    tls, found, differences = context(folder, caller, ca.root), Counter[str](), list[str]()

    async def some(mine: list[str]) -> None:
        for name in mine:
            said = said_of(answer(snapshot, name, caller.spiffe_id, "", "", (), "", draw=0.5))
            got = await reached(port, tls, name)
            found[got] += 1
            if said != got:
                differences.append(f"{name}: said {said or 'nobody'}, reached {got or 'nobody'}")

    try:
        async with rig.envoy(folder, snapshot, [port]), asyncio.TaskGroup() as group:
            for first in range(AT_ONCE):
                group.create_task(some(names[first::AT_ONCE]))
    finally:
        await echo.close()
    return differences, found


def test_no_difference(tmp_path: Path) -> None:
    """Exact names, and everything under a name, however it is written: the most specific chain has it, or nobody."""
    rng, ca = random.Random(SEED), TestCa()
    names = [*OURS, *(name.replace("*", "any") for name in WILD), *(asked(rng) for _ in range(CONNECTIONS))]
    differences, found = asyncio.run(compare(tmp_path, ca, ca.workload("shop/web"), names))
    print(f"{len(names)} connections, {len(differences)} differences: {dict(found)}")
    assert not differences, "\n".join(differences[:10])
    assert found.keys() >= {"", *(name for name in WILD if not name.startswith("70."))}
