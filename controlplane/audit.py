"""The audit log: append-only JSON lines on this node, one for each decision. Never a secret.

`always` puts each line on disk before it returns; `batch` leaves that to `run`, once a second and off the loop, so that
issuing hundreds of certificates a second is not paced by the disk. A log that was moved away is opened anew.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from mesh.aio import pause
from mesh.obs import redact

log = structlog.get_logger(__name__)


class AuditLog:
    """Who opens it closes it."""

    def __init__(self, path: Path, clock: Callable[[], float], *, sync: Literal["always", "batch"] = "batch") -> None:
        self._path, self._clock, self._sync = path, clock, sync
        self._dirty = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def record(self, event: str, **fields: object) -> None:
        """Append one line. Fields with secrets in name or text are taken out."""
        when = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {**redact(None, "", dict(fields)), "time": when, "event": event}
        os.write(self._fd, msgspec.json.encode(line) + b"\n")
        if self._sync == "always":
            os.fsync(self._fd)
        else:
            self._dirty = True

    async def run(self) -> None:
        """Put lines on disk, and notice a log that was moved away."""
        while True:
            await pause(1.0)
            try:
                await asyncio.to_thread(self.flush)
            except OSError as exc:
                log.warning("audit log cannot be written", path=str(self._path), error=str(exc))

    def flush(self) -> None:
        if self._dirty:
            self._dirty = False
            os.fsync(self._fd)
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == os.fstat(self._fd).st_ino:
                return
        # Moved away by log rotation. dup2 keeps the number, so a concurrent record() writes to one of the two files.
        fresh = self._open()
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)

    def close(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
