"""How the agent and the commands on a host talk to the privileged helper: one JSON line out, one JSON line in."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.hostd.wanted import Wanted, encode

SOCKET = Path("/run/holdfast-host/host.sock")
PATIENCE = 15.0
"""Seconds; loading a table takes some milliseconds."""
MAX_LINE_BYTES = 8 * 1024 * 1024


class HostError(Exception):
    """The helper cannot be asked, or refused; with what to do about it."""


@dataclass(frozen=True)
class Answer:
    applied: bool
    """Names and redirection are in force as asked, but for `problems`."""
    problems: tuple[str, ...] = ()
    capture: str = ""
    """none, armed, confirmed or reverted."""


async def apply(path: Path, wanted: Wanted) -> Answer:
    """Make it so.

    Raises:
        HostError: it cannot be reached, or takes nothing of it.

    """
    import asyncio  # the helper reads this module too, and has no use for a loop: 3 MB

    return _answer(await asyncio.to_thread(ask, path, "apply", encode(wanted)))


def ask(path: Path, do: str, body: Any = None, *, patience: float = PATIENCE) -> dict[str, Any]:
    """One order or question, and its answer.

    Raises:
        HostError: it cannot be reached, or refuses.

    """
    line = json.dumps({"do": do, **({} if body is None else {"body": body})}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(patience)
            link.connect(str(path))
            link.sendall(line)
            raw = _read_line(link)
        answer = json.loads(raw)
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise HostError(f"nothing listens at {path}; is holdfast-host.service running?") from exc
    except PermissionError as exc:
        raise HostError(f"{path} may not be opened; use sudo") from exc
    except (OSError, ValueError) as exc:
        raise HostError(f"{path} does not answer: {exc}; see `journalctl -u holdfast-host`") from exc
    if not isinstance(answer, dict):
        raise HostError(f"{path} answers {raw[:60]!r}")
    if error := answer.get("error"):
        raise HostError(str(error))
    return answer


def _read_line(link: socket.socket) -> bytes:
    raw = bytearray()
    while not raw.endswith(b"\n") and len(raw) < MAX_LINE_BYTES:
        some = link.recv(65536)
        if not some:
            raise OSError("it hung up")
        raw += some
    return bytes(raw)


def _answer(raw: dict[str, Any]) -> Answer:
    return Answer(
        applied=bool(raw.get("applied")),
        problems=tuple(str(problem) for problem in raw.get("problems", ())),
        capture=str(raw.get("capture", "")),
    )
