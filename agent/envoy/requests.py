"""How a launcher is asked by whom it cannot get signals from: one word in, one line out, over a unix socket.

    restart   hot restart                    stop   drain, end Envoy and the launcher      end   the same at once
    renew     the launcher starts itself anew from disk (an upgrade); Envoy does not notice

Who asks is the kernel's word (SO_PEERCRED): root, the launcher's own user, and whoever owns the folder in which it is
told what is wanted. Standard library only.
"""

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NAME = "launcher.sock"
WORDS = ("restart", "stop", "end", "renew")
MAX_WORD = 64
PATIENCE_SECONDS = 1.0
"""With a peer that says nothing: meanwhile the launcher does nothing else."""
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


class RequestError(Exception):
    """A launcher cannot be asked, or refused."""


class Door:
    """Where it is asked. `fileno` is for poll."""

    def __init__(self, path: Path, allowed: Callable[[int], bool]) -> None:
        self._path, self._allowed = path, allowed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with suppress(FileNotFoundError):
            path.unlink()
        before = os.umask(0o117)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        self._socket.listen(8)

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self) -> str:
        """The word that somebody says who may, or ''. Never raises for what a peer does."""
        try:
            peer, _ = self._socket.accept()
        except OSError:
            return ""
        with peer, suppress(OSError):
            peer.settimeout(PATIENCE_SECONDS)
            _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            word = peer.recv(MAX_WORD).decode("ascii", "replace").strip()
            if not self._allowed(uid):
                peer.sendall(f"user {uid} may not ask\n".encode())
            elif word not in WORDS:
                peer.sendall(f"no such word; there are {', '.join(WORDS)}\n".encode())
            else:
                peer.sendall(b"ok\n")
                return word
        return ""

    def close(self) -> None:
        self._socket.close()
        with suppress(OSError):
            self._path.unlink()


def ask(run_dir: Path, word: str) -> None:
    """Ask the launcher of this folder.

    Raises:
        RequestError: there is none, or it refused.

    """
    try:
        with socket.socket(socket.AF_UNIX) as launcher:
            launcher.settimeout(2 * PATIENCE_SECONDS)
            launcher.connect(str(run_dir / NAME))
            launcher.sendall(word.encode() + b"\n")
            answer = launcher.recv(256).decode("utf-8", "replace").strip()
    except OSError as exc:
        raise RequestError(f"{run_dir / NAME}: {exc.strerror or exc}") from exc
    if answer != "ok":
        raise RequestError(f"the launcher refused {word!r}: {answer or 'no answer'}")
