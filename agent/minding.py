"""Looks, now and then, whether what this host gives is enough and as the settings say. What is not, is told."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from agent import addresses, limits, procfs
from agent.settings import Settings
from mesh.aio import pause

log = structlog.get_logger(__name__)

LOOK_SECONDS = 10.0


def wanted(settings: Settings) -> limits.Wanted:
    """What Envoy is set to take."""
    return limits.Wanted(settings.envoy.max_connections, _heap_mib(settings) * 2**20)


def _heap_mib(settings: Settings) -> int:
    if settings.envoy.max_heap_mib is not None:
        return settings.envoy.max_heap_mib
    # A unit of its own has its own limit, which is not the agent's: the host's is what is known.
    memory = procfs.memory() if settings.envoy_is_a_unit else procfs.limits_of("self").memory
    return limits.heap_mib(memory)


def look(settings: Settings, envoys: Sequence[int]) -> tuple[str, ...]:
    """What is not enough, or wrong, now.

    Args:
        settings: The agent's.
        envoys: Pids of the Envoys that run.

    """
    found = [*limits.of_agent(procfs.limits_of("self"))]
    for pid in envoys[:1]:
        found += limits.of_envoy(procfs.limits_of(pid), wanted(settings))
    found.append(addresses.fault(settings, addresses.own(), addresses.here))
    return tuple(warning for warning in found if warning)


class Minder:
    def __init__(self, settings: Settings, envoys: Callable[[], Sequence[int]], on_change: Callable[[], None]) -> None:
        self.warnings: tuple[str, ...] = ()
        self._settings, self._envoys, self._on_change = settings, envoys, on_change

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            found = await asyncio.to_thread(look, self._settings, tuple(self._envoys()))
            before, self.warnings = self.warnings, found
            for warning in found:
                if warning not in before:
                    log.warning("this host gives too little, or is not as set", warning=warning)
            if found != before:
                self._on_change()
            await pause(LOOK_SECONDS)
