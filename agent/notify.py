"""What a service manager is told (sd_notify(3)): a datagram of a few words. Nothing happens where there is none.

Standard library only.
"""

import os
import socket
from contextlib import suppress


def tell(*words: str) -> None:
    """READY=1, WATCHDOG=1, STATUS=..., STOPPING=1, EXTEND_TIMEOUT_USEC=... A manager that is away is no fault."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return
    address = "\0" + where[1:] if where.startswith("@") else where
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.settimeout(1.0)
        manager.sendto("\n".join(words).encode(), address)


def watchdog_seconds() -> float | None:
    """How often the manager wants to hear WATCHDOG=1 at the least; None: it does not care."""
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None
