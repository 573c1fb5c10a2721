"""Have a drained service's callers left? What is seen here: the control plane knows, and no request comes any more."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.compile import names
from mesh.model import GATEWAY, Instance, Object, Service, ServiceRef, selects

QUIET_SECONDS = 1.0
"""Without a new request, after the control plane has taken it: a change is in force at callers well within."""
_TOTAL, _ACTIVE = ".upstream_rq_total", ".upstream_rq_active"


@dataclass(slots=True)
class _Seen:
    total: int
    since: float


class Departures:
    """Looks when it is asked, and remembers what it saw before."""

    def __init__(
        self,
        stats: Callable[[str], Awaitable[Mapping[str, int]]],
        objects: Callable[[], Iterable[Object]],
        known: Callable[[], tuple[Instance, ...] | None],
    ) -> None:
        self._stats, self._objects, self._known = stats, objects, known
        self._seen: dict[str, _Seen] = {}

    def forget(self, what: str) -> None:
        self._seen.pop(what, None)

    async def progress(self, what: str, leaving: tuple[Instance, ...]) -> dict[str, Any]:
        """How far it is. `done`: nothing is under way, and nothing new comes."""
        told = self._told(leaving)
        now = asyncio.get_running_loop().time()
        total, active = await self._requests(leaving)
        seen = self._seen.get(what)
        if seen is None or seen.total != total or not told:
            seen = self._seen[what] = _Seen(total, now)
        quiet = now - seen.since
        done = told and active == 0 and (quiet >= QUIET_SECONDS or not leaving)
        words = "done" if done else "callers leave" if told else "the control plane is being told"
        if told and active:
            words = f"{active} requests are under way"
        return {"done": done, "told": told, "active": active, "quietSeconds": round(quiet, 2), "words": words}

    def _told(self, leaving: Iterable[Instance]) -> bool:
        known = self._known()
        if known is None:
            return False
        health = {instance.ref: instance.spec.health for instance in known}
        return all(health.get(instance.ref, "draining") == "draining" for instance in leaving)

    async def _requests(self, leaving: Iterable[Instance]) -> tuple[int, int]:
        """So far, and under way, at the applications behind these instances, or through this gateway."""
        leaving = tuple(leaving)
        prefixes = tuple(f"cluster.{name}" for name in self._clusters(leaving))
        total = active = 0
        if prefixes:
            found = await self._stats(r"^cluster\.local\|.*\.upstream_rq_(total|active)$")
            ours = [(name, value) for name, value in found.items() if name.startswith(prefixes)]
            total = sum(v for n, v in ours if n.endswith(_TOTAL))
            active = sum(v for n, v in ours if n.endswith(_ACTIVE))
        if any(ServiceRef(instance.metadata.namespace, instance.spec.service) == GATEWAY for instance in leaving):
            # A gateway knows of connections only.
            found = await self._stats(r"^cluster\.gateway\|.*\.upstream_cx_(total|active)$")
            total += sum(v for n, v in found.items() if n.endswith("_total"))
            active += sum(v for n, v in found.items() if n.endswith("_active"))
        return total, active

    def _clusters(self, leaving: Iterable[Instance]) -> set[str]:
        """The name of each cluster that leads to one of these, as Envoy's figures have it."""
        return {
            names.local_cluster(ServiceRef(service.metadata.namespace, service.metadata.name), port.port) + "."
            for service in self._objects()
            if isinstance(service, Service) and any(selects(service, instance) for instance in leaving)
            for port in service.spec.ports
        }
