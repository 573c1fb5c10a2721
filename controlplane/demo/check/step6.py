"""Step 6: everything that is not a host is gone; agents and Envoys restart, gracefully and not."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from controlplane.demo.check.context import Context
from controlplane.demo.check.load import Load
from controlplane.demo.check.result import Findings
from controlplane.demo.machine import Machine
from controlplane.demo.mesh import DemoError

TITLE = "with control plane, gates, etcd and OpenBao stopped: restarts, graceful and by kill -9"
SERVING = {"serving", "stale"}
RECOVERY_SECONDS = 5.0
PATIENCE = 40.0
SETTLE_SECONDS = 1.0


async def run(context: Context, findings: Findings) -> None:
    await all_stop(context)
    _gone(context, findings)
    async with context.load() as load:
        for name in ("api-1", "web-1"):
            with findings.part(f"{name}'s host"):
                machine = context.mesh.host(name)
                await _graceful(findings, load, machine)
                await _killed(context, findings, load, machine)


async def all_stop(context: Context) -> None:
    mesh = context.mesh
    for node in mesh.planes:
        await asyncio.to_thread(node.stop)
    for gate in mesh.gates.values():
        await asyncio.to_thread(gate.stop)
    await asyncio.to_thread(mesh.etcd.stop)
    await asyncio.to_thread(mesh.bao.stop)


def _gone(context: Context, findings: Findings) -> None:
    """Not only told to stop."""
    mesh = context.mesh
    running = [node.plane.name for node in mesh.planes if node.process.running]
    running += [gate.name for gate in mesh.gates.values() if gate.pids()]
    running += [member.name for member in mesh.etcd.members if member.running]
    running += ["OpenBao"] if mesh.bao.process.running else []
    findings.expect(not running, f"still running: {', '.join(running)}")
    stopped = [
        f"{len(mesh.planes)} control-plane nodes",
        f"{len(mesh.gates)} gates",
        f"{len(mesh.etcd.members)} members",
    ]
    findings.figure("stopped", ", ".join([*stopped, "OpenBao"]))


async def _graceful(findings: Findings, load: Load, machine: Machine) -> None:
    """A new agent, then a new Envoy: nobody may notice either."""
    clock = asyncio.get_running_loop().time
    since = clock()
    envoys = set(machine.envoys())
    await asyncio.to_thread(machine.agent.stop)
    machine.agent.start()
    await until_serving(machine)
    findings.expect(set(machine.envoys()) == envoys, "Envoy did not outlive its agent's restart")
    findings.figure("agent restarted in", f"{clock() - since:.1f} s")
    asked = clock()
    launcher = machine.launcher()
    assert launcher
    os.kill(launcher, signal.SIGHUP)
    await _until(lambda: not envoys & set(machine.envoys()), f"the old Envoy of {machine.name} has ended")
    findings.figure("Envoy replaced in", f"{clock() - asked:.1f} s")
    await asyncio.sleep(SETTLE_SECONDS)
    until = clock()
    await load.settled(until)
    found = load.account(since, until)
    findings.figure("requests during graceful restarts: sent, failed", f"{found.sent}, {found.failed}")
    findings.expect(not found.failed, f"{found.failed} requests failed during graceful restarts: {found.reasons}")


async def _killed(context: Context, findings: Findings, load: Load, machine: Machine) -> None:
    """Agent, launcher and Envoy are killed at once; the agent is started again, as systemd would."""
    clock = asyncio.get_running_loop().time
    good = context.held("web-1" if machine.name != "web-1" else "api-1")
    killed = await asyncio.to_thread(machine.kill9, application=False)
    machine.agent.start()
    if machine.name == "web-1":
        # All of the load goes through this Envoy: it is back when the first request is answered again.
        await _until(lambda: any(r.ok and r.sent > killed for r in load.requests), "web's proxy serves again")
        back = min(r.sent for r in load.requests if r.ok and r.sent > killed)
    else:
        while not (await context.call(machine.name, as_=good)).answered:
            if clock() - killed > PATIENCE:
                raise DemoError(f"{machine.name} does not serve again from disk")
            await asyncio.sleep(0.02)
        back = clock()
    await asyncio.sleep(SETTLE_SECONDS)
    until = clock()
    await load.settled(until)
    findings.figure("kill -9 → serves again from disk", f"{back - killed:.2f} s")
    findings.expect(back - killed <= RECOVERY_SECONDS, f"it took {back - killed:.2f} s until it served again")
    outage, later = load.account(killed, back), load.account(back, until)
    findings.figure("requests while it was down: sent, failed", f"{outage.sent}, {outage.failed}")
    findings.figure("in flight at the kill and failed", outage.in_flight_failed)
    findings.figure("requests afterwards: sent, failed", f"{later.sent}, {later.failed}")
    if machine.name != "web-1":
        # The others' proxies carry their requests past it.
        findings.expect(not outage.failed, f"{outage.failed} requests sent after the kill failed: {outage.reasons}")
    findings.expect(not later.failed, f"{later.failed} requests failed after it was back: {later.reasons}")
    await until_serving(machine)


async def until_serving(machine: Machine) -> None:
    """Return once the agent says that what it knows is in force in its Envoy."""

    async def phase() -> str:
        status = await ask(machine.run / "agent.sock", "status")
        return str(status.get("phase", "")) if isinstance(status, dict) else ""

    deadline = asyncio.get_running_loop().time() + PATIENCE
    while (found := await phase()) not in SERVING:
        machine.agent.check()
        if asyncio.get_running_loop().time() > deadline:
            raise DemoError(f"the agent of {machine.name} is {found or 'silent'}, not serving")
        await asyncio.sleep(0.05)


async def ask(path: Path, what: str) -> object:
    """One question to an agent's own socket (see holdfast-agent status); None while it does not answer."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(json.dumps({"do": what}).encode() + b"\n")
                return json.loads(await reader.readline()).get("body")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise DemoError(f"{what}: not within {PATIENCE:g} s")
        await asyncio.sleep(0.02)
