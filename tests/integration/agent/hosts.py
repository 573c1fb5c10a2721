"""Whole agents with real Envoys, beside a whole control-plane node on a store in memory, in one process."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from agent import resolver
from agent.assembly import Assembly
from agent.daemon import envoy_settings
from agent.envoy.process import Envoy
from agent.identity import exchange
from agent.outside import Outside
from agent.resolver import Lookup
from agent.settings import EnvoySettings, Settings
from agent.telling import Telling
from controlplane.demo.binaries import find_envoy
from mesh.store.protocol import Store
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import Cp


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Host:
    """One host: files, an agent that can be started and stopped, an Envoy that outlives it."""

    def __init__(self, home: Path, cp: Cp, node: str, *, config: Path | None = None, **more: Any) -> None:
        self.config = config or home / "agent.yaml"
        self.home, self.cp, self.node = home, cp, node
        self.services = home / "services.d"
        self.services.mkdir(parents=True)
        self.settings = Settings(
            **{
                "node": node,
                "address": "127.0.0.1",
                "data_dir": str(home / "data"),
                "run_dir": str(home / "r"),
                "services_dir": str(self.services),
                "controlplanes": (cp.url,),
                "gates": ("127.0.0.1:1",),
                "token_file": str(home / "token"),
                "mtls_port": free_port(),
                "scrape": "",
                "access_log": str(home / "access.log"),
                "envoy": EnvoySettings(
                    command=str(find_envoy()), concurrency=1, drain_seconds=1, parent_shutdown_seconds=3
                ),
                **more,
            }
        )
        Path(self.settings.run_dir).mkdir(mode=0o750)
        self.envoy = Envoy(envoy_settings(self.settings))
        self.agent: Assembly | None = None
        self.look_up: Lookup = resolver.lookup
        self.store: Callable[[], Store] = lambda: cp.store

    def define(self, name: str, **fields: Any) -> None:
        document = {"name": name, "namespace": "shop", **fields}
        (self.services / f"{name}.yaml").write_text(yaml.safe_dump(document))

    async def token(self, *identities: str, **more: Any) -> None:
        status, body = await self.cp.call(
            "POST", "/v1/tokens", {"node": self.node, "identities": identities, "ttlSeconds": 600, **more}
        )
        assert status in {200, 201}, body
        (self.home / "token").write_text(body["token"])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Assembly]:
        """The agent, until the block ends; then it leaves as on SIGTERM and Envoy goes on."""

        def open_store(_gates: Sequence[str], _roots: Sequence[str], _own: object) -> Store:
            return Shared(self.store())

        outside = Outside(
            envoy=self.envoy,
            exchange=exchange.run,
            open_store=open_store,
            clock=time.time,
            look_up=self.look_up,
            rng=random.Random(5),
            version="test",
        )
        agent = self.agent = Assembly(self.settings, outside)
        self.telling = Telling(agent, self.config)
        agent.connect(self.telling.report, self.telling.answers())
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            agent.exit()
            try:
                async with asyncio.timeout(15):
                    await task
            finally:
                task.cancel()

    async def stop_envoy(self) -> None:
        with suppress(Exception):
            await self.envoy.stop(drain=False)


class Shared:
    """A store that outlives whoever closes it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def close(self) -> None:
        return None


async def joined(
    stack: AsyncExitStack, home: Path, cp: Cp, node: str, name: str, *, address: str, **fields: Any
) -> Host:
    """A host that serves one service as long as the stack lasts, and is registered."""
    host = Host(home / node, cp, node, address=address)
    host.define(name, **fields)
    await host.token(f"shop/{fields.get('serviceAccount', name)}")
    stack.push_async_callback(host.stop_envoy)
    agent = await stack.enter_async_context(host.running())
    await aeventually(lambda: agent.runtime.state.phase == "serving" and agent.registered, timeout=40)
    return host


async def echoes(port: int) -> bool:
    """Does what is behind this local port say what is said to it?"""
    with suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"hello")
            async with asyncio.timeout(2):
                return await reader.read(100) == b"hello"
        finally:
            writer.close()
    return False
