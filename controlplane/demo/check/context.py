"""What every step is given."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from controlplane.cli.client import Api
from controlplane.demo import topology as top
from controlplane.demo.check.forge import Held, client_context, held, roots
from controlplane.demo.check.load import Load
from controlplane.demo.check.probe import Outcome, call
from controlplane.demo.mesh import Mesh
from controlplane.demo.progress import Progress
from mesh.store.protocol import Store

LOAD_RATE = 100.0
WARM_UP_SECONDS = 1.5


@dataclass(slots=True)
class Context:
    mesh: Mesh
    api: Api
    store: Store
    """Read past the control plane, with its own credentials."""

    @property
    def progress(self) -> Progress:
        return self.mesh.progress

    def logs(self) -> list[Path]:
        return self.mesh.logs()

    def held(self, host: str) -> Held:
        """The workload certificate of a host, from its state on disk."""
        return held(self.mesh.host(host).data, self.mesh.topology.host(host).identity)

    async def call(
        self,
        to: str,
        *,
        as_: Held | None,
        sni: str | None = None,
        tls: bool = True,
        path: str = "/probe",
        patience: float = 0.0,
    ) -> Outcome:
        """One call to a host's mTLS port with a certificate of our choice."""
        host = self.mesh.topology.host(to)
        trusted = roots(self.mesh.host("web-1").data)
        context = client_context(self.mesh.folder / "probe", as_, trusted) if tls else None
        name = top.sni(host.service) if sni is None else sni
        return await call(
            host.address, top.MTLS_PORT, tls=context, sni=name if tls else "", path=path, patience=patience
        )

    def local(self, host: str, service: str) -> tuple[str, int]:
        """Where a host's own application finds a service."""
        found = self.mesh.topology.host(host)
        return found.address, dict(found.calls)[service]

    @asynccontextmanager
    async def load(self, *, warm_up: float = WARM_UP_SECONDS) -> AsyncIterator[Load]:
        """A steady load from web's host to api, as web's application would send it, until the block ends."""
        address, port = self.local("web-1", "api")
        load = Load(address, port, rate=LOAD_RATE)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(load.run())
            try:
                await asyncio.sleep(warm_up)
                yield load
            finally:
                task.cancel()

    async def settle(self, seconds: float = 60.0) -> None:
        """Return once every proxy serves and every instance is healthy."""
        await self.mesh.until(lambda: self.mesh.settled(self.api), "the mesh is whole again", seconds)

    async def start_everything(self) -> None:
        """Start what does not run, in no particular order: each part waits for what it needs."""
        mesh = self.mesh
        for node in mesh.planes:
            node.start()
        for machine in mesh.machines:
            await asyncio.to_thread(machine.start)
        mesh.etcd.launch()
        if not mesh.bao.process.running:
            await asyncio.to_thread(mesh.bao.start)

    async def switch(self, name: str, *, ok: bool) -> None:
        """Make an application's health check pass or fail."""
        host = self.mesh.topology.host(name)
        url = f"http://{host.address}:{host.port}/control/health?ok={str(ok).lower()}"
        async with aiohttp.ClientSession() as session, session.post(url) as answer:
            answer.raise_for_status()

    async def mend(self) -> None:
        """Bring back whatever a broken step left stopped or ill."""
        await self.start_everything()
        for host in self.mesh.topology.apis:
            await self.switch(host.name, ok=True)
        await self.settle()
