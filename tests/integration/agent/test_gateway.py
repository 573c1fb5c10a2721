"""A whole agent in role gateway: it registers, passes on what is exported, drains; one without the role does not."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from controlplane.demo.apps import api_app
from mesh import codec, keys
from mesh.model import GATEWAY, GatewaySpec
from mesh.store.protocol import Put
from tests.integration.agent.hosts import Host, free_port, joined
from tests.integration.compile.hosts import context, get
from tests.support.meshes import TestCa, bundle, export, peering, policy, rule
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import Cp, mesh, namespace, service

pytestmark = pytest.mark.real

API, GW, POSED = "127.0.0.31", "127.0.0.32", "127.0.0.33"
SNI = "80.api.shop.default.mesh"


async def gateway(stack: AsyncExitStack, folder: Path, cp: Cp, node: str, address: str, *roles: str) -> Host:
    host = Host(folder / node, cp, node, address=address, gateway=GatewaySpec(port=free_port(address)))
    await host.token(roles=["agent", *roles])
    stack.push_async_callback(host.stop_envoy)
    agent = await stack.enter_async_context(host.running())
    await aeventually(lambda: agent.runtime.state.phase == "serving" and agent.registered, timeout=40)
    return host


async def scenario(folder: Path) -> None:
    west = TestCa("west.test")
    async with mesh(folder / "cp") as cp, AsyncExitStack() as stack:
        shown = service("api", ports=[{"port": 80, "protocol": "http", "targetPort": "http"}])
        status, body = await cp.apply(namespace(), shown)
        assert status == 200, body
        far = "spiffe://west.test/ns/shop/sa/web"
        known = (peering("west"), bundle(west.root, domain="west.test"), export("api"), policy("far", "api", rule(far)))
        await cp.store.txn((), tuple(Put(keys.key_for(one.ref), codec.encode(one)) for one in known))
        app = await stack.enter_async_context(TestServer(api_app("here"), host="127.0.0.1"))
        ports = [{"port": app.port, "name": "http", "protocol": "http"}]
        await joined(stack, folder, cp, "api", "api", address=API, ports=ports)
        host = await gateway(stack, folder, cp, "gw", GW, "gateway")
        view, port = cp.context.mirror.view, host.settings.gateway.port

        def told() -> list[tuple[str, int, str]]:
            specs = [held.object.spec for held in view.endpoints.get(GATEWAY, {}).values()]
            return [(spec.address, spec.port, spec.health) for spec in specs]

        await aeventually(lambda: told() == [(GW, port, "healthy")], what="the gateway is registered")
        tls = context(folder, west.workload("shop/web"), *cp.node.context.authority.roots)
        answer = await _answered(port, tls)
        assert answer == 200
        with pytest.raises(OSError):
            await get(GW, port, tls=tls, sni="80.kept.shop.default.mesh")

        posed = await gateway(stack, folder, cp, "posed", POSED)
        assert posed.agent is not None
        assert "is no gateway" in posed.agent.registrar.refused["gateway-posed"]
        assert told() == [(GW, port, "healthy")]

        status, body = await cp.call("POST", "/v1/nodes/gw/drain")
        assert status == 202, body
        await aeventually(lambda: told() == [(GW, port, "draining")], what="callers are told that it drains")
        assert await _answered(port, tls) == 200, "what still comes is passed on"
        async with asyncio.timeout(30):
            while not (await cp.call("GET", "/v1/nodes/gw/drain"))[1]["done"]:
                await asyncio.sleep(0.1)


async def _answered(port: int, tls: ssl.SSLContext) -> int:
    """Once the way is in force at all hosts."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await get(GW, port, "/", tls=tls, sni=SNI)).status
            except OSError:
                await asyncio.sleep(0.1)


def test_an_agent_is_a_gateway_if_its_node_has_the_role(tmp_path: Path):
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await scenario(tmp_path)

    asyncio.run(bounded())
