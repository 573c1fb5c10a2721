"""What came into force in Envoy, one snapshot after the other: which endpoints came, went, or got another standing.

Pure. A snapshot that comes into force costs a look at what changed; assignments are read when somebody asks.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mesh import pb
from mesh.compile.endpoints import SOCKET, SOCKET_MATCH
from mesh.compile.types import Resource, Resources, Snapshot
from mesh.model import Revision
from mesh.model.checks import place

MAX_BYTES = 1 << 20
"""Of the assignments that are kept, before and after each change; older entries make room."""


class Standing(NamedTuple):
    """How an endpoint is in a load assignment. Any other field: other traffic."""

    far: bool
    """It is of another cluster, or leads to one."""
    health: str
    weight: int
    priority: int
    share: int
    """Weight of its locality among others; 0: none is set."""


class Change(NamedTuple):
    """Of one endpoint in one assignment. Nothing before: it is new; nothing after: it is gone."""

    cluster: str
    endpoint: str
    """address:port; where one is there several times, all but the first with the name of their TLS context."""
    before: Standing | None
    after: Standing | None


class Entry(NamedTuple):
    number: int
    """Counts the snapshots that came into force since the agent began, the first is 1."""
    at: float
    """Unix seconds."""
    revision: Revision
    """Of the newest key in it."""
    assignments: Mapping[str, tuple[bytes, bytes]]
    """Those that are new, gone or different, as they were and are; empty where there is none."""

    @property
    def size(self) -> int:
        return sum(len(before) + len(after) for before, after in self.assignments.values())


def assignments(before: Snapshot | None, after: Snapshot) -> dict[str, tuple[bytes, bytes]]:
    """Load assignments in which the two differ, encoded, by name."""
    old: Resources = before.resources.get(pb.ENDPOINT, {}) if before else {}
    new = after.resources.get(pb.ENDPOINT, {})
    if old is new:
        return {}
    known = before is not None and after.base == before.digest
    names = after.changed.get(pb.ENDPOINT, frozenset()) if known else {*old, *new}
    found = {name: (old.get(name), new.get(name)) for name in names}
    return {name: (_body(was), _body(now)) for name, (was, now) in found.items() if _version(was) != _version(now)}


def _body(resource: Resource | None) -> bytes:
    return resource.body if resource else b""


def _version(resource: Resource | None) -> str:
    return resource.version if resource else ""


def standings(body: bytes) -> dict[str, Standing]:
    """Endpoint -> how it is in this assignment. Empty: no assignment."""
    found: dict[str, Standing] = {}
    assignment = pb.ClusterLoadAssignment.FromString(body)
    for group in assignment.endpoints:
        for one in group.lb_endpoints:
            address = one.endpoint.address.socket_address
            name = place(address.address, address.port_value)
            if name in found:
                sockets = one.metadata.filter_metadata.get(SOCKET_MATCH)
                name += f" {sockets[SOCKET]}" if sockets is not None and SOCKET in sockets else ""
            found[name] = Standing(
                far=one.endpoint.health_check_config.disable_active_health_check,
                health=pb.HealthStatus.Name(one.health_status).lower(),
                weight=one.load_balancing_weight.value,
                priority=group.priority,
                share=group.load_balancing_weight.value,
            )
    return found


def changes(found: Mapping[str, tuple[bytes, bytes]]) -> Iterator[Change]:
    """Endpoint by endpoint, what `assignments` found."""
    for name, (before, after) in sorted(found.items()):
        old, new = standings(before), standings(after)
        for endpoint in sorted({*old, *new}):
            if old.get(endpoint) != new.get(endpoint):
                yield Change(name, endpoint, old.get(endpoint), new.get(endpoint))


class Applied:
    """The last of what came into force, within MAX_BYTES."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._last: Snapshot | None = None
        self._number = self._size = self._forgotten = 0

    def note(self, at: float, revision: Revision, snapshot: Snapshot) -> None:
        """It is in force from now on. The same one again is no news."""
        if self._last is not None and self._last.digest == snapshot.digest:
            return
        self._number += 1
        found = assignments(self._last, snapshot)
        self._last = snapshot
        if not found:
            return
        entry = Entry(self._number, at, revision, found)
        self._entries.append(entry)
        self._size += entry.size
        while self._size > MAX_BYTES and len(self._entries) > 1:
            oldest = self._entries.popleft()
            self._size, self._forgotten = self._size - oldest.size, oldest.number

    def document(self) -> dict[str, Any]:
        """For whoever asks; what was in force first is all new. After the number `forgotten`, nothing is missing."""
        return {
            "snapshots": self._number,
            "forgotten": self._forgotten,
            "entries": [_entry(entry) for entry in self._entries],
        }


def _entry(entry: Entry) -> dict[str, Any]:
    said = [
        {
            "assignment": change.cluster,
            "endpoint": change.endpoint,
            "before": change.before._asdict() if change.before else None,
            "after": change.after._asdict() if change.after else None,
        }
        for change in changes(entry.assignments)
    ]
    return {"number": entry.number, "at": entry.at, "revision": entry.revision, "changes": said}
