"""SVIDs a second through the REST API: /v1/sign over mutual TLS, on connections that are kept, one a node.

Nodes join as hosts do, with one-time tokens. The load comes from a process of its own (bench/signing.py) that sends
requests prepared beforehand; every answer is decoded, and of each node one certificate is looked at whole.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.progress import Say
from bench.servers import ControlPlane, controlplane
from bench.signing import Host, Job, Outcome
from bench.stats import Figure
from ca.client import CaClient, fetch_roots, new_csr, new_key, pin_of_token
from ca.wire import JoinRequest

NODES, IDENTITIES = 24, 25
"""More than enough for the default limits: 20/s a node with a burst of 600, 0.5/s an identity with a burst of 30."""
ITEMS, BATCH = 5000, 8
"""Certificates in one run, and items of one request in the batched run."""
GOAL = "≥ 500/s"


async def run(say: Say, *, quick: bool = False) -> list[Figure]:
    figures = []
    for signer in ("builtin", "vault"):
        with tempfile.TemporaryDirectory(prefix="hf-bench-", ignore_cleanup_errors=True) as folder:
            say(f"issuing, signer {signer}: etcd, control plane, joins")
            async with controlplane(Path(folder), signer) as plane:
                figures += await measured(plane, Path(folder), signer, say, items=800 if quick else ITEMS)
    return figures


async def measured(plane: ControlPlane, folder: Path, signer: str, say: Say, *, items: int) -> list[Figure]:
    hosts = await joined(plane, folder / "hosts")
    figures = []
    for batch in (1, BATCH):
        say(f"issuing, signer {signer}: {batch} a request")
        job = Job(
            url=plane.url,
            hosts=tuple(hosts),
            requests=items // batch // len(hosts),
            batch=batch,
            server=plane.node.process.pid,
        )
        outcome = await loaded(job, folder / f"job-{batch}.json")
        if outcome.denied:
            raise RuntimeError(f"not all were signed: {outcome.denied[:3]}")
        figures.append(figure(f"signer {signer}, {batch} a request", len(hosts), outcome))
    return figures


def figure(how: str, connections: int, outcome: Outcome) -> Figure:
    server, load = outcome.server_cpu / outcome.seconds, outcome.cpu / outcome.seconds
    return Figure(
        f"issuing: SVIDs through the API, {how}",
        "per second",
        outcome.signed,
        {"rate": outcome.signed / outcome.seconds, "p50 ms": outcome.p50 * 1e3, "p99 ms": outcome.p99 * 1e3},
        goal=GOAL,
        notes=f"{connections} connections, one node each; latencies are a request's; the control-plane node used"
        f" {server:.0%} of a core, {outcome.server_cpu / outcome.signed * 1e3:.2f} ms a certificate;"
        f" the load {load:.0%}",
    )


async def joined(plane: ControlPlane, folder: Path) -> list[Host]:
    """Nodes with their certificates, and the CSRs of their identities."""
    hosts = []
    folder.mkdir()
    async with plane.api() as api:
        for number in range(NODES):
            name, names = f"node-{number}", [f"bench/sa-{number}-{n}" for n in range(IDENTITIES)]
            body = {"node": name, "identities": names, "roles": ["agent"], "ttlSeconds": 600}
            token = (await api.call("POST", "/v1/tokens", body=body))["token"]
            roots = (await fetch_roots([plane.url], pin_of_token(token))).roots
            key = new_key()
            async with CaClient([plane.url], roots) as ca:
                answer = await ca.join(
                    JoinRequest(token=token, node=name, address=f"10.0.0.{number + 1}", csr=new_csr(key))
                )
            pem = folder / f"{name}.pem"
            pem.touch(mode=0o600)
            pem.write_text(answer.chain.rstrip() + "\n" + key)
            csrs = {identity: new_csr(new_key()) for identity in names}
            hosts.append(Host(name=name, pem=str(pem), roots="\n".join(answer.roots), csrs=csrs))
    return hosts


async def loaded(job: Job, path: Path) -> Outcome:
    """Run the load in its own process."""
    path.write_bytes(msgspec.json.encode(job))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.signing", str(path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load ended with {process.returncode}")
    return msgspec.json.decode(out, type=Outcome)
