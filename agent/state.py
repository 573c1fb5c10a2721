"""The last good state on disk: what a host needs to serve again with nobody else alive.

Two documents, each in two slots that are written in turn:

    world.{0,1}      raw keys and values with their revisions, as received, and what was put in place of refused ones
    identity.{0,1}   the node's join facts, certificates and keys (0600, like everything here)

A slot is one header line (format, sequence, length, SHA-256) and a body. The newest good slot is read; a truncated or
damaged one falls back to the other, loudly. Writing goes to a temporary file, fsync, rename, fsync of the folder, and
always replaces the slot that is not the newest good one, so a crash at any point leaves one that can be read.
"""

import hashlib
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

from mesh.model import Frozen, Identity
from mesh.store.follow import Known

log = structlog.get_logger(__name__)

FORMAT = b"holdfast1"
MAX_BYTES = 1 << 30
"""No state of ours comes near it; a file that does is not ours."""

SLOTS = (0, 1)


class StoredRange(Frozen, frozen=True, kw_only=True):
    """One followed range, as received."""

    known: Known
    """How far it was followed; its keys are those that the store still has."""
    values: dict[str, bytes] = {}
    """Key -> value in force. Keys that are not in `known` were deleted, and their deletion is held back."""
    bad: dict[str, bytes] = {}
    """Key -> a newer value that no reader understands; what is in `values`, if anything, stays in force."""


class StoredSubstitute(Frozen, frozen=True, kw_only=True):
    """An object that Envoy refused, and what stands in its place."""

    kind: str
    namespace: str = ""
    name: str
    refused: bytes | None = None
    """The encoded object that was refused: another one gets its own try. None: its deletion was."""
    refused_revision: int = 0
    instead: bytes | None = None
    """What is in force in its place; None: nothing."""
    in_force: str = "nothing"
    reason: str = ""


class StoredWorld(Frozen, frozen=True, kw_only=True):
    epoch: str = ""
    ranges: dict[str, StoredRange] = {}
    substitutes: tuple[StoredSubstitute, ...] = ()
    held: str = ""
    """Why deletions are held back, if they are."""
    accounts: dict[str, tuple[int, int]] = {}
    """Whose keys -> up to which running total their declared deletions are settled, and how many were used since
    (agent.losses)."""


class StoredIdentity(Frozen, frozen=True, kw_only=True):
    """Everything that join and the CA gave this host."""

    node: str
    trust_domain: str
    cluster: str
    roles: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    """Workload identities the join token named."""
    gates: tuple[str, ...] = ()
    controlplanes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    own: Identity
    """The node's."""
    held: dict[str, Identity] = {}
    """`<namespace>/<service-account>` or `gate` -> certificate and key."""


T = TypeVar("T", bound=Frozen)


class Slots(Generic[T]):
    """One document in two slots. Not safe for two writers; the agent has one."""

    def __init__(self, folder: Path, name: str, kind: type[T]) -> None:
        self._folder, self._name, self._kind = folder, name, kind
        self._sequence: dict[int, int] = {}

    def load(self) -> tuple[T, ...]:
        """What can be read, newest first. Never raises for what is in a file."""
        found: list[tuple[int, int, T]] = []
        self._sequence = {}
        for slot in SLOTS:
            path = self._path(slot)
            try:
                raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
                sequence, value = self._unpack(raw)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as exc:
                log.critical("state on disk is damaged and left out", file=str(path), error=str(exc))
                continue
            self._sequence[slot] = sequence
            found.append((sequence, slot, value))
        return tuple(value for _, _, value in sorted(found, key=lambda f: f[:2], reverse=True))

    def save(self, value: T) -> None:
        """Replace the older slot, durably. Blocks on the disk: call it in a thread."""
        newest = max(self._sequence, key=lambda slot: self._sequence[slot], default=1)
        slot = 1 - newest
        sequence = self._sequence.get(newest, 0) + 1
        body = msgspec.msgpack.encode(value)
        header = b"%s %d %d %s\n" % (FORMAT, sequence, len(body), hashlib.sha256(body).hexdigest().encode())
        write_private(self._path(slot), header + body)
        self._sequence[slot] = sequence

    def _unpack(self, raw: bytes) -> tuple[int, T]:
        head, newline, body = raw.partition(b"\n")
        fields = head.split(b" ")
        if not newline or len(fields) != 4 or fields[0] != FORMAT:
            raise ValueError("it has no header of this version")
        if int(fields[2]) != len(body):
            raise ValueError(f"{len(body)} bytes of {int(fields[2])} are there")
        if hashlib.sha256(body).hexdigest().encode() != fields[3]:
            raise ValueError("its checksum does not match")
        try:
            return int(fields[1]), msgspec.msgpack.decode(body, type=self._kind)
        except msgspec.MsgspecError as exc:
            raise ValueError(str(exc)) from exc

    def _path(self, slot: int) -> Path:
        return self._folder / f"{self._name}.{slot}"


def write_private(path: Path, data: bytes) -> None:
    """Write so that a reader, also after a crash, sees the old bytes or the new ones; 0600 from the first byte on."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Disk:
    """The agent's folder, with its two documents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self.worlds = Slots(folder, "world", StoredWorld)
        self.identities = Slots(folder, "identity", StoredIdentity)

    @property
    def pending_key(self) -> Path:
        """The key of a join that is under way: a repeated call must show the same one."""
        return self.folder / "join.key"
