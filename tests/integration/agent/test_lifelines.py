"""Capture of more, by an agent whose control plane and gate have names: where these lead to is left alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import resolver
from agent.capture import CaptureSettings, OutboundCapture
from tests.integration.agent.hosts import Host
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service

pytestmark = pytest.mark.real

GATE, PLANE = "gate.example.test", "cp.example.test"


@asynccontextmanager
async def helper(path: Path) -> AsyncIterator[list[list[str]]]:
    """The host's, which does all that it is told: whose addresses are left alone, each time."""
    told: list[list[str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.loads(await reader.readline())["body"]
        if "outbound" in body:
            told.append(body.get("lifelines", []))
        writer.write(b'{"applied": true, "capture": "confirmed"}\n')
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield told


def test_where_control_planes_and_gates_are_is_left_alone_and_followed(tmp_path):
    answers: dict[str, tuple[str, ...]] = {PLANE: ("192.0.2.1", "2001:db8::1")}

    def look_up(name: str) -> tuple[str, ...]:
        if name not in answers:
            raise OSError(-2, "Name or service not known")
        return answers[name]

    async def scenario() -> None:
        socket = tmp_path / "host.sock"
        async with asyncio.timeout(90), mesh(tmp_path / "cp") as cp, helper(socket) as told:
            host = Host(
                tmp_path / "a", cp, "vm-a",
                controlplanes=(cp.url, f"https://{PLANE}:8443"), gates=("127.0.0.1:1", f"{GATE}:15379"),
                capture=CaptureSettings(socket=str(socket), outbound=OutboundCapture(ranges=("198.51.100.0/24",))),
            )  # fmt: skip
            host.look_up = look_up
            host.define("web", callers={"users": ["nobody"]}, upstreams=[{"service": "api", "port": 80}])
            await host.token("shop/web")
            status, body = await cp.apply(namespace(), service("api"))
            assert status == 200, body
            try:
                async with host.running() as agent:
                    await aeventually(lambda: told[-1:] == [["192.0.2.1", "2001:db8::1"]], timeout=60)
                    assert agent.runtime.state.phase == "serving"
                    [said] = [one for one in host.telling.report().problems if "cannot be resolved" in one]
                    assert GATE in said
                    answers[GATE] = ("192.0.2.7",)
                    await aeventually(lambda: told[-1] == ["192.0.2.1", "192.0.2.7", "2001:db8::1"], timeout=20)
                    assert not [one for one in host.telling.report().problems if "resolved" in one]
                    await aeventually(lambda: b"192.0.2.7" in (host.settings.data / resolver.FILE).read_bytes())
                answers.clear()
                told.clear()
                async with host.running() as agent:
                    await aeventually(lambda: bool(told), timeout=60)
                    assert told[0] == ["192.0.2.1", "192.0.2.7", "2001:db8::1"], "with DNS away too"
            finally:
                await host.stop_envoy()

    asyncio.run(scenario())
