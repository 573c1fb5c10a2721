"""The helper's hands on its host: /etc/hosts, users, units, what listens, and what it remembers."""

import errno
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.hostd.arming import Arming, remembered
from agent.hostd.block import rewrite
from agent.hostd.ruleset import Resolved
from agent.hostd.sessions import Process, parse
from agent.hostd.wanted import Caller, Name, RefusedError, Wanted, encode
from agent.hostd.wanted import parse as parse_wanted

STATE_FILE = "wanted.json"
ANSWER_SECONDS = 1.0
_LISTEN = "0A"


@dataclass(frozen=True)
class Places:
    """Where things lie on a host; a test has its own."""

    hosts: Path = Path("/etc/hosts")
    state: Path = Path("/var/lib/holdfast-host")
    socket: Path = Path("/run/holdfast-host/host.sock")
    agent_socket: Path = Path("/run/holdfast/agent.sock")
    envoy_socket: Path = Path("/run/holdfast-envoy/envoy.sock")
    cgroups: Path = Path("/sys/fs/cgroup")
    trusted: frozenset[int] = frozenset({0})
    """Users that may listen where callers are redirected to: root, and whom Envoy runs as."""


def write_hosts(path: Path, names: Iterable[Name]) -> bool:
    """Bring the block up to date; False if it was. Mode and owner stay.

    Raises:
        OSError: it cannot be read or written; it is as it was.

    """
    path = path.resolve()
    before = _text_of(path)
    after = rewrite(before, names)
    if after == before:
        return False
    replace_file(path, after.encode("utf-8", "surrogateescape"))
    return True


def names_stand(path: Path, names: Iterable[Name]) -> bool:
    """The block is as `write_hosts` would make it; also where the file cannot be read, and nothing can be said."""
    try:
        text = _text_of(path)
    except OSError:
        return True
    return rewrite(text, names) == text


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""


def replace_file(path: Path, text: bytes, mode: int = 0o644) -> None:
    """As a whole or not at all. A file that is a mount of its own (containers) can only be written in place."""
    temporary = path.with_name(f".{path.name}.holdfast")
    try:
        # Never through a link: what /etc/hosts is a link to may lie where others write.
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            with suppress(FileNotFoundError):
                held = path.stat()
                mode = held.st_mode & 0o7777
                os.fchown(file.fileno(), held.st_uid, held.st_gid)
                _copy_attributes(path, temporary)
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if exc.errno not in {errno.EBUSY, errno.EXDEV}:  # it is a mount
            raise
        _write_in_place(path, text)


def _write_in_place(path: Path, text: bytes) -> None:
    """Shortened last, and put back if the disk is full: what others wrote there is never lost."""
    with path.open("r+b", buffering=0) as file:
        before = file.read()
        for attempt in (text, before):
            file.seek(0)
            try:
                _write_all(file.fileno(), attempt)
            except OSError:
                if attempt is before:
                    raise
                continue
            file.truncate(len(attempt))
            if attempt is before:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return


def _write_all(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def _copy_attributes(source: Path, target: Path) -> None:
    """SELinux gives /etc/hosts a type of its own, without which others may not read it."""
    with suppress(OSError):
        for name in os.listxattr(source):
            with suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))


def resolve(callers: Iterable[Caller], cgroups: Path) -> tuple[tuple[Resolved, ...], tuple[str, ...]]:
    """Callers as this host knows them, and who of them it does not know."""
    found: list[Resolved] = []
    problems: list[str] = []
    root = _cgroup2(cgroups)
    for caller in callers:
        uids: list[int] = []
        for user in caller.users:
            try:
                uid = pwd.getpwnam(user).pw_uid
            except KeyError:
                problems.append(f"{caller.identity}: this host has no user {user}")
                continue
            if uid == 0:
                problems.append(f"{caller.identity}: {user} is root under another name, and root is nobody's identity")
            else:
                uids.append(uid)
        groups: list[tuple[str, int]] = []
        for unit in caller.units:
            if root is None:
                problems.append(f"{caller.identity}: this host has no cgroup v2, so {unit} is not recognised")
            elif path := _unit(unit, root):
                level = len(path.relative_to(root).parts)
                groups.append((str(path.relative_to(cgroups)), level))
        found.append(Resolved(caller, tuple(uids), tuple(groups)))
    return tuple(found), tuple(problems)


