"""Virtual addresses and capture ports, on disk: given out, kept, and given up by `virtual`."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import structlog

from agent import virtual
from agent.state import write_private
from agent.virtual import Held, Needed
from mesh.model import ServiceDefinition

log = structlog.get_logger(__name__)

MAX_BYTES = 16 * 1024 * 1024


class Places:
    """Not for two callers at once. It reads and writes the disk: call `give` in a thread."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._path = folder / "virtual.json"
        self._clock = clock
        self._held: Held | None = None
        self._stored: Held | None = None
        self.problem = ""

    def give(self, definitions: Iterable[ServiceDefinition], taken: Iterable[int]) -> None:
        """These definitions have their places then. They are on disk before anybody can hear of them."""
        if self._held is None:
            self._held = self._stored = self._read()
        self._held = virtual.allocate(_needed(tuple(definitions), taken), self._held, self._clock())
        if self._held == self._stored:
            return
        try:
            write_private(self._path, msgspec.json.format(msgspec.json.encode(self._held)))
        except OSError as exc:
            # They follow from the names: most will be the same after a restart.
            self.problem = f"virtual addresses cannot be kept in {self._path}: {exc.strerror}; free some room there"
            log.warning("virtual addresses are not on disk", file=str(self._path), error=str(exc))
        else:
            self._stored, self.problem = self._held, ""

    def look(self) -> None:
        """What was given out so far, without giving or writing anything."""
        self._held = self._stored = self._read()

    def addresses(self) -> dict[str, str]:
        """`<namespace>/<service>` -> where it is called by name."""
        return _needed_places(self._held.addresses) if self._held else {}

    def ports(self) -> dict[str, int]:
        """`<namespace>/<service-account>` -> where its listener is."""
        return {name: int(at) for name, at in _needed_places(self._held.ports).items()} if self._held else {}

    def _read(self) -> Held:
        try:
            with self._path.open("rb") as file:
                return virtual.sound(msgspec.json.decode(file.read(MAX_BYTES), type=Held))
        except FileNotFoundError:
            return Held()
        except (OSError, ValueError) as exc:
            log.warning(
                "virtual addresses on disk cannot be read and are made anew", file=str(self._path), error=str(exc)
            )
            return Held()


def _needed_places(held: dict[str, virtual.Place]) -> dict[str, str]:
    return {name: place.at for name, place in held.items() if not place.unused_since}


def _needed(definitions: tuple[ServiceDefinition, ...], taken: Iterable[int]) -> Needed:
    services, listening = set[str](), set(taken)
    for definition in definitions:
        listening.update(port.port for port in definition.ports)
        for upstream in definition.upstreams:
            number = upstream.listen.rpartition(":")[2]
            if not upstream.listen:
                called = upstream.called(definition.namespace)
                services.add(f"{called.namespace}/{called.name}")
            elif not upstream.listen.startswith("unix:") and number.isdecimal():
                listening.add(int(number))
    identities = frozenset(d.identity for d in definitions if d.called_by)
    return Needed(frozenset(services), identities, frozenset(listening))
