"""Step 7: everything comes back; a change applied then is in force at every proxy, read by requests through each."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from controlplane.demo import topology as top
from controlplane.demo.check.context import Context
from controlplane.demo.check.forge import Held, client_context, roots
from controlplane.demo.check.http1 import connect
from controlplane.demo.check.probe import call
from controlplane.demo.check.result import Findings
from controlplane.demo.mesh import DemoError

TITLE = "everything comes back, and a change is in force at every proxy"
BACK_SECONDS = 60.0
APPLY_SECONDS = 10.0
POLL_SECONDS = 0.02

Question = Callable[[], Awaitable[bool]]
"""Is the change in force here? Asked by a request."""


async def run(context: Context, findings: Findings) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    await context.start_everything()
    await context.settle(BACK_SECONDS)
    findings.figure("everything back after", f"{clock() - began:.1f} s")
    questions = ask_all(context)
    for name, question in questions.items():
        findings.expect(not await question(), f"{name} allows already what only the change will allow")
    change = [top.allow("after-the-storm-api", "api", "db"), top.allow("after-the-storm-web", "web", "api"),
              top.allow("after-the-storm-db", "db", "api")]  # fmt: skip
    applied = clock()
    answer = await context.api.call("POST", "/v1/apply", body={"objects": change, "delete": [], "dryRun": False})
    findings.figure("applied as revision", answer["revision"])
    took: dict[str, float] = {}

    async def wait(name: str, question: Question) -> None:
        while not await question():
            if clock() - applied > APPLY_SECONDS:
                return
            await asyncio.sleep(POLL_SECONDS)
        took[name] = clock() - applied

    async with asyncio.TaskGroup() as group:
        for name, question in questions.items():
            group.create_task(wait(name, question))
    for name in questions:
        findings.figure(f"in force, {name}", f"{took[name] * 1000:.0f} ms" if name in took else "no")
        findings.expect(name in took, f"{name}: not in force {APPLY_SECONDS:g} s after it was applied")
    await _told(context, findings, int(answer["revision"]))


def ask_all(context: Context) -> dict[str, Question]:
    """One question to each host's proxy as the receiving one, and one to each that has something to call."""
    api, db = context.held("api-1"), context.held("db-1")
    found: dict[str, Question] = {}
    for host in context.mesh.topology.hosts:
        match host.service:
            case "db":
                found[f"inbound at {host.name}"] = _line(context, host, api)
            case service:
                found[f"inbound at {host.name}"] = _answered(context, host, db if service == "api" else api)
    for host in context.mesh.topology.hosts:
        if host.service in {"api", "db"}:
            ((service, port),) = host.calls
            found[f"outbound at {host.name}"] = _outbound(host.address, port, f"{service}.{top.NAMESPACE}")
    return found


def _tls(context: Context, caller: Held) -> ssl.SSLContext:
    # Made once: to make one for each question would take longer than the change does.
    return client_context(context.mesh.folder / "probe", caller, roots(context.mesh.host("web-1").data))


def _answered(context: Context, host: top.Host, caller: Held) -> Question:
    tls = _tls(context, caller)

    async def ask() -> bool:
        outcome = await call(host.address, top.MTLS_PORT, tls=tls, sni=top.sni(host.service), path="/healthz")
        return outcome.answered

    return ask


def _outbound(address: str, port: int, name: str) -> Question:
    async def ask() -> bool:
        return (await call(address, port, name=name, path="/healthz")).answered

    return ask


def _line(context: Context, host: top.Host, caller: Held) -> Question:
    tls = _tls(context, caller)

    async def ask() -> bool:
        try:
            async with asyncio.timeout(5):
                connection = await connect(host.address, top.MTLS_PORT, tls=tls, sni=top.sni("db"))
                try:
                    connection.writer.write(b"after the storm\n")
                    return b"after the storm" in await connection.reader.readline()
                finally:
                    await connection.gone()
        except (OSError, TimeoutError):
            return False

    return ask


async def _told(context: Context, findings: Findings, revision: int) -> None:
    """Every proxy, the gates' too, also says so itself."""

    async def objection() -> str:
        proxies = (await context.api.get("/v1/proxies"))["items"]
        behind = [p["node"] for p in proxies if ((p.get("report") or {}).get("applied") or 0) < revision]
        return f"behind revision {revision}: {', '.join(behind)}" if behind else ""

    try:
        await context.mesh.until(objection, "every proxy reports the change as applied", APPLY_SECONDS)
    except DemoError as exc:
        findings.expect(False, str(exc))
    findings.figure("proxies that report it", len(context.mesh.machines))
