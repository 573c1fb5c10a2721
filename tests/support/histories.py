"""What came into force at many agents: their own histories (`holdfast-agent history`), read together."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent.admin import ask
from agent.applied import Standing

Agent = tuple[str, str]
"""Cluster and node."""
Marks = Mapping[Agent, tuple[float, int]]
"""When an agent was started, and how many snapshots it has put into force."""


class Seen(NamedTuple):
    """A change of one endpoint, at one agent."""

    agent: Agent
    at: float
    assignment: str
    endpoint: str
    before: Standing | None
    after: Standing | None

    @property
    def local(self) -> bool:
        """Was it, or is it, an endpoint of the agent's own cluster?"""
        return any(not standing.far for standing in (self.before, self.after) if standing)


class Histories:
    def __init__(self, sockets: Callable[[], Mapping[Agent, Path]]) -> None:
        """`sockets`: of the agents that there are now."""
        self._sockets = sockets

    async def marks(self) -> Marks:
        """Where each agent is now."""
        told = await self._told()
        return {agent: (body["started"], body["snapshots"]) for agent, body in told.items()}

    async def since(self, marks: Marks) -> list[Seen]:
        """All that came into force after the marks. Of agents that were not there then: what changed after their
        first snapshot.
        """
        found: list[Seen] = []
        for agent, body in (await self._told()).items():
            started, number = marks.get(agent, (body["started"], 1))
            assert body["started"] == started, f"{agent} was started anew: what it knew before is gone"
            assert body["forgotten"] <= number, f"{agent} forgot some of what came into force since"
            found += [seen for entry in body["entries"] if entry["number"] > number for seen in _seen(agent, entry)]
        return sorted(found, key=lambda one: one.at)

    async def _told(self) -> dict[Agent, dict[str, Any]]:
        sockets = self._sockets()
        bodies = await asyncio.gather(*(ask(path, "history") for path in sockets.values()))
        return dict(zip(sockets, bodies, strict=True))


def _seen(agent: Agent, entry: Mapping[str, Any]) -> Iterable[Seen]:
    for change in entry["changes"]:
        before, after = (Standing(**change[side]) if change[side] else None for side in ("before", "after"))
        yield Seen(agent, entry["at"], change["assignment"], change["endpoint"], before, after)
