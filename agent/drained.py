"""What an operator took out of service here: single services, or the whole host (maintenance). Kept on disk.

It is the host's own word, so it survives restarts and holds without a control plane. What is drained stays registered,
as *draining*: callers leave it, and what is under way ends by itself.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh import codec
from mesh.model import Frozen

FILE = "drained.json"
LOCK_SECONDS = 1.0
"""The longest that a unit which starts waits for another one that does. Each holds it for a few milliseconds."""


class Drained(Frozen, frozen=True, kw_only=True):
    host: float | None = None
    """Since when, in Unix seconds; None: it is in service."""
    services: dict[str, float] = {}
    """`<name>.<namespace>` -> since when."""

    def has(self, service: str) -> bool:
        return self.host is not None or service in self.services

    def begin(self, what: str, now: float) -> "Drained":
        """What is drained already stays so since then. '' is the host."""
        if not what:
            return Drained(host=now if self.host is None else self.host, services=self.services)
        return Drained(host=self.host, services={what: now} | self.services)

    def end(self, what: str) -> "Drained":
        if not what:
            return Drained(services=self.services)
        return Drained(host=self.host, services={name: at for name, at in self.services.items() if name != what})


def load(folder: Path) -> Drained:
    """What was kept; what cannot be read drains nothing."""
    try:
        return codec.decode_struct(Drained, (folder / FILE).read_bytes())
    except (OSError, codec.Undecodable):
        return Drained()


def save(folder: Path, drained: Drained) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / (FILE + ".new")
    temporary.write_bytes(codec.encode_struct(drained))
    temporary.replace(folder / FILE)


def end_kept(folder: Path, what: str) -> None:
    """On disk, where no agent runs that could be told. By name, with or without its namespace.

    As the folder's owner, whoever this is: what lies in it is that user's, links included. One after the other, so that
    units which start together do not put each other's words back.
    """
    try:
        owner = folder.stat()
    except OSError:
        return
    if os.geteuid() == 0:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    try:
        with _alone(folder):
            held = load(folder)
            meant = [name for name in held.services if what in {name, name.partition(".")[0]}]
            if len(meant) == 1:
                save(folder, held.end(meant[0]))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
            os.setegid(0)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Or without it, where somebody keeps it: the agent's user could, and no unit is to wait for that."""
    descriptor, end = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(0.01)
                    continue
            break
        yield
    finally:
        os.close(descriptor)
