"""Virtual addresses of Services that are called by name here, and capture ports of identities that call. Pure.

    what is needed, what is held, now -> what is held then

A place is derived from the hash of its name, so that it is the same on most hosts and after a loss of the disk; where
that one is taken, the next one is tried. Whoever has a place keeps it. One that is not needed any more is kept free for
a long time: applications remember addresses, and must not reach another Service at one that they remember.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from mesh.model import Frozen

MAX_HELD = 4096
"""Of each kind. Beyond it what was given up longest ago makes room, and at last nothing more is given."""

KEPT_SECONDS = 30 * 86400.0
"""Long after an application has forgotten the address of a Service that it called."""

# 127.64.0.0/10 without the first and last address of each /24: some software takes those for networks and broadcasts.
_NETWORKS = 1 << 14
_HOSTS = 254

FIRST_PORT, PORTS = 16400, 2000
"""Capture ports: below those that Linux gives to outgoing connections (32768 and up)."""


class Place(Frozen, frozen=True, kw_only=True):
    at: str
    """Address or port."""
    unused_since: float = 0.0
    """Unix seconds; 0: it is needed."""


class Held(Frozen, frozen=True, kw_only=True):
    """What is on disk."""

    addresses: dict[str, Place] = {}
    """By `<namespace>/<service>`."""
    ports: dict[str, Place] = {}
    """By `<namespace>/<service-account>`."""


@dataclass(frozen=True, slots=True)
class Needed:
    services: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()
    taken: frozenset[int] = frozenset()
    """Ports of this host that somebody else listens on."""


def allocate(needed: Needed, held: Held, now: float) -> Held:
    """Everything needed has a place then, unless there is none left."""
    ports = {name: place for name, place in held.ports.items() if int(place.at) not in needed.taken}
    return Held(
        addresses=_given(needed.services, held.addresses, address, _NETWORKS * _HOSTS, (), now),
        ports=_given(needed.identities, ports, port, PORTS, map(str, needed.taken), now),
    )


def address(number: int) -> str:
    """One of 127.64.0.0/10."""
    network, host = divmod(number, _HOSTS)
    return f"127.{64 + (network >> 8)}.{network & 0xFF}.{host + 1}"


def port(number: int) -> str:
    return str(FIRST_PORT + number)


def sound(held: Held) -> Held:
    """Without what no allocation of ours can have made: a file may have been edited."""
    return Held(
        addresses=_sound(held.addresses, _is_address),
        ports=_sound(held.ports, lambda at: at.isdecimal() and FIRST_PORT <= int(at) < FIRST_PORT + PORTS),
    )


def _given(
    names: frozenset[str],
    held: Mapping[str, Place],
    place: Callable[[int], str],
    size: int,
    taken: Iterable[str],
    now: float,
) -> dict[str, Place]:
    # A clock that was set back must not keep a place for ever.
    kept = {name: _unused(found, now) for name, found in held.items() if name not in names}
    kept = {name: found for name, found in kept.items() if now - found.unused_since < KEPT_SECONDS}
    given = {name: Place(at=held[name].at) for name in sorted(names) if name in held}
    room = min(MAX_HELD, size - 1) - len(given)
    missing = sorted(names - given.keys())[: max(0, room)]
    oldest = sorted(kept, key=lambda name: (kept[name].unused_since, name))
    for name in oldest[: max(0, len(missing) + len(kept) - room)]:
        del kept[name]
    used = {*taken, *(found.at for found in (*kept.values(), *given.values()))}
    for name in missing:
        if found := _free(name, place, size, used):
            used.add(found)
            given[name] = Place(at=found)
    return dict(sorted({**kept, **given}.items()))


def _unused(found: Place, now: float) -> Place:
    since = found.unused_since
    return Place(at=found.at, unused_since=since if 0 < since <= now else now)


def _free(name: str, place: Callable[[int], str], size: int, used: Collection[str]) -> str:
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % size
    tried = (place((first + step) % size) for step in range(min(size, len(used) + 1)))
    return next((at for at in tried if at not in used), "")


def _sound(held: Mapping[str, Place], fits: Callable[[str], bool]) -> dict[str, Place]:
    """Each place once."""
    found: dict[str, Place] = {}
    seen: set[str] = set()
    for name in sorted(held, key=lambda name: (held[name].unused_since > 0, name)):
        if fits(held[name].at) and held[name].at not in seen:
            seen.add(held[name].at)
            found[name] = held[name]
    return found


def _is_address(text: str) -> bool:
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isdecimal() and len(part) <= 3 and str(int(part)) == part for part in parts):
        return False
    first, second, third, last = map(int, parts)
    return first == 127 and 64 <= second < 128 and third < 256 and 1 <= last <= _HOSTS
