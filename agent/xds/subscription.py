"""What one client wants of one resource type, and what it holds.

`dirty` names are those whose state may differ from the target. Everything here costs what is dirty, not what exists.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mesh.compile.types import Resource, Resources

WILDCARD = "*"
ABSENT = ""
"""Held version of a name that the client was told does not exist."""
UNKNOWN = "\0"
"""Held version after a refusal: Envoy applies the good part of a refused response, so either version may be there."""

Pair = tuple[str, str]
"""Name and version; version ABSENT for a removal."""

Part = Literal["upserts", "removals", "both"]
"""Of what is due for a type. Upserts include the first answer to names that do not exist."""


@dataclass(frozen=True, slots=True)
class Due:
    """What should be sent now, and whether something must wait because it was refused."""

    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    withheld: bool = False

    @property
    def pairs(self) -> frozenset[Pair]:
        return frozenset({(r.name, r.version) for r in self.resources} | {(name, ABSENT) for name in self.removed})


class Subscription:
    def __init__(self) -> None:
        self.opened = False
        self.wildcard = False
        self.owes = False
        """A first wildcard request is answered even if there is nothing to say: Envoy waits for it."""
        self.names: set[str] = set()
        self.held: dict[str, str] = {}
        self._dirty: set[str] = set()
        self._refused: dict[Part, list[frozenset[Pair]]] = {}
        """Refused sets. In each, at least one member is guilty."""

    def open(
        self,
        names: Iterable[str],
        versions: Mapping[str, str],
        target: Resources,
        *,
        legacy: bool,
        distrust: frozenset[str] = frozenset(),
    ) -> None:
        """The first request of a stream for this type; versions are what the client says it still holds.

        Of the names in `distrust` it may hold something else than it says; also of those that it does not name.
        """
        self.opened = True
        names = set(names)
        self.names = names - {WILDCARD}
        self.wildcard = WILDCARD in names or (legacy and not names)
        self.owes = self.wildcard
        said = {**versions, **dict.fromkeys(distrust, UNKNOWN)}
        self.held = {name: version for name, version in said.items() if self.wildcard or name in self.names}
        self._dirty = self.names | self.held.keys()
        if self.wildcard:
            self._dirty |= target.keys()

    def change(self, subscribe: Iterable[str], unsubscribe: Iterable[str], target: Resources) -> None:
        """Later requests. What is subscribed anew is sent anew, even if it is held (xDS protocol, delta)."""
        for name in subscribe:
            if name == WILDCARD:
                self.wildcard = self.owes = True
                self._dirty |= target.keys()
            else:
                self.names.add(name)
                self.forget(name)
        for name in unsubscribe:
            if name == WILDCARD:
                self.wildcard = False
                self.held = {held: version for held, version in self.held.items() if held in self.names}
                self._dirty &= self.names
            elif name in self.names:
                self.names.discard(name)
                self.held.pop(name, None)
                self._dirty.discard(name)
                if self.wildcard and name in target:
                    self._dirty.add(name)

    def forget(self, name: str) -> None:
        """Send this name again, if it is wanted. If it is held and gone, that is a removal and waits for its turn."""
        if self.wildcard or name in self.names:
            if self.held.pop(name, ABSENT) != ABSENT:
                self.held[name] = UNKNOWN
            self._dirty.add(name)

    def touch(self, changed: Iterable[str]) -> None:
        """These names differ between the last target and the next one."""
        if not self.opened:
            return
        self._dirty.update(changed if self.wildcard else self.names.intersection(changed))

    def due(self, target: Resources, part: Part) -> Due:
        """What the client should get to hold this target."""
        resources, removed, settled = [], [], []
        for name in self._dirty:
            resource, held = target.get(name), self.held.get(name)
            if resource is not None:
                if held == resource.version:
                    settled.append(name)
                elif part != "removals":
                    resources.append(resource)
            elif held == ABSENT or (held is None and name not in self.names):
                settled.append(name)
            elif part == "both" or (part == "upserts") == (held is None):
                removed.append(name)
        self._dirty.difference_update(settled)
        resources.sort(key=lambda r: r.name)
        return self._less_refused(Due(tuple(resources), tuple(sorted(removed))), part)

    def sent(self, due: Due) -> None:
        """Assume that the client takes it; `refuse` takes that back."""
        self.owes = False
        for resource in due.resources:
            self.held[resource.name] = resource.version
        for name in due.removed:
            if name in self.names:
                self.held[name] = ABSENT
            else:
                self.held.pop(name, None)
        self._dirty.difference_update(r.name for r in due.resources)
        self._dirty.difference_update(due.removed)

    def refuse(self, pairs: frozenset[Pair], part: Part) -> None:
        """The client refused a response with these pairs; no response will ever contain all of them again."""
        if not pairs:
            return
        self._refused.setdefault(part, []).append(pairs)
        for name, _ in pairs:
            if self.wildcard or name in self.names:
                self.held[name] = UNKNOWN
                self._dirty.add(name)

    @property
    def unsure(self) -> set[str]:
        """Names of which the client may hold something else than it was told last."""
        return {name for name, version in self.held.items() if version == UNKNOWN}

    def _less_refused(self, due: Due, part: Part) -> Due:
        refused = self._refused.get(part)
        if not refused:
            return due
        pairs = due.pairs
        # A set that cannot recur, since a member changed or is no longer wanted, says nothing any more.
        self._refused[part] = refused = [r for r in refused if r <= pairs]
        barred = {name for r in refused for name, _ in r}
        if not barred:
            return due
        return Due(
            tuple(r for r in due.resources if r.name not in barred),
            tuple(name for name in due.removed if name not in barred),
            withheld=True,
        )
