"""The audit log: append-only JSON lines on this node, one for each decision. Never a secret.

`always` puts each line on disk before it returns; `batch` leaves that to `run`, once a second and off the loop, so that
issuing hundreds of certificates a second is not paced by the disk. A log that was moved away is opened anew.

Whoever has credentials, or gets what they ask for, has a line for each call. Of callers who have proved nothing and are
refused, the first have one; of the rest the number is told, so that nobody fills the disk from outside.
"""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from ca.limits import Rate, Strangers, source_of
from mesh.aio import pause
from mesh.obs import redact

log = structlog.get_logger(__name__)

LINES_EACH, LINES_TOGETHER = Rate(0.1, 40), Rate(1, 400)
"""Lines about refused strangers: a mistake is seen whole, a flood costs some 30 MB a day."""
TELL_SECONDS = 60.0
MAX_SOURCES, SHOWN_SOURCES = 1000, 20
OTHERS = "others"


class AuditLog:
    """Who opens it closes it."""

    def __init__(self, path: Path, clock: Callable[[], float], *, sync: Literal["always", "batch"] = "batch") -> None:
        self._path, self._clock, self._sync = path, clock, sync
        self._dirty = False
        self._lines = Strangers(LINES_EACH, LINES_TOGETHER)
        self._left: Counter[str] = Counter()
        """Source -> refusals without a line."""
        self._counting_since = clock()
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

    def refused(self, address: str, event: str, **fields: object) -> None:
        """One line, or one more in the count of those left out: a caller from this address who proved nothing."""
        if not self._lines.take(address, self._clock()):
            self.record(event, **fields)
            return
        source = source_of(address)
        self._left[source if source in self._left or len(self._left) < MAX_SOURCES else OTHERS] += 1

    def tell_left_out(self) -> None:
        """How many refusals were left out since this was last told; nothing if there were none."""
        now, left = self._clock(), self._left
        if left:
            self._left = Counter()
            most = dict(left.most_common(SHOWN_SOURCES))
            seconds = round(now - self._counting_since)
            self.record("audit.left_out", lines=left.total(), sources=len(left), most=most, seconds=seconds)
        self._counting_since = now

    async def run(self) -> None:
        """Put lines on disk, tell of those left out, and notice a log that was moved away."""
        while True:
            await pause(1.0)
            try:
                if not 0 <= self._clock() - self._counting_since < TELL_SECONDS:
                    self.tell_left_out()
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
            self.tell_left_out()
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
