"""What the agent tells of itself: facts gathered from its parts, for the uplink, the admin socket and Prometheus."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from agent import events as ev
from agent import metrics, status
from agent.admin import AdminError, Command
from agent.assembly import Assembly
from agent.dumping import Dumper
from agent.envoy.admin import AdminError as EnvoyAdminError
from agent.explaining import Explainer
from agent.keeping import Keeping
from agent.minding import Minder
from agent.pipeline import Offer
from agent.planning import Planner
from agent.scrape import Page
from agent.settings import DEFAULT_PATH
from agent.uplink import Answers
from mesh import pb
from mesh.model.uplink import Report

log = structlog.get_logger(__name__)

PAGE_BYTES = 4096
APPLIED_SECONDS = 15.0
"""Less than who asks over the admin socket is ready to wait."""


class Telling:
    def __init__(self, agent: Assembly, config: Path = DEFAULT_PATH) -> None:
        self._agent = agent
        self._planner = Planner(self._present, agent.outside.envoy.validate)
        self._explainer = Explainer(self._present)
        self._keeping = Keeping(agent)
        self._dumper = Dumper(config)
        self.minder = Minder(agent.settings, lambda: agent.outside.envoy.state().pids, agent.report)

    def _present(self) -> Offer | None:
        """What is offered to Envoy now."""
        return self._agent.pipeline.offer(self._agent.runtime.state.offered)

    # --- facts ---

    def facts(self) -> status.Facts:
        agent = self._agent
        state = agent.runtime.state
        return status.Facts(
            state=state,
            node=agent.settings.node,
            version=agent.outside.version,
            started=agent.started,
            now=agent.outside.clock(),
            epoch=agent.watch.world.epoch,
            envoy_version=agent.supervisor.version,
            rejected=agent.pipeline.rejected(),
            problems=self._problems(),
            warnings=self.minder.warnings,
            svids=agent.keeper.svids(),
            resources=self._resources(),
            held=agent.watch.held,
            runways=agent.keeper.runways(),
            instances=agent.host.statuses(
                agent.monitor, agent.keeper, dict(agent.registrar.refused), registered=agent.registered
            )
            if agent.monitor
            else (),
            store=agent.store_problem,
            controlplane=agent.uplink_problem,
            names=self._names(),
            capture=agent.redirector.state.capture,
            gates=agent.peers.gates(),
            controlplanes=agent.peers.controlplanes(),
            locality=agent.settings.locality,
            memory=_memory(),
            drained=agent.host.drained,
            applied_newest=agent.runtime.applied_newest if state.applied_digest else 0,
        )

    def _problems(self) -> tuple[str, ...]:
        agent = self._agent
        found = [agent.joiner.problem, agent.supervisor.problem, agent.saver.problem, agent.watch.held]
        if agent.registrar.problem:
            found.append(f"registration: {agent.registrar.problem}")
        found += [f"instance {name} is refused: {why}" for name, why in sorted(agent.registrar.refused.items())]
        found += agent.host.definitions.problems
        found += agent.keeper.problems()
        found += (agent.host.places.problem, *agent.redirector.state.problems, *agent.resolver.known.problems)
        if offer := agent.pipeline.offer(agent.runtime.state.offered):
            found += [f"{p.object or agent.settings.node}: {p.path}: {p.reason}" for p in offer.snapshot.problems]
        found += [f"{key}: {reason}" for key, reason in sorted(agent.watch.world.undecodable.items())]
        return tuple(problem for problem in found if problem)

    def _names(self) -> dict[str, str]:
        """What applications can call by name: as far as the helper said that it is done."""
        state = self._agent.redirector.state
        return {name.name: name.address for name in state.told.names} if state.told and state.done else {}

    def _resources(self) -> dict[str, int]:
        streams = self._agent.xds.streams()
        return {pb.SHORT.get(url, url): count for url, count in streams[-1].held.items()} if streams else {}

    def report(self) -> Report:
        """For the uplink."""
        return status.report(self.facts())

    # --- questions ---

    def answers(self) -> Answers:
        """What the control plane may ask over the uplink."""
        return {
            "config": self._config_text,
            "status": self._status_text,
            "plan": self._planner.plan,
            "judge": self._planner.judge,
            "dump": self._dumper.answer,
            "explain-call": self._explainer.call,
            "explain-answer": self._explainer.answer,
            **self._keeping.answers(),
        }

    async def _config_text(self, _: str) -> str:
        return msgspec.json.encode(await self.config()).decode()

    async def _status_text(self, _: str) -> str:
        return msgspec.json.encode(status.document(self.facts())).decode()

    async def config(self) -> Any:
        """Envoy's own words; it leaves secrets out by itself."""
        try:
            return await self._agent.outside.envoy.config_dump()
        except EnvoyAdminError as exc:
            raise AdminError(f"Envoy does not tell its configuration: {exc}") from exc

    def commands(self) -> dict[str, Command]:
        """What the admin socket takes."""
        return {
            "status": self._status,
            "applied": self._applied,
            "history": self._history,
            "config": self.config,
            "release": self._release,
            "reload": self._reload,
            "stop": self._stop,
            "leave": self._leave,
            **self._keeping.commands(),
        }

    async def _status(self) -> Any:
        return status.document(self.facts())

    async def _applied(self) -> Any:
        """Answers when another revision is in force than at the question, or after APPLIED_SECONDS."""
        runtime = self._agent.runtime
        with suppress(TimeoutError):
            async with asyncio.timeout(APPLIED_SECONDS):
                await runtime.growth()
        known = bool(runtime.state.applied_digest)
        return {
            "applied": runtime.state.applied if known else 0,
            "appliedNewest": runtime.applied_newest if known else 0,
        }

    async def _history(self) -> Any:
        """What came into force, for as long as it is remembered: `applied`."""
        return {"started": self._agent.started, **self._agent.applied.document()}

    async def _release(self) -> Any:
        return {"released": await self._agent.watch.release()}

    async def _reload(self) -> Any:
        return await self.reload()

    async def reload(self) -> Any:
        """Look at services.d now."""
        agent = self._agent
        if await asyncio.to_thread(agent.host.load):
            agent.definitions_changed()
        loaded = agent.host.definitions
        return {"services": [f"{d.name}.{d.namespace}" for d in loaded.good], "problems": list(loaded.problems)}

    async def _stop(self) -> Any:
        asyncio.get_running_loop().call_soon(self._agent.runtime.post, ev.Stop())
        return {"phase": "draining"}

    async def _leave(self) -> Any:
        self._agent.runtime.post(ev.Stop(drain=True))
        return {"phase": self._agent.runtime.state.phase}

    # --- pages ---

    def pages(self) -> dict[str, Page]:
        """For the scrape port."""
        return {"/metrics": self._metrics, "/healthz": self._health}

    async def _metrics(self) -> str:
        agent = self._agent
        own = metrics.page([*status.samples(self.facts()), *agent.counters.samples()])
        try:
            theirs = (await agent.outside.envoy.prometheus()).decode("utf-8", "replace")
        except EnvoyAdminError:
            return own
        return own + theirs

    async def _health(self) -> str:
        return self._agent.runtime.state.phase + "\n"


def _memory() -> int:
    """Resident bytes of this process."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
