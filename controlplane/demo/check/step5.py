"""Step 5: under load, workload certificates rotate twice and the issuing intermediate once; nobody notices.

The check's mesh gives workloads certificates of SHORT_TTL, so that the agents' own renewal does it, not a command.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from controlplane.cli.client import Api
from controlplane.demo.check.context import Context
from controlplane.demo.check.load import Load
from controlplane.demo.check.probe import issuer
from controlplane.demo.check.result import Findings
from controlplane.demo.mesh import DemoError

TITLE = "certificates rotate twice and the issuing intermediate once, under load"
SHORT_TTL = 60
LONG_TTL = 72 * 3600
ROTATIONS = 2
PATIENCE = 80.0
POLL_SECONDS = 0.2
SERVER = "api-1"
RECENT = 100
"""Requests to look at each time: more than are sent meanwhile."""


async def run(context: Context, findings: Findings) -> None:
    try:
        await _rotate(context, findings)
    finally:
        await _lengthen(context)


async def _rotate(context: Context, findings: Findings) -> None:
    clock = asyncio.get_running_loop().time
    watch = Watch(context)
    async with context.load() as load:
        since = clock()
        await watch.look(load)
        await watch.until(load, lambda: watch.rotations() >= 1, "the certificates rotate once")
        await _rotate_intermediates(context)
        issuers = set(watch.issuers)
        await watch.until(
            load,
            lambda: watch.rotations() >= ROTATIONS and not issuers & {watch.issuers[-1], watch.web_issuer()},
            "the certificates rotate again, under a new intermediate",
        )
        took = clock() - since
        until = clock()
        await load.settled(until)
    found = load.account(since, until)
    findings.figure("lifetime of workload certificates here", f"{SHORT_TTL} s")
    findings.figure("serials of api's certificate, from handshakes", _short(watch.server))
    findings.figure("serials of web's certificate, from handshakes as api's proxies saw them", _short(watch.client))
    findings.figure("intermediates behind api's certificate", _short(list(dict.fromkeys(watch.issuers))))
    findings.figure("two rotations took", f"{took:.0f} s")
    findings.figure("requests: sent, failed", f"{found.sent}, {found.failed}")
    findings.expect(not found.failed, f"{found.failed} requests failed: {found.reasons}")


def _short(serials: list[str]) -> str:
    return " → ".join(serial[:8] for serial in serials)


class Watch:
    """Which certificates both sides have shown in handshakes, in order."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.server: list[str] = []
        """Serials that api-1's port showed."""
        self.client: list[str] = []
        """Serials of the certificates that api's proxies saw of web: they tell the hash, web's host has the rest."""
        self._by_hash: dict[str, str] = {}
        self.issuers: list[str] = []
        """Of api-1's certificate."""

    def rotations(self) -> int:
        return min(len(self.server), len(self.client)) - 1

    def web_issuer(self) -> str:
        return issuer(self._context.held("web-1").leaf)

    async def look(self, load: Load) -> None:
        context = self._context
        outcome = await context.call(SERVER, as_=context.held("web-1"))
        if outcome.serial and outcome.serial not in self.server:
            self.server.append(outcome.serial)
            self.issuers.append(outcome.issuer)
        mine = context.held("web-1")
        self._by_hash[mine.hash] = mine.serial
        for request in load.requests[-RECENT:]:
            serial = self._by_hash.get(request.certificate)
            if serial and serial not in self.client:
                self.client.append(serial)

    async def until(self, load: Load, holds: Callable[[], bool], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not holds():
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(
                    f"{what}: not within {PATIENCE:g} s (seen: {len(self.server)} of api, {len(self.client)} of web)"
                )
            await asyncio.sleep(POLL_SECONDS)
            await self.look(load)


async def _rotate_intermediates(context: Context) -> None:
    """Of every control-plane node: each has its own."""
    for plane in context.mesh.topology.planes:
        one = context.mesh.connection_to(plane.url)
        async with Api(one, timeout=30) as api:
            await api.call("POST", "/v1/ca/rotate", body={"what": "intermediate"})


async def _lengthen(context: Context) -> None:
    """Usual lifetimes from here on: the next step is an outage that outlasts short ones."""
    config: dict[str, Any] = await context.api.get("/v1/objects/meshconfigs/default")
    config["spec"]["workloadTtlSeconds"] = LONG_TTL
    await context.api.call("POST", "/v1/apply", body={"objects": [config], "delete": [], "dryRun": False})

    async def objection() -> str:
        for host in context.mesh.topology.hosts:
            leaf = context.held(host.name).leaf
            if (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() < LONG_TTL:
                return f"{host.name} still holds a short-lived certificate"
        return ""

    await context.mesh.until(objection, "every host holds a certificate of the usual lifetime", PATIENCE)
