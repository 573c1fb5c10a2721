"""One agent with a real Envoy: it joins, serves, restarts from disk, and outlives everybody it depends on."""

import asyncio

import pytest

from tests.integration.agent.hosts import Host, free_port
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service

pytestmark = pytest.mark.real


async def echo(port: int) -> asyncio.Server:
    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", port)


def test_an_agent_joins_and_brings_its_configuration_into_force(tmp_path):
    async def scenario():
        async with mesh(tmp_path / "cp") as cp:
            host = Host(tmp_path / "h", cp, "vm1")
            port = free_port()
            upstream = free_port()
            host.define(
                "api",
                ports=[{"port": port, "protocol": "tcp"}],
                health={"type": "tcp", "intervalSeconds": 0.1},
                upstreams=[{"service": "api", "port": 80, "listen": f"127.0.0.1:{upstream}"}],
            )
            await host.token("shop/api")
            objects = [
                namespace(),
                service("api", ports=[{"port": 80, "protocol": "tcp", "targetPort": port}]),
                {
                    "apiVersion": "holdfast.dev/v1",
                    "kind": "AuthorizationPolicy",
                    "metadata": {"name": "self", "namespace": "shop"},
                    "spec": {"target": {"service": "api"}, "action": "Allow", "rules": [{"name": "all"}]},
                },
            ]
            status, body = await cp.apply(*objects)
            assert status == 200, body
            server = await echo(port)
            try:
                async with host.running() as agent:
                    await aeventually(lambda: agent.runtime.state.phase == "serving", timeout=30)
                    await aeventually(lambda: agent.registered, timeout=10)

                    async def answers():
                        reader, writer = await asyncio.open_connection("127.0.0.1", upstream)
                        writer.write(b"hello")
                        got = await reader.read(100)
                        writer.close()
                        return got == b"hello"

                    await aeventually(answers, timeout=10)
                    print(host.telling.report())
            finally:
                server.close()
                await host.stop_envoy()

    asyncio.run(scenario())
