"""What was received, and the World it makes. Pure: events in, worlds out; no store, no clock, no disk.

Raw values are kept beside the World, since the disk must hold what was received, and a resume must know its revisions.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.state import StoredRange, StoredWorld
from mesh import codec, keys
from mesh.codec import StoredEvent
from mesh.model import Revision, World
from mesh.model.world import EpochChanged, Undecodable
from mesh.store.follow import Known


@dataclass(frozen=True, slots=True)
class _Event:
    key: str
    value: bytes | None
    revision: Revision


@dataclass(slots=True)
class _Range:
    values: dict[str, bytes] = field(default_factory=dict)
    bad: dict[str, bytes] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    """Keys whose deletion is held back; they are still in `values`."""
    revision: Revision = Revision(0)
    listed: bool = False
    """It is known whole, from the store or from disk."""


class Gathered:
    """Mutable: the watch's own. `world` is immutable and may be handed out."""

    def __init__(self, stored: StoredWorld | None = None) -> None:
        self.world = World()
        self.newest = Revision(0)
        """Of any range; `world.revision` is that of the objects alone, which is what operators wait for."""
        self._ranges: dict[str, _Range] = {}
        self._known: dict[str, Known] = {}
        if stored is not None:
            self._restore(stored)

    def _restore(self, stored: StoredWorld) -> None:
        if stored.epoch:
            self.world = self.world.apply([EpochChanged(stored.epoch)], Revision(0))
        for prefix, kept in stored.ranges.items():
            revision = Revision(kept.known.revision)
            seen = {key: Revision(changed) for key, (changed, _) in kept.known.keys.items()}
            events = [_Event(key, value, seen.get(key, revision)) for key, value in kept.values.items()]
            events += [_Event(key, value, seen.get(key, revision)) for key, value in kept.bad.items()]
            self.take(prefix, revision, events)
            place = self._ranges[prefix]
            place.held = {key for key in kept.values if key not in seen}
            place.listed = True
            self._known[prefix] = kept.known

    # --- what comes from the store ---

    def take(self, prefix: str, revision: Revision, events: Sequence[StoredEvent], *, listed: bool = False) -> bool:
        """Apply one revision's changes, or a listing's differences. True: the world is another one."""
        place = self._ranges.setdefault(prefix, _Range())
        changes = codec.changes(events)
        bad = {change.key: change.reason for change in changes if isinstance(change, Undecodable)}
        for event in events:
            place.held.discard(event.key)
            if event.value is None:
                place.values.pop(event.key, None)
                place.bad.pop(event.key, None)
            elif event.key in bad:
                place.bad[event.key] = event.value
            else:
                place.values[event.key] = event.value
                place.bad.pop(event.key, None)
        place.listed = place.listed or listed
        before = self.world
        self.world = before.apply(changes, self._advance(prefix, place, revision))
        return bool(changes)

    def hold(self, prefix: str, deleted: Iterable[StoredEvent]) -> None:
        """These keys are gone from the store and stay in force here."""
        place = self._ranges.setdefault(prefix, _Range())
        place.held.update(event.key for event in deleted if event.key in place.values)

    def release(self, prefixes: Iterable[str] | None = None) -> bool:
        """Let go of what was held back. True: the world is another one."""
        changed = False
        for prefix in list(self._ranges) if prefixes is None else list(prefixes):
            place = self._ranges.get(prefix)
            if place is None or not place.held:
                continue
            gone = [_Event(key, None, place.revision) for key in sorted(place.held)]
            changed = self.take(prefix, place.revision, gone) or changed
        return changed

    def progressed(self, prefix: str, revision: Revision) -> None:
        place = self._ranges.setdefault(prefix, _Range())
        self.world = self.world.apply((), self._advance(prefix, place, revision))

    def epoch(self, epoch: str) -> None:
        """As the store holds it: JSON text."""
        self.world = self.world.apply([EpochChanged(epoch.strip('"'))], self.world.revision)

    def forget(self, prefix: str) -> bool:
        """It is not followed any more. True: the world is another one."""
        self._known.pop(prefix, None)
        place = self._ranges.pop(prefix, None)
        if place is None or not (place.values or place.bad):
            return False
        gone = [_Event(key, None, place.revision) for key in sorted({*place.values, *place.bad})]
        self.world = self.world.apply(codec.changes(gone), self.world.revision)
        return True

    def _advance(self, prefix: str, place: _Range, revision: Revision) -> Revision:
        place.revision = revision
        self.newest = max(self.newest, revision)
        return revision if prefix == keys.OBJECTS else self.world.revision

    # --- what is asked of it ---

    def listed(self, prefixes: Iterable[str]) -> bool:
        """Are all of these known whole?"""
        return all(prefix in self._ranges and self._ranges[prefix].listed for prefix in prefixes)

    def value(self, prefix: str, key: str) -> bytes | None:
        place = self._ranges.get(prefix)
        return place.values.get(key) if place else None

    def prefixes(self) -> Collection[str]:
        """The ranges of which something was heard."""
        return self._ranges.keys()

    def revision(self, prefix: str) -> Revision:
        """How far this range was seen."""
        place = self._ranges.get(prefix)
        return place.revision if place else Revision(0)

    def count(self, prefix: str) -> int:
        """How many keys of this range are in force."""
        place = self._ranges.get(prefix)
        return len(place.values) if place else 0

    @property
    def held(self) -> int:
        """How many deletions are held back."""
        return sum(len(place.held) for place in self._ranges.values())

    def held_in(self, prefix: str) -> int:
        """How many in this range."""
        place = self._ranges.get(prefix)
        return len(place.held) if place else 0

    def followed(self, known: Mapping[str, Known]) -> None:
        """How far the follower is, for its successor and for the disk."""
        self._known.update(known)

    def known(self, prefixes: Iterable[str]) -> dict[str, Known]:
        """Where a follower of these may go on."""
        return {prefix: self._known[prefix] for prefix in prefixes if prefix in self._known}

    def stored(self) -> StoredWorld:
        """For the disk; values are shared, maps are not."""
        return StoredWorld(
            epoch=self.world.epoch,
            ranges={
                prefix: StoredRange(known=self._known[prefix], values=dict(place.values), bad=dict(place.bad))
                for prefix, place in self._ranges.items()
                if place.listed and prefix in self._known
            },
        )
