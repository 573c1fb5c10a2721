"""Step 3: what must be refused at the mTLS port is refused, each beside a good call on the same port."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
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
POSE_SECONDS = 1.0
TRY_SECONDS = 3.0
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

    def __init__(self, context: Context, mine: Held) -> None:
        self._folder = context.mesh.folder / "probe"
        self._address = context.mesh.topology.host(STOOD_IN).address
        self._tls = server_context(self._folder, mine)
        self.tried = 0
        """Handshakes that a caller began."""
        self.trusted = 0
        """Of these: such as the caller completed, and then sent data."""

    def pose(self, mine: Held) -> None:
        """Show this certificate from now on. The address stays taken all the while, so nobody finds it dead."""
        self._tls = server_context(self._folder, mine)
        self.tried = self.trusted = 0

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        # One context takes the connections and hands each, at its first word, to the certificate of the moment.
        door = server_context(
            self._folder, leaf(new_authority("door", utc(time.time())), OTHER_DOMAIN, utc(time.time()))
        )
        door.sni_callback = self._hello
        async with await asyncio.start_server(self._serve, self._address, top.MTLS_PORT, ssl=door, reuse_address=True):
            yield

    def _hello(self, tls: ssl.SSLObject, _name: str, _door: ssl.SSLContext) -> None:
        self.tried += 1
        tls.context = self._tls

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if await reader.read(1):
                self.trusted += 1
        writer.close()


async def _poser(context: Context, findings: Findings) -> None:
    """The host of one api goes down and somebody else stands at its address, while it is still registered there."""
    mesh, clock = context.mesh, asyncio.get_running_loop().time
    stand_in = StandIn(context, context.held("api-2"))
    await asyncio.to_thread(mesh.host(STOOD_IN).kill9)
    # Quickly, before web's proxy has seen enough of the stand-in's broken answers to leave it out.
    async with stand_in.standing(), context.load(warm_up=0) as load:
        await _until(lambda: stand_in.trusted > 0)
        real = f"{stand_in.tried}, {stand_in.trusted}"
        shown = stand_in.trusted > 0
        since = clock()
        stand_in.pose(context.held("db-1"))
        await _until(lambda: stand_in.tried > 0)
        await asyncio.sleep(POSE_SECONDS)
        until = clock()
        await load.settled(until)
    posed = account(load.requests, since, until)
    findings.figure("stand-in with api's own certificate: handshakes, then data", real)
    findings.figure("poser with db's certificate: handshakes, then data", f"{stand_in.tried}, {stand_in.trusted}")
    findings.figure("requests while it posed: sent, failed", f"{posed.sent}, {posed.failed}")
    findings.expect(shown, "web did not even talk to a stand-in with api's own certificate: nothing is shown")
    findings.expect(stand_in.tried > 0, "web never tried the poser: nothing is shown")
    findings.expect(not stand_in.trusted, f"web sent data to a poser with db's certificate, {stand_in.trusted} times")
    await asyncio.to_thread(mesh.host(STOOD_IN).start)
    await context.settle()


async def _until(holds: Callable[[], bool]) -> None:
    """Wait for it, but no longer than the host stays registered."""
    end = asyncio.get_running_loop().time() + TRY_SECONDS
    while not holds() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - set in TLS's callback
        await asyncio.sleep(0.01)
