"""Registration: all instances of this host, whole, until the control plane has taken them."""

import random
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from agent.uplink import RefusedByControlPlane, Unreachable
from mesh.aio import Backoff, Latest, pause
from mesh.model import Instance
from mesh.model.uplink import RegisterAnswer, RegisterRequest

log = structlog.get_logger(__name__)

BASE, CAP = 0.2, 15.0


class Registry(Protocol):
    """Who keeps registrations. Raises Unreachable or RefusedByControlPlane, nothing else."""

    async def register(self, request: RegisterRequest) -> RegisterAnswer: ...


class Registrar:
    """Sends the newest registration; a newer one replaces it also while it is being retried."""

    def __init__(
        self,
        registry: Registry,
        instances: Callable[[], tuple[Instance, ...]],
        *,
        on_registered: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self._registry, self._instances, self._on_registered = registry, instances, on_registered
        self._wanted: Latest[bool] = Latest()
        self._rng = rng
        self.refused: Mapping[str, str] = {}
        """Instance -> reason, of the last registration."""
        self.known: tuple[Instance, ...] | None = None
        """What the control plane was told last; None: nothing yet."""
        self.problem = ""
        """Why the last one did not go through."""
        self._leaving = False

    def request(self) -> None:
        """Something about the instances is new."""
        self._wanted.put(True)

    async def run(self) -> None:
        while True:
            await self._wanted.take()
            backoff = Backoff(self._rng, base=BASE, cap=CAP)
            while not await self._once():
                await pause(backoff.next())

    async def _once(self) -> bool:
        # Read at each try: what changed since the last one is in it.
        instances = () if self._leaving else self._instances()
        try:
            answer = await self._registry.register(RegisterRequest(instances=instances))
        except Unreachable as exc:
            self.problem = str(exc)
            log.warning("registration failed, will retry", error=str(exc))
            return False
        except RefusedByControlPlane as exc:
            # The same again would be refused again: wait for a change, or for a control plane that comes back.
            self.problem = str(exc)
            log.error("registration refused", error=str(exc))  # noqa: TRY400 - the reason is the message
            return True
        self.problem, self.refused, self.known = "", dict(answer.refused), instances
        for name, reason in answer.refused.items():
            log.warning("instance refused", instance=name, reason=reason)
        log.info("registered", instances=len(instances) - len(answer.refused), revision=answer.revision)
        self._on_registered()
        return True

    async def withdraw(self) -> None:
        """Register nothing: callers are sent elsewhere. One try; raises what Registry raises."""
        self._leaving = True
        await self._registry.register(RegisterRequest(instances=()))
