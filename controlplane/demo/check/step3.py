"""Step 3: what must be refused at the mTLS port is refused, each beside a good call on the same port."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.demo import topology as top
from controlplane.demo.bao import MOUNT
from controlplane.demo.check.context import Context
from controlplane.demo.check.forge import (
    Authority,
    Held,
    intermediate_request,
    leaf,
    new_authority,
    server_context,
    utc,
)
from controlplane.demo.check.load import account
from controlplane.demo.check.probe import Outcome
from controlplane.demo.check.result import Findings

TITLE = "the mTLS port refuses whoever is not a caller of this mesh"
TARGET = "api-1"
STOOD_IN = "api-3"
OTHER_DOMAIN = "spiffe://other.example/ns/shop/sa/web"
POSE_SECONDS = 2.0
VERDICT_SECONDS = 0.2


class Case(NamedTuple):
    name: str
    caller: Held | None
    tls: bool = True
    sni: str | None = None
    """None: the right one."""


async def run(context: Context, findings: Findings) -> None:
    good = context.held("web-1")
    mesh_ca = await asyncio.to_thread(intermediate_of_the_mesh, context)
    for case in cases(good, mesh_ca):
        before = await _good_call(context, findings, good, case.name)
        outcome = await context.call(TARGET, as_=case.caller, tls=case.tls, sni=case.sni, patience=VERDICT_SECONDS)
        findings.figure(case.name, _words(outcome))
        findings.expect(not outcome.status, f"{case.name}: not refused at the port but answered: {outcome}")
        after = await _good_call(context, findings, good, case.name)
        findings.expect(before and after, f"{case.name}: the good calls beside it were not both answered")
    # The same issuer, with nothing wrong: so it was the expiry, and the domain, that were refused above.
    now = utc(time.time())
    outcome = await context.call(TARGET, as_=leaf(mesh_ca, top.spiffe_id("web"), now))
    findings.figure("same issuer, valid and of this domain", _words(outcome))
    findings.expect(
        outcome.answered, f"the issuer that the bad certificates were made with is itself refused: {outcome}"
    )
    await _poser(context, findings)


def cases(good: Held, mesh_ca: Authority) -> list[Case]:
    now = utc(time.time())
    web = top.spiffe_id("web")
    long_ago = leaf(mesh_ca, web, now, begin=timedelta(hours=-2), end=timedelta(minutes=-10))
    return [
        Case("plaintext", None, tls=False),
        Case("no certificate", None),
        Case("foreign CA", leaf(new_authority("foreign root", now), web, now)),
        Case("expired certificate", long_ago),
        Case("another domain's identity", leaf(mesh_ca, OTHER_DOMAIN, now)),
        Case("wrong SNI", good, sni=f"80.nowhere.{top.NAMESPACE}.{top.CLUSTER}.mesh"),
        Case("no SNI", good, sni=""),
    ]


def intermediate_of_the_mesh(context: Context) -> Authority:
    """An intermediate under the mesh's own root, made with OpenBao's root token: no caller of the mesh can have one."""
    key = ec.generate_private_key(ec.SECP256R1())
    body = {
        "csr": intermediate_request(key, "made for the check"),
        "common_name": "made for the check",
        "max_path_length": 0,
        "ttl": "24h",
    }
    pem = str(context.mesh.bao.call("POST", f"{MOUNT}/root/sign-intermediate", body)["data"]["certificate"])
    return Authority(x509.load_pem_x509_certificate(pem.encode()), key, (pem.rstrip() + "\n",))


async def _good_call(context: Context, findings: Findings, good: Held, beside: str) -> bool:
    outcome = await context.call(TARGET, as_=good)
    return findings.expect(
        outcome.answered and outcome.server == top.spiffe_id("api"), f"a good call beside `{beside}`: {outcome}"
    )


def _words(outcome: Outcome) -> str:
    return f"answered with {outcome.status}" if outcome.status else f"refused: {outcome.refused}"


class StandIn:
    """A TLS server at the address of a host that is down, with whatever certificate it is given."""

    def __init__(self) -> None:
        self.tried = 0
        """TCP connections."""
        self.trusted = 0
        """Of these: handshakes that the caller completed, and then sent data."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if await reader.read(1):
                self.trusted += 1
        writer.close()


@asynccontextmanager
async def stand_in(context: Context, mine: Held) -> AsyncIterator[StandIn]:
    """Stand where STOOD_IN was, in front of web's proxy."""
    found = StandIn()
    tls = server_context(context.mesh.folder / "probe", mine)
    # Counted by the first thing a client sends: its hello.
    tls.sni_callback = lambda *_: _count(found)
    address = context.mesh.topology.host(STOOD_IN).address
    server = await asyncio.start_server(found.serve, address, top.MTLS_PORT, ssl=tls, reuse_address=True)
    async with server:
        yield found


def _count(found: StandIn) -> None:
    found.tried += 1


async def _poser(context: Context, findings: Findings) -> None:
    """The host of one api goes down and somebody else stands at its address, while it is still registered there."""
    mesh = context.mesh
    apis, dbs = context.held("api-2"), context.held("db-1")
    async with context.load() as load:
        await asyncio.to_thread(mesh.host(STOOD_IN).kill9)
        async with stand_in(context, apis) as real:
            await asyncio.sleep(POSE_SECONDS)
        clock = asyncio.get_running_loop().time
        since = clock()
        async with stand_in(context, dbs) as poser:
            await asyncio.sleep(POSE_SECONDS)
        until = clock()
        await load.settled(until)
    posed = account(load.requests, since, until)
    findings.figure("stand-in with api's own certificate: handshakes, then data", f"{real.tried}, {real.trusted}")
    findings.figure("poser with db's certificate: handshakes, then data", f"{poser.tried}, {poser.trusted}")
    findings.figure("requests while it posed: sent, failed", f"{posed.sent}, {posed.failed}")
    findings.expect(
        real.trusted > 0, "web did not even talk to a stand-in with api's own certificate: nothing is shown"
    )
    findings.expect(poser.tried > 0, "web never tried the poser: nothing is shown")
    findings.expect(poser.trusted == 0, f"web sent data to a poser with db's certificate, {poser.trusted} times")
    await asyncio.to_thread(mesh.host(STOOD_IN).start)
    await context.settle()
