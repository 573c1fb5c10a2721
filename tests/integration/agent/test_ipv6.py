"""Hosts that other hosts reach by IPv6: they serve both families at one port, and call each other by real Envoys."""

import asyncio
from contextlib import suppress

import pytest

from mesh.model import ServiceRef
from tests.fakes.tcp import listening
from tests.integration.agent.hosts import Host, free_port
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service

pytestmark = pytest.mark.real

ALLOW = {
    "apiVersion": "holdfast.dev/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "target": {"service": "api"},
        "action": "Allow",
        "rules": [{"name": "web", "from": [{"principals": ["shop/web"]}]}],
    },
}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()


async def says(port: int) -> bytes:
    """What comes back through the caller's own proxy; nothing, if nobody answers."""
    with suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"over IPv6")
            async with asyncio.timeout(2):
                return await reader.read(100)
        finally:
            writer.close()
    return b""


async def listens(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True


def test_a_call_between_two_hosts_goes_over_ipv6(tmp_path):
    async def scenario() -> None:
        async with asyncio.timeout(90), mesh(tmp_path / "cp") as cp, listening(echo) as application:
            callee = Host(tmp_path / "b", cp, "vm-b", address="::1")
            caller = Host(tmp_path / "a", cp, "vm-a", address="::1")
            upstream = free_port()
            callee.define("api", ports=[{"port": application, "protocol": "tcp"}])
            caller.define("web", upstreams=[{"service": "api", "port": 80, "listen": f"127.0.0.1:{upstream}"}])
            await callee.token("shop/api")
            await caller.token("shop/web")
            ports = [{"port": 80, "protocol": "tcp", "targetPort": application}]
            status, body = await cp.apply(namespace(), service("api", ports=ports), ALLOW)
            assert status == 200, body
            try:
                async with callee.running() as b, caller.running() as a:
                    for agent in (a, b):
                        await aeventually(lambda agent=agent: agent.runtime.state.phase == "serving", timeout=30)
                    await aeventually(lambda: says(upstream), timeout=20)
                    assert await says(upstream) == b"over IPv6"
                    known = a.watch.world.endpoints[ServiceRef("shop", "api")].values()
                    assert [endpoint.spec.address for endpoint in known] == ["::1"]
                    assert await listens("::1", callee.settings.mtls_port)
                    assert await listens("127.0.0.1", callee.settings.mtls_port)
            finally:
                await callee.stop_envoy()
                await caller.stop_envoy()

    asyncio.run(scenario())
