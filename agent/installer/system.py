"""Makes, checks and takes away one thing. Each of them may be repeated, also after a kill in the middle."""

import grp
import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.installer.facts import has_user
from agent.installer.model import NAME, InstallError
from agent.installer.record import durable

STAMP = ".holdfast-whole"
HOOK = "# By `holdfast-agent service hook "
"""A line of such a drop-in (agent/unithook.py)."""
SECONDS_FOR_A_COMMAND = 300
SECONDS_FOR_A_TREE = 1800
"""It is the host's own work, without a network. Begun anew on a slow one, it would take as long again."""
SECONDS_FOR_AN_END = 10
VENV = ("-I", "-m", "venv", "--without-pip")
PASSWORD_FILES = ("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-")


def call(*command, check=True, seconds=SECONDS_FOR_A_COMMAND, **more):
    """Run a command of the system, with an environment that nobody else has had a hand in."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    try:
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=env,
            **more,
        )
    except subprocess.TimeoutExpired as exc:
        raise InstallError(str(command[0]) + " did not end within " + str(seconds) + " s") from exc
    except OSError as exc:
        raise InstallError(str(command[0]) + " cannot be run: " + str(exc)) from exc
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip()[-1500:]
        if "No space left" in words:
            raise OSError(28, "No space left on device")
        raise InstallError(" ".join(str(word) for word in command[:3]) + " failed: " + words)
    return done


def digest_of(path):
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def is_there(thing, known):
    """Is it as it shall be? `known` is what was recorded of it, None if nothing was."""
    path = Path(thing.name)
    if thing.kind == "user":
        return has_user(thing.name)
    if thing.kind == "folder":
        return path.is_dir() and (known is None or _looks(path) == (thing.mode, thing.owner))
    if thing.kind == "tree":
        mark = path / STAMP
        return mark.is_file() and mark.read_text() == thing.stamp
    if thing.kind == "link":
        return path.is_symlink() and os.readlink(path) == thing.target
    if thing.kind == "unit":
        return digest_of(path) == hashlib.sha256(thing.text.encode()).hexdigest() and is_enabled(path.name)
    return is_kept(thing, known) or digest_of(path) == hashlib.sha256(thing.text.encode()).hexdigest()


def is_kept(thing, known):
    """A file that was there before, or that was edited since it was written: it is left as it is."""
    path = Path(thing.name)
    return thing.kind == "file" and path.exists() and (known is None or known.get("sha256", "") != digest_of(path))


def _looks(path):
    found = path.stat()
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    return stat.S_IMODE(found.st_mode), owner


def make(thing):
    """Make it. Trees are made by build_venv and place_envoy."""
    path = Path(thing.name)
    if thing.kind == "user":
        make_user(thing)
    elif thing.kind == "folder":
        path.mkdir(mode=thing.mode, exist_ok=True)
        found = pwd.getpwnam(thing.owner)
        os.chown(path, found.pw_uid, found.pw_gid)
        path.chmod(thing.mode)
    elif thing.kind == "link":
        temporary = path.with_name("." + path.name + ".new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(thing.target)
        temporary.replace(path)
    else:
        durable(path, thing.text.encode(), thing.mode)
    if thing.kind == "unit":
        call("systemctl", "daemon-reload")
        call("systemctl", "enable", path.name)


def make_user(thing):
    with backups_kept():
        if not has_user(thing.name):
            call(
                "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
                "--shell", "/usr/sbin/nologin", thing.name,
            )  # fmt: skip


def remove_user(name):
    with backups_kept():
        if has_user(name):
            call("userdel", name)
        if name in {entry.gr_name for entry in grp.getgrall()}:
            call("groupdel", name)


@contextmanager
def backups_kept():
    """useradd and its kin leave a copy of the file as it was before. Ours shall not push out the operator's."""
    held: dict = {}
    for name in PASSWORD_FILES:
        try:
            held[name] = Path(name).read_bytes(), os.stat(name)
        except FileNotFoundError:
            held[name] = None
    try:
        yield
    finally:
        for name, before in held.items():
            if before is None:
                Path(name).unlink(missing_ok=True)
            elif digest_of(name) != hashlib.sha256(before[0]).hexdigest():
                durable(Path(name), before[0], stat.S_IMODE(before[1].st_mode), (before[1].st_uid, before[1].st_gid))


def builders(tree):
    """Processes that build this environment. Who runs it does not run it isolated (-I), so is none of them."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            continue  # it has just ended
        if words[:2] == [tree + "/bin/python", "-I"] or words[1:] == [*VENV, tree]:
            yield int(place.name)


def end_builders(tree):
    """Those that a killed run left behind: they write on, into what is taken away."""
    deadline = time.monotonic() + SECONDS_FOR_AN_END
    while found := list(builders(tree)):
        if time.monotonic() > deadline:
            raise InstallError("processes of an earlier installation do not end: " + " ".join(map(str, found)))
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def build_venv(thing, wheels):
    """From wheels only. pip runs out of its own wheel, so that no python3-venv or pip package is needed."""
    path = Path(thing.name)
    take_away("tree", thing.name)
    call(sys.executable, *VENV, path)
    pip = next(wheels.glob("pip-*.whl"))
    call(
        path / "bin/python", "-I", "-c", "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); "
        "sys.argv[0] = 'pip'; runpy.run_module('pip', run_name='__main__')", pip,
        "--isolated", "install", "--quiet", "--no-index", "--no-cache-dir", "--no-compile", "--no-input",
        "--only-binary", ":all:", "--root-user-action", "ignore", "--disable-pip-version-check",
        "--find-links", wheels, NAME, seconds=SECONDS_FOR_A_TREE,
    )  # fmt: skip
    # Compiled here and now, by all cores: the users who run it cannot write beside it.
    call(
        path / "bin/python",
        "-I",
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        path / "lib",
        check=False,
        seconds=SECONDS_FOR_A_TREE,
    )
    durable(path / STAMP, thing.stamp.encode(), 0o644)


def place_envoy(thing, fetch):
    path = Path(thing.name)
    path.mkdir(mode=0o755, exist_ok=True)
    path.chmod(0o755)
    fetch(path / "envoy")
    (path / "envoy").chmod(0o755)
    durable(path / STAMP, thing.stamp.encode(), 0o644)


def take_away(kind, name):
    """Take it away, if it is still there. A folder only with all that is in it: it was made by the installation."""
    path = Path(name)
    if kind == "user":
        remove_user(name)
    elif kind in {"folder", "tree"}:
        if path.is_dir() and not path.is_symlink():
            end_builders(name)
            (path / STAMP).unlink(missing_ok=True)  # first: what is half gone is not whole
            shutil.rmtree(path)
    elif kind == "unit":
        call("systemctl", "disable", path.name, check=False)
        path.unlink(missing_ok=True)
        shutil.rmtree(path.with_name(path.name + ".d"), ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def left_in(folder):
    """Names of what is still there, but for what a killed run left of a file that it was about to replace."""
    path = Path(folder)
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    return sorted(name for name in names if not (name.startswith(".") and name.endswith(".new")))


def hooks(folder):
    """Drop-ins of other units that `holdfast-agent service hook --write` has written into this folder."""
    there = sorted(Path(folder).glob("*.service.d/holdfast.conf"))
    return [path for path in there if HOOK in path.read_text(encoding="utf-8", errors="replace")]


def take_hook(path):
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


def keep_only(folder, names):
    """Nothing else: a run that was killed may have left files of another version."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names and path.name.removeprefix(".").removesuffix(".part") not in names:
            path.unlink()


def is_enabled(unit):
    return call("systemctl", "is-enabled", unit, check=False).returncode == 0
