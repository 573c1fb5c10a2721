"""Compiled hosts, callers with certificates, random policies: the simulator and a real Envoy let the same ones in.

More of them, and others: HOLDFAST_WORLDS=50 HOLDFAST_SEED=7 in the environment.
"""

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from controlplane.demo.process import free_port
from mesh import pb
from mesh.compile import Snapshot, check, project
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.simulate import Closed, Deny, To, Verdict, answer
from mesh.model import Identity, LocalPort
from tests.integration.compile.hosts import context
from tests.integration.traffic.differential import rig
from tests.integration.traffic.differential.compare import differences
from tests.integration.traffic.differential.requests import request_for
from tests.support.meshes import TestCa, bundle, config, definition, local, policy, rule, service, world
from tests.support.snapshots import with_messages
from tests.support.waiting import aeventually

pytestmark = pytest.mark.real

WORLDS = int(os.environ.get("HOLDFAST_WORLDS", "3"))
SEED = int(os.environ.get("HOLDFAST_SEED", "1"))
EACH = 4
"""Requests of one caller to one name."""

CASE = "x-case"
NAMES = ("80.api.shop.east.mesh", "90.rpc.shop.east.mesh", "70.db.shop.east.mesh", "71.db.shop.east.mesh", "")
EVERYTHING = pb.RouteConfiguration(
    virtual_hosts=[pb.VirtualHost(domains=["*"], routes=[pb.Route(match=pb.RouteMatch(prefix="/"))])]
)


def random_policies(rng: random.Random) -> list[Any]:
    found = []
    for number in range(rng.randint(0, 4)):
        rules = []
        for _ in range(rng.randint(0, 2)):
            principals = rng.sample(["shop/web", "shop/bad", "other/web"], rng.randint(0, 2))
            namespaces = rng.sample(["shop", "other"], rng.choice([0, 0, 1]))
            ports = rng.sample([80, 90, 70], rng.choice([0, 0, 1]))
            rules.append(rule(*principals, namespaces=namespaces, ports=ports))
        action = rng.choice(["Allow", "Allow", "Deny"])
        found.append(policy(f"p{number}", rng.choice(["", "api", "db"]), *rules, action=action))
    return found


def compiled(rng: random.Random, ca: TestCa, log: Path, port: int) -> Snapshot:
    state = world(
        config(rng.choice(["Deny", "Deny", "Allow"])),
        bundle(ca.root),
        service("api", target="http"),
        service("rpc", port=90, protocol="grpc", target="grpc"),
        service("db", port=70, protocol="tcp", target="tcp"),
        *random_policies(rng),
    )
    here = [
        definition("api", LocalPort(port=1080, name="http", protocol="http")),
        definition("rpc", LocalPort(port=1090, name="grpc", protocol="grpc")),
        definition("db", LocalPort(port=1070, name="tcp")),
    ]
    held = {d.identity: ca.workload(d.identity) for d in here}
    found = compile_anew(project(state, local(*here, identities=held, mtls_port=port, access_log=str(log))))
    assert check(found) == ()
    return found


async def _differences(folder: Path, rng: random.Random, ca: TestCa, callers: list[Identity | None]) -> list[str]:
    log, port, echo = folder / "access.log", free_port(), rig.Echo(folder)
    snapshot = compiled(rng, ca, log, port)
    snapshot = with_messages(snapshot, *[await echo.serve(name) for name in snapshot.resources[pb.CLUSTER]])
    found, lines = [], Counter[Line]()
    try:
        async with rig.envoy(folder, snapshot, [port]):
            for number, (caller, name) in enumerate((c, n) for c in callers for n in NAMES):
                client = rig.Client("127.0.0.1", port, tls=context(folder, caller, ca.root), sni=name)
                for each in range(EACH):
                    asked, case, spiffe_id = (
                        request_for(EVERYTHING, rng),
                        f"{number}-{each}",
                        caller.spiffe_id if caller else "",
                    )
                    headers = (*asked.headers, (CASE, case))
                    said = answer(snapshot, name, spiffe_id, asked.method, asked.path, headers, asked.host, draw=0.5)
                    answered = await client.ask(asked.method, asked.path, asked.host, headers)
                    seen = [one for one in echo.seen if dict(one.headers).get(CASE) == case]
                    unequal = _of_tcp(said, seen) if _is_tcp(said) else differences(said, answered, seen, asked.method)
                    found += [f"{spiffe_id} {name} {asked}: {words}\n  {answered}\n  {said.trace}" for words in unequal]
                    if (line := _line(said, spiffe_id)) and not (_is_tcp(said) and each):  # TCP: one for a connection
                        lines[line] += 1
                client.close()
            await aeventually(lambda: _logged(log) == lines, what=f"the log has {lines}")
    finally:
        await echo.close()
    return found


def _is_tcp(said: Verdict) -> bool:
    return isinstance(said, To) and not said.path


def _of_tcp(said: Verdict, seen: list[rig.Seen]) -> list[str]:
    """The echo speaks HTTP behind TCP too, so it tells where a connection went."""
    return [] if isinstance(said, To) and [s.cluster for s in seen] == [said.cluster] else [f"said {said}, seen {seen}"]


Line = tuple[str, str, str]
"""How, who, and the rule that let in or refused."""


def _line(said: Verdict, caller: str) -> Line | None:
    """What the access log says then, if it names a rule."""
    match said:
        case To() | Deny():
            tcp = _is_tcp(said) or (isinstance(said, Deny) and said.status == 0)
            return ("tcp" if tcp else "http", caller, said.rule)
        case Closed(reason=reason) if " is not let in by " in reason:
            return ("tls", caller, reason.partition(" is not let in by ")[2])
        case _:
            return None


def _logged(log: Path) -> Counter[Line]:
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return Counter((_kind(x), x["source"], said) for x in lines if (said := x.get("rule") or x.get("denied_by")))


def _kind(line: dict[str, Any]) -> str:
    protocol = str(line["protocol"])
    return protocol if protocol in {"tls", "tcp"} else "http"


def test_no_difference(tmp_path: Path) -> None:
    """Whoever calls, whatever the policies; and the log names the rule that the simulator names."""
    rng, ca = random.Random(SEED), TestCa()
    callers = [
        *(ca.workload(name) for name in ("shop/web", "shop/bad", "other/web")),
        ca.identity("", uri="spiffe://west.test/ns/shop/sa/web"),
        None,
    ]
    for number in range(WORLDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = asyncio.run(_differences(folder, rng, ca, callers))
        assert not found, f"world {number}: " + "\n".join(found[:5])