def stamps(callers: Iterable[Resolved], cgroups: Path) -> tuple[int, ...]:
    """Inodes of the units' cgroups: rules hold to these, and a unit that starts again has a new one."""
    return tuple(_inode(cgroups / path) for resolved in callers for path, _ in resolved.cgroups)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _cgroup2(cgroups: Path) -> Path | None:
    for root in (cgroups, cgroups / "unified"):
        if (root / "cgroup.controllers").exists():
            return root
    return None


def _unit(unit: str, root: Path) -> Path | None:
    """Its cgroup, while it runs: below system.slice, or wherever its Slice= says.

    Only slices are looked into: below a service or a scope others name things as they like (a user's own manager, a
    container), and none of them becomes a unit of the host by its name.
    """
    folders = [root / "system.slice", root]
    for folder in folders:
        if (folder / unit).is_dir():
            return folder / unit
        folders += folder.glob("*.slice")
    return None


def look(pid: int) -> Process | None:
    try:
        return parse(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (OSError, ValueError):
        return None


def listening_ports() -> frozenset[int]:
    """TCP ports on which somebody on this host listens."""
    return frozenset(port for _, port, state in _sockets() if state == _LISTEN)


def answers(path: Path, question: bytes, holds: bytes = b"") -> bool:
    """Does somebody answer on this unix socket, and soon?"""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        end = time.monotonic() + ANSWER_SECONDS
        link.settimeout(ANSWER_SECONDS)
        link.connect(str(path))
        link.sendall(question)
        said = b""
        while some := link.recv(4096):
            said += some
            if holds in said or len(said) > 65536:
                break
            link.settimeout(max(0.001, end - time.monotonic()))  # of all of it: who drips holds nobody up
        return bool(said) and holds in said
    return False


def ssh_ports() -> tuple[int, ...]:
    """Where sshd listens: by what its processes hold now, by its settings, by its socket unit; 22 always."""
    ports = {22, *_held_by_sshd()}
    found = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    with suppress(OSError, subprocess.TimeoutExpired):
        if found:
            said = subprocess.run([found, "-T"], capture_output=True, text=True, timeout=5, check=False).stdout
            ports |= {int(port) for port in re.findall(r"(?m)^port (\d+)$", said)}
    with suppress(OSError, subprocess.TimeoutExpired):
        shown = ["systemctl", "show", "ssh.socket", "sshd.socket", "-p", "Listen"]
        said = subprocess.run(shown, capture_output=True, text=True, timeout=5, check=False).stdout
        ports |= {int(port) for port in re.findall(r":(\d+) \(Stream\)", said)}
    return tuple(sorted(ports))


def _held_by_sshd() -> set[int]:
    """Local ports of all sockets of all processes of root named sshd, which open connections are too.

    A process of anybody else may call itself so, and would spare a port of its choice from capture.
    """
    inodes: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text().strip() in {"sshd", "sshd-session", "dropbear"} and _is_roots(process):
                for descriptor in (process / "fd").iterdir():
                    with suppress(OSError):
                        inodes.add(str(descriptor.readlink()))
    return {port for inode, port, _ in _sockets() if f"socket:[{inode}]" in inodes}


def _is_roots(process: Path) -> bool:
    """By its real user: the owner of the folder is root also where a process of another user cannot be traced."""
    return re.search(r"(?m)^Uid:\t0\t0\t", (process / "status").read_text(errors="replace")) is not None


def _sockets() -> Iterator[tuple[str, int, str]]:
    """Inode, local port and state of every TCP socket."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                yield fields[9], int(fields[1].rpartition(":")[2], 16), fields[3]


def listen(path: Path, group: int) -> socket.socket:
    """The door of the helper: root and this group may open it. It has its name once it is answered at."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        listener.bind(str(new))
    finally:
        os.umask(before)
    with suppress(PermissionError):
        os.chown(new, -1, group)
    listener.listen(16)
    new.replace(path)
    return listener


# --- what is remembered over boots ---


def save(places: Places, wanted: Wanted, arming: Arming) -> None:
    places.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = {"wanted": encode(wanted), "arming": asdict(remembered(arming))}
    replace_file(places.state / STATE_FILE, json.dumps(body).encode(), 0o600)


def restore(places: Places) -> tuple[Wanted, Arming]:
    """What was wanted last; nothing if that cannot be read. Of an arming only the confirmation outlives a boot."""
    try:
        body = json.loads((places.state / STATE_FILE).read_text())
        held = body["arming"]
        confirmed, stands, refused = str(held["confirmed"]), str(held.get("stands", "")), str(held["refused"])
        return parse_wanted(body["wanted"]), Arming(confirmed=confirmed, stands=stands, refused=refused)
    except (OSError, ValueError, KeyError, TypeError, RefusedError):
        return Wanted(), Arming()
