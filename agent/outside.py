"""What an agent needs of the world outside: clock, chance, Envoy, the CA, the store. Real, or fakes that behave."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.envoy.admin import ServerInfo
from agent.envoy.process import EnvoyState
from agent.identity.join import Exchange
from agent.resolver import Lookup
from mesh.compile.types import Snapshot
from mesh.model import Identity
from mesh.store.protocol import Store


class EnvoyOutside(Protocol):
    """agent.envoy.process.Envoy, as far as it is needed."""

    async def ensure(self) -> str: ...
    async def stop(self, *, drain: bool = True, timeout: float | None = None) -> None: ...  # noqa: ASYNC109
    def state(self) -> EnvoyState: ...
    async def info(self) -> ServerInfo | None: ...
    async def warming(self) -> int: ...
    async def prometheus(self) -> bytes: ...
    async def config_dump(self) -> Any: ...
    async def stats(self, pattern: str) -> Mapping[str, int]: ...
    async def hot_restart(self, *, timeout: float = 60.0) -> None: ...  # noqa: ASYNC109
    async def renew_launcher(self) -> None: ...
    async def validate(self, snapshot: Snapshot) -> str | None: ...


OpenStore = Callable[[Sequence[str], Sequence[str], Identity], Store]
"""Gates, roots and our identity -> a store. Opened anew when one of them is."""


@dataclass(frozen=True, slots=True)
class Outside:
    envoy: EnvoyOutside
    exchange: Exchange
    open_store: OpenStore
    clock: Callable[[], float]
    look_up: Lookup
    rng: random.Random
    version: str
