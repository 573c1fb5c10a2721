"""What an operator took out of service here: single services, or the whole host (maintenance). Kept on disk.

It is the host's own word, so it survives restarts and holds without a control plane. What is drained stays registered,
as *draining*: callers leave it, and what is under way ends by itself.
"""

import os
from pathlib import Path

from mesh import codec
from mesh.model import Frozen

FILE = "drained.json"


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

    As the folder's owner, whoever this is: what lies in it is that user's, links included.
    """
    try:
        owner = folder.stat()
    except OSError:
        return
    if os.geteuid() == 0:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    try:
        held = load(folder)
        meant = [name for name in held.services if what in {name, name.partition(".")[0]}]
        if len(meant) == 1:
            save(folder, held.end(meant[0]))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
            os.setegid(0)
