"""What was changed, when and by whom: one entry for each apply, written in the apply's own transaction. Pure.

An entry is two values under one name: a summary, which lists are made of, and the objects before and after, which are
read one entry at a time. Both are bounded, so that a call which fits into a transaction still fits with its entry;
what found no room is said to be left out. The entry's revision is not in it: it is that of the key.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from mesh import codec, keys
from mesh.model import Frozen, Ref
from mesh.store.protocol import Item, Put

Action = Literal["created", "configured", "unchanged", "deleted"]
Source = Literal["apply", "put", "delete", "revert"]
"""revert: what a proxy refused was put back to what it was."""

MAX_ENTRIES = 1000
MAX_AGE_SECONDS = 30 * 86400.0
MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""Of the objects of all entries; the store's own quota is counted in a few GiB."""
SUMMARY_BYTES = 128 * 1024
OBJECTS_BYTES = 256 * 1024
FRAME_BYTES = 1024
"""What a summary needs at most beside the objects that it names."""

LEFT_OUT = "left out: the entry would be too large"
UNREADABLE = "what it was before cannot be read"

_NAME = re.compile(r"(\d{13})-[0-9a-f]{8}\Z")


@dataclass(frozen=True, slots=True)
class Change:
    """One object that an apply writes or deletes, as stored."""

    ref: Ref
    action: Action
    before: bytes | None = None
    after: bytes | None = None


class Touched(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    object: str
    action: Action


class Summary(Frozen, frozen=True, kw_only=True):
    author: str
    """As the transaction declares it: `operator:<name>`."""
    moment: float
    """Unix seconds."""
    source: Source
    epoch: str = ""
    """Of the store then. Under another one, revisions mean something else."""
    objects: tuple[Touched, ...] = ()
    more: int = 0
    """Objects that are not named, for want of room."""
    size: int = 0
    """Bytes of the objects before and after."""


class Detail(Frozen, frozen=True, kw_only=True):
    object: str
    action: Action
    before: dict[str, Any] | None = None
    """As stored."""
    after: dict[str, Any] | None = None
    note: str = ""


class Details(Frozen, frozen=True, kw_only=True):
    objects: tuple[Detail, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of an apply besides its objects."""

    entry: str
    """From `name_of`; unique."""
    author: str
    moment: float
    source: Source
    epoch: str


def name_of(moment: float, unique: str) -> str:
    """An entry's name: names sort by time. `unique`: eight hexadecimal digits."""
    return f"{round(moment * 1000):013d}-{unique}"


def is_name(text: str) -> bool:
    return _NAME.match(text) is not None


def moment_of(name: str) -> float | None:
    """When an entry of this name was made; None: it is no entry's."""
    found = _NAME.match(name)
    return int(found[1]) / 1000 if found else None


def record(mark: Mark, changes: Sequence[Change], room: int) -> tuple[Put, Put]:
    """The summary and the objects of an entry, in no more than `room` bytes if these are enough for a bare summary."""
    named = tuple(Touched(object=str(change.ref)[:160], action=change.action) for change in changes)
    kept = _fit(named, min(SUMMARY_BYTES, room - 2 * FRAME_BYTES))
    left = min(OBJECTS_BYTES, room - 2 * FRAME_BYTES - sum(_size(touched) for touched in kept))
    details = codec.encode_struct(Details(objects=_documents(changes, left)))
    summary = Summary(
        author=mark.author,
        moment=mark.moment,
        source=mark.source,
        epoch=mark.epoch,
        objects=kept,
        more=len(named) - len(kept),
        size=len(details),
    )
    return (
        Put(keys.HISTORY_INDEX + keys.part(mark.entry), codec.encode_struct(summary)),
        Put(keys.HISTORY_OBJECTS + keys.part(mark.entry), details),
    )


def _fit(named: Sequence[Touched], room: int) -> tuple[Touched, ...]:
    for index, touched in enumerate(named):
        room -= _size(touched)
        if room < 0:
            return tuple(named[:index])
    return tuple(named)


def _documents(changes: Iterable[Change], room: int) -> tuple[Detail, ...]:
    """In order; an object whose documents find no room is told of without them, while that finds room."""
    found: list[Detail] = []
    for change in changes:
        detail = _detail(change)
        if _size(detail) > room:
            detail = Detail(object=detail.object, action=change.action, note=LEFT_OUT)
        if (size := _size(detail)) > room:
            break
        room -= size
        found.append(detail)
    return tuple(found)


def _detail(change: Change) -> Detail:
    before, after = _tree(change.before), _tree(change.after)
    note = UNREADABLE if before is None and change.before is not None else ""
    return Detail(object=str(change.ref)[:160], action=change.action, before=before, after=after, note=note)


def _tree(value: bytes | None) -> dict[str, Any] | None:
    try:
        return codec.decode_struct(dict[str, Any], value) if value is not None else None
    except codec.Undecodable:
        return None


def _size(part: msgspec.Struct) -> int:
    return len(codec.encode_struct(part)) + 1


def surplus(index: Iterable[Item], now: float) -> tuple[Item, ...]:
    """Entries that are too many, too old or too large to be kept, of all that there are."""
    gone: list[Item] = []
    kept = total = 0
    for item in sorted(index, key=lambda item: item.key, reverse=True):
        moment = moment_of(item.key.removeprefix(keys.HISTORY_INDEX))
        total += _bytes(item)
        old = moment is None or moment + MAX_AGE_SECONDS < now
        if old or kept >= MAX_ENTRIES or total > MAX_TOTAL_BYTES:
            gone.append(item)
        else:
            kept += 1
    return tuple(gone)


def _bytes(item: Item) -> int:
    try:
        return len(item.value) + codec.decode_struct(Summary, item.value).size
    except codec.Undecodable:
        return len(item.value) + OBJECTS_BYTES
