"""Looks for secrets in clear: first it learns what is secret in a running mesh, then it reads everything else."""

import fnmatch
import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Needles = Mapping[str, tuple[bytes, ...]]
"""What a secret is -> texts by which it is recognised."""

HOMES = (
    "etcd/pki/*-key.pem",
    "bao/tls/server.key",
    "bao/init.json",
    "bao/secret-id",
    "cp-*/data/server.key",
    "hosts/*/data/identity.[01]",
    "hosts/*/token",
    "seal.key",
    "admin.token",
)
"""The only files of a demo that may hold a secret, each for its owner alone."""

_PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s(.+?)-----END", re.DOTALL)
_LOOKS = re.compile(
    rb"PRIVATE KEY-----|\bhf1\.[0-9a-f]{16}\.[A-Za-z0-9_-]{20,}|\bhf[op]1\.[A-Za-z0-9_-]{20,}"
    rb"|\b(?:hvs|s)\.[A-Za-z0-9]{24,}"
)
"""Also what was never met before, by its looks: keys, our tokens, OpenBao's tokens."""


def keys_in(name: str, raw: bytes) -> dict[str, tuple[bytes, ...]]:
    """The private keys in a file: each line of their base64 but the last, which may be short."""
    return {
        f"private key {number} of {name}": tuple(line for line in body.split() if len(line) >= 40)
        for number, body in enumerate(_PEM.findall(raw))
    }


def join_token(name: str, token: str) -> dict[str, tuple[bytes, ...]]:
    """The third part is the secret; id and pin are not."""
    return {name: (token.strip().split(".")[2].encode(),)}


def known_secrets(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """All keys and tokens that lie in a demo's folder."""
    found: dict[str, tuple[bytes, ...]] = {}
    for path in _files(folder):
        found |= keys_in(str(path.relative_to(folder)), _read(path))
    for token in folder.glob("hosts/*/token"):
        found |= join_token(f"join token of {token.parent.name}", token.read_text())
    found["admin token"] = ((folder / "admin.token").read_bytes().strip().partition(b".")[2],)
    found["seal key"] = ((folder / "seal.key").read_bytes().strip(),)
    found["secret id"] = ((folder / "bao" / "secret-id").read_bytes().strip(),)
    bao = json.loads((folder / "bao" / "init.json").read_text())
    found["unseal key"], found["OpenBao's root token"] = (bao["key"].encode(),), (bao["token"].encode(),)
    return found


def leaks(where: str, raw: bytes, needles: Needles, *, looks: bool = True) -> Iterator[str]:
    """Every secret that stands in these bytes; told without the secret."""
    for what, texts in needles.items():
        if any(text in raw for text in texts):
            yield f"{where} holds the {what}"
    if looks and (match := _LOOKS.search(raw)):
        yield f"{where} holds what looks like a secret: {match[0][:8]!r}..."


def leaks_in_files(folder: Path, needles: Needles) -> Iterator[str]:
    """Secrets in other files than their homes, and homes that others may read."""
    for path in _files(folder):
        name = str(path.relative_to(folder))
        if not any(fnmatch.fnmatchcase(name, home) for home in HOMES):
            # Binary files hold anything: only what is known is looked for in them.
            yield from leaks(name, _read(path), needles, looks=path.suffix in {".log", ".json", ".yaml", ""})
        elif (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield f"{name} may be read by others: {mode:o}"


def leaks_of_processes(pids: Iterable[int], needles: Needles) -> Iterator[str]:
    """Secrets in arguments and environments."""
    for pid in pids:
        for part in ("cmdline", "environ"):
            try:
                raw = Path(f"/proc/{pid}/{part}").read_bytes()
            except OSError:  # it ended while we looked
                continue
            yield from leaks(f"{part} of process {pid}", raw, needles)


def _read(path: Path) -> bytes:
    """All of it but the zeros at its end: of etcd's log, those are tens of megabytes that wait for something."""
    return path.read_bytes().rstrip(b"\0")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
