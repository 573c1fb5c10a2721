"""Several clusters on one machine, each whole by itself: its own etcd, CA, control plane, gateways, hosts.

They are started one after the other, and then peered as an operator would: a token here, taken there.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

from controlplane.demo import sites
from controlplane.demo.life import Life
from controlplane.demo.machine import Machine, program
from controlplane.demo.mesh import DemoError, Mesh, free_plan
from controlplane.demo.progress import Progress
from controlplane.demo.reaper import Reaper
from controlplane.demo.topology import Plan

COMMAND_SECONDS = 30.0


class Planner(Protocol):
    """Says who is where in one of several clusters."""

    def __call__(self, block: int, /, *, cluster: str, names: Sequence[str]) -> Plan: ...


class Clusters(Life):
    """`async with Clusters(folder, progress, count) as clusters`: up and peered inside, gone afterwards."""

    def __init__(
        self, folder: Path, progress: Progress, count: int, *, grace: float = 15.0, plan: Planner = sites.plan
    ) -> None:
        self.folder, self.progress = folder, progress
        self.names = sites.NAMES[:count]
        self._reaper = Reaper()
        self.meshes: dict[str, Mesh] = {}
        for name in self.names:
            others = [mesh.plan for mesh in self.meshes.values()]
            found = free_plan(partial(plan, cluster=name, names=self.names), others)
            self.meshes[name] = Mesh(folder / name, progress, grace=grace, plan=found, reaper=self._reaper)
        self.stubborn = 0
        """Processes that had to be killed at the end."""

    def __getitem__(self, name: str) -> Mesh:
        return self.meshes[name]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each pair of clusters once."""
        return combinations(self.names, 2)

    @property
    def machines(self) -> list[Machine]:
        return [machine for mesh in self.meshes.values() for machine in mesh.machines]

    def facts(self) -> dict[str, str | int | float | bool]:
        first = self.meshes[self.names[0]]
        return {"clusters": ", ".join(self.names), **first.facts()}

    def logs(self) -> list[Path]:
        return [path for mesh in self.meshes.values() for path in mesh.logs()]

    async def start(self) -> None:
        self._reaper.start()
        for name, mesh in self.meshes.items():
            with self.progress.stage(f"cluster {name}"):
                await mesh.start()

    async def stop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for mesh in self.meshes.values():
                group.create_task(mesh.stop())
        self.stubborn = await asyncio.to_thread(self._reaper.end)

    async def until(self, condition: Callable[[], Awaitable[str]], what: str, seconds: float = 60.0) -> None:
        """As Mesh.until."""
        await self.meshes[self.names[0]].until(condition, what, seconds)

    async def holdfast(self, cluster: str, *arguments: str, stdin: str = "") -> str:
        """What `holdfast <arguments>` prints, as the operator of this cluster.

        Raises:
            DemoError: it failed, with its words.

        """
        return await asyncio.to_thread(self._holdfast, self.meshes[cluster], arguments, stdin)

    async def objects(self, cluster: str, *arguments: str) -> list[dict[str, Any]]:
        """What `holdfast <arguments> -o json` lists."""
        found: dict[str, Any] = json.loads(await self.holdfast(cluster, *arguments, "-o", "json"))
        return list(found.get("items", []))

    def _holdfast(self, mesh: Mesh, arguments: Sequence[str], stdin: str) -> str:
        connection = mesh.connection
        environment = {
            **os.environ,
            "HOLDFAST_ADDR": ",".join(connection.addresses),
            "HOLDFAST_TOKEN_FILE": str(mesh.token_file),
            "HOLDFAST_CA": str(mesh.ca_file),
            "HOLDFAST_NAMESPACE": connection.namespace,
        }
        command = [program("holdfast"), *arguments]
        done = subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        if done.returncode:
            raise DemoError(f"`holdfast {' '.join(arguments)}` in {mesh.plan.cluster}: {done.stderr.strip()[-800:]}")
        return done.stdout
