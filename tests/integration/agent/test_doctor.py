"""doctor and dump on a host that lives: a real agent, its Envoy, a control plane over TLS. Then as they die."""

import asyncio
import json
import stat
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.admin import AdminServer
from agent.cli import main
from mesh import codec
from tests.fakes.tcp import listening
from tests.integration.agent.hosts import Host
from tests.support.waiting import aeventually
from tests.unit.cli.test_commands import Cli
from tests.unit.controlplane.harness import mesh, namespace, service

pytestmark = pytest.mark.real


async def hangs_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@asynccontextmanager
async def answering(host: Host):
    """The agent's own socket."""
    server = asyncio.create_task(AdminServer(host.settings.admin_socket, host.telling.commands()).run())
    try:
        await aeventually(host.settings.admin_socket.exists)
        yield
    finally:
        server.cancel()
        await asyncio.wait({server})


async def doctor(config: Path) -> dict[str, list[tuple[str, str]]]:
    """What each check found."""
    said = await asyncio.to_thread(CliRunner().invoke, main, ["doctor", "--config", str(config), "-o", "json"])
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in json.loads(said.stdout)["findings"]:
        found.setdefault(finding["check"], []).append((finding["verdict"], finding["found"]))
    return found


async def dump(config: Path, out: Path) -> dict[str, bytes]:
    said = await asyncio.to_thread(
        CliRunner().invoke, main, ["debug", "dump", "--config", str(config), "--out", str(out)]
    )
    assert said.exit_code == 0, said.output
    return members(out)


async def fetch(cp, node: str, config: Path) -> dict[str, bytes]:
    """As `holdfast debug dump` does, by an operator who may."""
    cli, out = Cli(cp, config.parent), config.parent / "far.tar.gz"
    said = await cli("debug", "dump", node, "--out", str(out))
    assert said.exit_code == 0, said.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    nowhere = await cli("debug", "dump", "nobody")
    assert "there is no node" in nowhere.output
    return members(out)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name.partition("/")[2]: tar.extractfile(member).read() for member in tar.getmembers()}


def test_a_host_is_examined_and_dumped_alive_and_dead(tmp_path):
    async def scenario() -> None:
        async with asyncio.timeout(120), mesh(tmp_path / "cp") as cp, listening(hangs_up) as port:
            config = tmp_path / "agent.yaml"
            host = Host(tmp_path / "h", cp, "vm1", config=config)
            config.write_bytes(codec.encode_struct(host.settings))
            host.define("api", ports=[{"port": port, "protocol": "tcp"}])
            await host.token("shop/api")
            await cp.apply(namespace(), service("api", ports=[{"port": 80, "protocol": "tcp", "targetPort": port}]))
            try:
                async with host.running() as agent:
                    await aeventually(lambda: agent.runtime.state.phase == "serving", timeout=30)
                    await aeventually(lambda: agent.registered)
                    await agent.saver.flush()
                    async with answering(host):
                        alive = await doctor(config)
                        whole = await dump(config, tmp_path / "alive.tar.gz")
                        fetched = await fetch(cp, "vm1", config)
                dead_agent = await doctor(config)
            finally:
                await host.stop_envoy()
            dead = await doctor(config)
            rest = await dump(config, tmp_path / "dead.tar.gz")
            stored = agent.keeper.stored

        assert alive["identity"] == [("ok", "joined as vm1")]
        assert alive["control plane"] == [("ok", f"{cp.url} answers")]
        assert [verdict for verdict, _ in alive["clock"]] == ["ok"]
        assert alive["store gate"][0][0] == "fault", "nobody listens at port 1"
        assert alive["certificate shop/api"][0][0] == "ok"
        assert alive["agent"][0][1].startswith("serving")
        assert alive["Envoy"][0][0] == "ok"
        assert alive["ports"] == [("ok", f"mTLS port {host.settings.mtls_port} is Envoy's")]
        assert alive["address"][0][0] == "ok"
        assert alive["limits"], "Envoy's process was found"

        assert dead_agent["agent"][0][0] == "fault"
        assert dead_agent["Envoy"][0][0] == "ok"
        assert dead_agent["control plane"][0][0] == "ok"
        assert dead["Envoy"][0][0] == "fault"
        assert dead["control plane"][0][0] == "ok"

        far = {p["file"]: p["state"] for p in json.loads(fetched["index.json"])["parts"]}
        assert (far["agent/status.json"], far["envoy/config_dump.json"]) == ("ok", "ok")

        states = {p["file"]: p["state"] for p in json.loads(whole["index.json"])["parts"]}
        why = {p["file"]: p["reason"] for p in json.loads(whole["index.json"])["parts"]}
        for name in ("agent/status.json", "envoy/config_dump.json", "envoy/stats.txt", "envoy/clusters.txt",
                     "envoy/listeners.txt", "agent/compiled.json", "agent/world.json", "limits.json"):  # fmt: skip
            assert states[name] == "ok", why[name]
        assert "inbound" in json.loads(whole["agent/compiled.json"])["lds"]
        assert b"inbound" in whole["envoy/config_dump.json"]
        late = {p["file"]: p["state"] for p in json.loads(rest["index.json"])["parts"]}
        assert (late["agent/status.json"], late["envoy/stats.txt"]) == ("missing", "missing")
        assert (late["agent/compiled.json"], late["agent/identity.json"]) == ("ok", "ok")
        for held in (stored.own, *stored.held.values()):
            lines = [line.encode() for line in held.key_pem.splitlines() if not line.startswith("-----")]
            assert not [
                name for raw in (whole, rest, fetched) for name, text in raw.items() if any(ln in text for ln in lines)
            ]

    asyncio.run(scenario())
