"""Whole agents with real Envoys: a Service's selector moves from host to host under load, and nobody notices."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from controlplane.demo.apps import api_app
from controlplane.demo.check.load import Load
from tests.integration.agent.hosts import free_port, joined
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service

pytestmark = pytest.mark.real

COLORS = ("blue", "green")
ADDRESSES = {"blue": "127.0.0.21", "green": "127.0.0.22", "caller": "127.0.0.23"}
MOVES = 60

ALLOW = {
    "apiVersion": "holdfast.dev/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"target": {"service": "api"}, "action": "Allow", "rules": [{"from": [{"principals": ["shop/web"]}]}]},
}


def selecting(color: str) -> dict[str, Any]:
    return service("api", ports=[{"port": 80, "protocol": "http", "targetPort": "http"}], selector={"color": color})


async def scenario(folder: Path) -> Load:
    async with mesh(folder / "cp") as cp, AsyncExitStack() as stack:
        status, body = await cp.apply(namespace(), selecting("blue"), ALLOW)
        assert status == 200, body
        for color in COLORS:
            app = await stack.enter_async_context(TestServer(api_app(color), host="127.0.0.1"))
            ports = [{"port": app.port, "name": "http", "protocol": "http"}]
            fields = {"ports": ports, "labels": {"color": color}, "health": {"type": "tcp", "intervalSeconds": 0.1}}
            await joined(stack, folder, cp, color, "api", address=ADDRESSES[color], **fields)
        upstream = free_port()
        calls = [{"service": "api", "port": 80, "listen": f"127.0.0.1:{upstream}"}]
        await joined(stack, folder, cp, "caller", "web", address=ADDRESSES["caller"], upstreams=calls)

        load = Load("127.0.0.1", upstream, rate=200)

        def answered_by(color: str) -> bool:
            return bool(load.requests) and load.requests[-1].instance == color

        task = asyncio.create_task(load.run())
        try:
            await aeventually(lambda: answered_by("blue"))
            load.requests.clear()  # before that, nobody knew where to go
            for number in range(MOVES):
                color = COLORS[(number + 1) % 2]
                status, body = await cp.apply(selecting(color))
                assert status == 200, body
                await aeventually(lambda color=color: answered_by(color), what=f"{color} answers")
        finally:
            task.cancel()
            await asyncio.wait([task])
        return load


def test_a_selector_that_moves_between_hosts_fails_no_request(tmp_path: Path):
    async def bounded() -> Load:
        async with asyncio.timeout(120):
            return await scenario(tmp_path)

    load = asyncio.run(bounded())
    failed = [r for r in load.requests if not r.ok]
    print(f"{MOVES} moves, {len(load.requests)} requests, {len(failed)} failed")
    assert {r.instance for r in load.requests if r.ok} == set(COLORS)
    assert not failed, failed[:5]
