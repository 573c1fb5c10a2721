"""Is each local service healthy? Thresholds are pure; the monitor runs one loop for each definition with a check."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from agent.checks import probe
from mesh.aio import pause
from mesh.model import Health, HealthCheck, ServiceDefinition

log = structlog.get_logger(__name__)

Name = tuple[str, str]
"""Namespace and name of a definition."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Where one service stands. It starts unhealthy: nobody is sent to what has not answered yet."""

    health: Health = "unhealthy"
    streak: int = 0
    """Answers in a row that speak against `health`."""
    reason: str = "not checked yet"


def observe(tally: Tally, check: HealthCheck, failure: str) -> Tally:
    """The tally after one more answer; '' is a good one."""
    good = not failure
    if good == (tally.health == "healthy"):
        return replace(tally, streak=0, reason=failure)
    streak = tally.streak + 1
    if streak < max(1, check.healthy_threshold if good else check.unhealthy_threshold):
        return replace(tally, streak=streak, reason=failure)
    return Tally(health="healthy" if good else "unhealthy", reason=failure)


class Monitor:
    """Keeps one loop per definition, restarts only those whose definition changed, tells of transitions."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        on_change: Callable[[], None],
        *,
        ask: Callable[[ServiceDefinition, HealthCheck], Awaitable[str]] = probe,
    ) -> None:
        self._group, self._on_change, self._ask = group, on_change, ask
        self._running: dict[Name, tuple[ServiceDefinition, asyncio.Task[None]]] = {}
        self._tallies: dict[Name, Tally] = {}

    def update(self, definitions: Iterable[ServiceDefinition]) -> None:
        wanted = {(d.namespace, d.name): d for d in definitions}
        for name, (definition, task) in list(self._running.items()):
            if wanted.get(name) != definition:
                task.cancel()
                del self._running[name]
        for gone in self._tallies.keys() - wanted.keys():
            del self._tallies[gone]
        for name, definition in wanted.items():
            if definition.health is None:
                # Nothing to ask: what the operator defined is taken to be there.
                self._tallies[name] = Tally(health="healthy", reason="")
            elif name not in self._running:
                self._tallies.setdefault(name, Tally())
                self._running[name] = (definition, self._group.create_task(self._loop(name, definition)))

    def doubt(self, name: Name) -> None:
        """It was stopped and started: it is healthy again when it has answered again."""
        if name in self._running:
            self._tallies[name] = Tally()

    def health(self, definition: ServiceDefinition) -> Health:
        return self._tallies.get((definition.namespace, definition.name), Tally()).health

    @property
    def tallies(self) -> Mapping[Name, Tally]:
        return self._tallies

    async def _loop(self, name: Name, definition: ServiceDefinition) -> None:
        check = definition.health
        assert check is not None
        while True:
            failure = await self._ask(definition, check)
            before = self._tallies.get(name, Tally())
            after = observe(before, check, failure)
            self._tallies[name] = after
            if after.health != before.health:
                log.info("health changed", service=f"{name[1]}.{name[0]}", health=after.health, reason=failure)
                self._on_change()
            await pause(max(0.05, check.interval_seconds))
