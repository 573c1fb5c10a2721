"""Backup and restore of everything in the store, as NDJSON: a head, one line a key, and a foot that says it is whole.

Values of the private part stay sealed as they are. What lives under a lease (elections, presence) is left out.

A restore writes in steps, so that a store of any size fits, and never leaves a half-restored store that looks whole:
first the epoch goes and a marker comes, then the keys, and the last transaction takes the marker away and writes a new
epoch. Agents read the new epoch and compare everything anew.

One value is not as it was saved: this mesh's own trust bundle gets a higher sequence, or peers refused its next root.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from ca import bundle
from controlplane.commit import add, declare, deleted_of
from mesh import codec, keys
from mesh.model import Frozen, Revision, TrustBundle
from mesh.store.protocol import Delete, Item, Op, Put, Store

FORMAT = 1
EPHEMERAL = (keys.ELECTIONS, keys.REPLICAS)
RESTORING = keys.PRIVATE + "restoring"
"""There while a restore is under way, or was broken off."""
STEP_OPS = 100
STEP_BYTES = 1_000_000
MAX_LINE_BYTES = 16 * 1024 * 1024

Progress = Callable[[str, int, int], None]
"""What is being done, how many, of how many."""


def silent(_what: str, _done: int, _total: int) -> None:
    """For those who do not show progress."""


class BackupError(Exception):
    """The backup cannot be used, or the store is not one to restore into."""


class Head(Frozen, frozen=True, kw_only=True):
    holdfast_backup: int
    revision: int
    trust_domain: str
    cluster: str
    created: float


class Line(Frozen, frozen=True, kw_only=True):
    key: str
    value: str = ""
    """The value as text, which it nearly always is."""
    base64: str = ""


class Foot(Frozen, frozen=True, kw_only=True):
    keys: int
    sha256: str
    """Of all key lines, in order."""


@dataclass(frozen=True, slots=True)
class Restored:
    keys: int
    deleted: int
    epoch: str
    revision: Revision


async def dump(store: Store, *, cluster: str, trust_domain: str, now: float) -> Iterator[bytes]:
    """The lines of a backup of one revision. The store has been read when this returns."""
    listing = await store.list(keys.ALL)
    head = Head(
        holdfast_backup=FORMAT, revision=listing.revision, trust_domain=trust_domain, cluster=cluster, created=now
    )
    kept = [item for item in listing.items if _kept(item.key) and item.key != RESTORING]
    return _lines(head, kept)


def _lines(head: Head, items: Iterable[Item]) -> Iterator[bytes]:
    yield msgspec.json.encode(head) + b"\n"
    digest, count = hashlib.sha256(), 0
    for item in items:
        line = _line(item)
        digest.update(line)
        count += 1
        yield line
    yield msgspec.json.encode(Foot(keys=count, sha256=digest.hexdigest())) + b"\n"


def _line(item: Item) -> bytes:
    try:
        line = Line(key=item.key, value=item.value.decode())
    except UnicodeDecodeError:
        line = Line(key=item.key, base64=base64.b64encode(item.value).decode())
    return msgspec.json.encode(line) + b"\n"


def parse(lines: Iterable[bytes]) -> tuple[Head, dict[str, bytes]]:
    """A whole backup: checked before anything is written.

    Raises:
        BackupError: it is not one, or not whole.

    """
    head: Head | None = None
    values: dict[str, bytes] = {}
    digest, foot = hashlib.sha256(), None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if foot is not None or len(line) > MAX_LINE_BYTES:
            raise BackupError(f"line {number}: {'comes after the end' if foot else 'is too long'}")
        try:
            if head is None:
                head = codec.decode_struct(Head, line)
                if head.holdfast_backup != FORMAT:
                    raise BackupError(f"this is format {head.holdfast_backup}, and this version reads {FORMAT}")
            elif b'"sha256"' in line and b'"key"' not in line[:8]:
                foot = codec.decode_struct(Foot, line)
            else:
                record = codec.decode_struct(Line, line)
                values[_own(record.key)] = base64.b64decode(record.base64) if record.base64 else record.value.encode()
                digest.update(line if line.endswith(b"\n") else line + b"\n")
        except (codec.Undecodable, ValueError) as exc:
            raise BackupError(f"line {number} is not of a backup: {exc}") from exc
    if head is None or foot is None:
        raise BackupError("the backup ends too early; it is not whole")
    if foot.keys != len(values) or foot.sha256 != digest.hexdigest():
        raise BackupError("the backup was altered: its checksum does not fit")
    return head, values


def _own(key: str) -> str:
    if not _kept(key):
        raise BackupError(f"{key[:80]!r} is not a key that a backup holds")
    return key


def _kept(key: str) -> bool:
    return key.startswith((keys.ROOT, keys.HISTORY)) and not key.startswith(EPHEMERAL)


async def unfinished(store: Store) -> bool:
    """Was a restore broken off? Then nothing in this store can be relied on until it is repeated."""
    return await store.get(RESTORING) is not None


async def restore(
    store: Store,
    lines: Iterable[bytes],
    *,
    overwrite: bool,
    author: str,
    new_epoch: str,
    now: float,
    progress: Progress = silent,
) -> Restored:
    """Make the store be what the backup holds. `now`: seconds since 1970, by the clock of who restores.

    Raises:
        BackupError: the backup is not whole, or the store holds something and overwrite was not asked for.

    """
    head, values = parse(lines)
    present = {item.key: item for item in (await store.list(keys.ALL)).items}
    occupied = [key for key in present if _kept(key)]
    if occupied and not overwrite and RESTORING not in present:
        raise BackupError(f"the store holds {len(occupied)} keys; restore into an empty one, or ask to overwrite it")
    _lift(values, bundle.key_of(head.trust_domain), present, now)
    await store.txn((), (Delete(keys.EPOCH), Put(RESTORING, b"{}")))
    gone = [key for key in occupied if key not in values and not _special(key)]
    changed = [key for key, value in values.items() if not _special(key) and not _same(present.get(key), value)]
    ops: list[Op] = [Put(key, values[key]) for key in sorted(changed)]
    ops += [Delete(key) for key in gone]
    done = 0
    for step in _steps(ops):
        await store.txn((), step)
        done += len(step)
        progress("restoring keys", done, len(ops))
    revision = await _finish(store, author, new_epoch, deleted_of(gone))
    return Restored(len(values), len(gone), new_epoch, revision)


def _lift(values: dict[str, bytes], key: str, present: Mapping[str, Item], now: float) -> None:
    """Our own trust bundle, so that peers believe it. Theirs stay as they are, or theirs would be refused here."""
    saved = _bundle(values.get(key))
    if saved is not None:
        there = present.get(key)
        values[key] = codec.encode(bundle.restored(saved, _bundle(there.value if there else None), now))


def _bundle(value: bytes | None) -> TrustBundle | None:
    """None as well if it cannot be read: then it comes back as it is, for others to tell."""
    if value is None:
        return None
    try:
        found = codec.decode("TrustBundle", value)
    except codec.Undecodable:
        return None
    assert isinstance(found, TrustBundle)
    return found


async def _finish(store: Store, author: str, epoch: str, deleted: Mapping[str, int]) -> Revision:
    """The store is whole from here on. What was deleted is declared, for agents that followed all the while."""
    transaction = declare(author, (), (Put(keys.EPOCH, codec.encode_struct(epoch)), Delete(RESTORING)), {})
    totals = {key: await store.get(key) for key in map(keys.total_of, deleted)}
    sums = add(deleted, totals)
    return await store.txn(sums.compares, (*transaction.ops, *sums.ops))


def _special(key: str) -> bool:
    """What a backup says nothing of: running totals never go back."""
    return key in {keys.EPOCH, keys.COMMIT, keys.DELETIONS, RESTORING} or key.startswith(keys.WITHDRAWALS)


def _same(item: Item | None, value: bytes) -> bool:
    return item is not None and item.value == value


def _steps(ops: Iterable[Op]) -> Iterator[list[Op]]:
    step: list[Op] = []
    size = 0
    for op in ops:
        weight = len(op.key) + (len(op.value) if isinstance(op, Put) else 0)
        if step and (len(step) >= STEP_OPS or size + weight > STEP_BYTES):
            yield step
            step, size = [], 0
        step.append(op)
        size += weight
    if step:
        yield step
