"""Out of service and back, and Envoy's upgrade: what an operator orders, here or over the uplink."""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from agent import events as ev
from agent.admin import AdminError, Command
from agent.assembly import Assembly
from agent.departing import Departures
from agent.envoy.admin import AdminError as EnvoyAdminError
from agent.envoy.process import EnvoyError
from agent.uplink import Answers
from mesh.model import Object

log = structlog.get_logger(__name__)


class Keeping:
    def __init__(self, agent: Assembly) -> None:
        self._agent = agent
        self._departures = Departures(agent.outside.envoy.stats, self._objects, lambda: agent.registrar.known)

    def _objects(self) -> Iterable[Object]:
        return self._agent.watch.world.objects.values()

    def commands(self) -> dict[str, Command]:
        """What the admin socket takes. Of drains: `<name>.<namespace>`, or nothing for the host."""
        return {
            "drain": self.drain,
            "undrain": self.undrain,
            "drained": self.drained,
            "envoy-restart": self.restart_envoy,
        }

    def answers(self) -> Answers:
        """What the control plane may ask: of the host alone."""

        async def drain(_: str) -> str:
            return _text(await self.drain())

        async def undrain(_: str) -> str:
            return _text(await self.undrain())

        async def drained(_: str) -> str:
            return _text(await self.drained())

        return {"drain": drain, "undrain": undrain, "drained": drained}

    async def drain(self, what: str = "") -> Any:
        """Out of service from now on. It is told that it was: how far it is, `drained` tells."""
        agent, what = self._agent, self._named(what)
        await asyncio.to_thread(agent.host.drain, what, agent.outside.clock())
        self._departures.forget(what)
        log.info("out of service", what=what or "the host")
        agent.runtime.post(ev.HealthChanged())
        agent.report()
        return await self.drained(what)

    async def undrain(self, what: str = "") -> Any:
        """Back in service, as soon as it is healthy."""
        agent, what = self._agent, self._named(what)
        await asyncio.to_thread(agent.host.undrain, what)
        if what and agent.monitor is not None:
            name, _, namespace = what.partition(".")
            agent.monitor.doubt((namespace, name))
        log.info("back in service", what=what or "the host")
        agent.runtime.post(ev.HealthChanged())
        agent.report()
        return self._status(what)

    async def drained(self, what: str = "") -> Any:
        """How far callers have left."""
        agent, what = self._agent, self._named(what)
        if not agent.host.drained.has(what) and not (not what and agent.host.drained.host is not None):
            return {**self._status(what), "done": False, "words": "in service"}
        leaving = agent.host.leaving(what, agent.monitor, agent.keeper.held) if agent.monitor else ()
        try:
            progress = await self._departures.progress(what, leaving)
        except EnvoyAdminError as exc:
            # No Envoy, no request: what is left is that callers hear of it.
            progress = {"done": False, "words": f"Envoy does not tell what is under way: {exc}"}
        if agent.uplink_problem and not progress["done"]:
            progress["words"] = f"no control plane to tell callers by: {agent.uplink_problem}"
        return {**self._status(what), **progress}

    def _status(self, what: str) -> dict[str, Any]:
        agent = self._agent
        return {
            "what": what or agent.settings.node,
            "services": {
                f"{s.service}": s.health
                for s in agent.host.statuses(agent.monitor, agent.keeper, {}, registered=agent.registered)
                if what in {"", s.service}
            }
            if agent.monitor
            else {},
        }

    def _named(self, what: str) -> str:
        """A service as `<name>.<namespace>`; its namespace may be left out where one name says it."""
        if not what:
            return ""
        names = [f"{d.name}.{d.namespace}" for d in self._agent.host.definitions.good]
        found = [name for name in names if what in {name, name.partition(".")[0]}]
        if len(found) != 1:
            reason = "is the name of several" if found else "is no service of this host"
            raise AdminError(f"{what[:80]!r} {reason}; there are {', '.join(sorted(names)) or 'none'}")
        return found[0]

    async def restart_envoy(self) -> Any:
        """What is installed now takes over from what runs, launcher included; no connection is lost."""
        agent = self._agent
        envoy, before = agent.outside.envoy, agent.supervisor.version
        try:
            await envoy.renew_launcher()
            await envoy.hot_restart()
        except EnvoyError as exc:
            raise AdminError(f"Envoy was not replaced: {exc}") from exc
        info = await envoy.info()
        agent.supervisor.version = info.version if info else before
        return {"before": before, "now": agent.supervisor.version, "epoch": envoy.state().epoch}


def _text(body: Any) -> str:
    return msgspec.json.encode(body).decode()
