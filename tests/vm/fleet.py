"""Some hosts on a bridge of their own, and everything of them removed at the end.

A run's things carry its name: the bridge `hf-RUN`, machines `RUN-HOST`, the folder RUN. Its owner holds a lock on the
folder; a run whose lock is free, and that is not kept on purpose, is a dead one's leftover: the next one removes it.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.vm import cgroups
from tests.vm.host import Host
from tests.vm.image import find_image
from tests.vm.shell import VmError, call, check_machine

NAME = re.compile(r"[a-z][a-z0-9-]{0,11}")  # the bridge's name has three characters more, and 15 at most
SUBNETS = [f"10.{high}.{low}" for high in range(213, 216) for low in range(256)]
GONE = ".gone"
"""Ends the name of a folder that is being removed; no run has such a name."""
NSPAWN = Path("/run/systemd/nspawn/propagate")


def state_folder() -> Path:
    """On a disk: overlays do not lie on overlays."""
    return Path(os.environ.get("HOLDFAST_VM_DIR", "/var/tmp/holdfast-vm"))


def new_name() -> str:
    """After the checkout, so that whose it is can be seen."""
    checkout = re.sub(r"[^a-z0-9]", "", Path(__file__).parents[2].name.lower()).lstrip("0123456789")
    return f"{checkout[:6] or 'hf'}-{secrets.token_hex(2)}"


def new_prefix(name: str) -> str:
    """A /64 of unique local addresses (RFC 4193) that nobody here has."""
    taken = call("ip", "-o", "-6", "address") + call("ip", "-6", "route", "show", "table", "all")
    for attempt in range(100):
        drawn = b"\xfd" + hashlib.sha256(f"{name} {attempt}".encode()).digest()[:7]
        found = str(IPv6Network((drawn + bytes(8), 64)).network_address)
        if found not in taken:
            return found
    raise VmError("no network of IPv6 is free for another run: `python -m tests.vm list`")


def say_on_stderr(said: str) -> None:
    print(said, file=sys.stderr, flush=True)


class Fleet:
    """A run. As a context manager it is gone at the end; `keep` leaves it to be found by name."""

    def __init__(
        self, name: str | None = None, *, ipv6: bool = False, say: Callable[[str], None] = say_on_stderr
    ) -> None:
        """With `ipv6` its hosts have an address of each family, and are reached by IPv6."""
        self.name = name or new_name()
        if not NAME.fullmatch(self.name):
            raise VmError(f"{self.name!r} is no name for a run: a letter, then up to 11 of a-z, 0-9 and -")
        self.bridge = f"hf-{self.name}"
        self.folder = state_folder() / self.name
        self.hosts: dict[str, Host] = {}
        self.subnet = ""
        self.prefix = ""
        """Of IPv6, to be followed by an interface's number: `fd12:3456:789a:bcde::`; empty: hosts have none of it."""
        self._ipv6 = ipv6
        self._say = say
        self._lock: IO[str] | None = None
        self._kept = False

    @property
    def gateway(self) -> str:
        """This machine, as its hosts reach it."""
        return f"{self.prefix}1" if self.prefix else f"{self.subnet}.1"

    # -- made --

    def __enter__(self) -> Self:
        check_machine()
        remove_leftovers(self._say)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            raise VmError(f"there is a run {self.name!r} already: `python -m tests.vm down --name {self.name}` ends it")
        self.folder.mkdir(mode=0o700)
        self._lock = _lock(self.folder)
        try:
            self._connect()
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", self.folder / "key")
            self._save()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if not self._kept or kind:
            self.close()

    def up(self, *names: str, variant: str = "standard") -> list[Host]:
        """More hosts, booted side by side."""
        image = find_image(variant, self._say)
        new = [self._new(name, image) for name in names]
        for host in new:
            host.create()
            host.start()
        for host in new:
            host.wait_up()
        return new

    def replace(self, host: Host) -> None:
        """It is lost with its disk, and another one of its name and address comes in its place, from the image."""
        if faults := _erase(host.machine, host.folder):
            raise VmError(f"{host.name}: {'; '.join(faults)}")
        shutil.rmtree(host.folder)
        host.create()
        host.start()
        host.wait_up()

    def keep(self) -> None:
        """The hosts outlive this process, until `down`."""
        (self.folder / "kept").touch()
        self._kept = True
        if self._lock:
            self._lock.close()
            self._lock = None

    def _new(self, name: str, image: Path) -> Host:
        if name in self.hosts:
            raise VmError(f"there is a host {name!r} already")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,20}", name):
            raise VmError(f"{name!r} is no name for a host")
        number = 10 + len(self.hosts)
        host = Host(
            name=name,
            machine=f"{self.name}-{name}",
            address=f"{self.prefix}{number}" if self.prefix else f"{self.subnet}.{number}",
            ipv4=f"{self.subnet}.{number}",
            gateway=f"{self.subnet}.1",
            bridge=self.bridge,
            folder=self.folder / "hosts" / name,
            image=image,
            key=self.folder / "key",
        )
        self.hosts[name] = host
        self._save()
        return host

    def _connect(self) -> None:
        """A bridge with a network that nobody here has; two runs do not choose at once."""
        with (state_folder() / "networks.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            taken = call("ip", "-o", "-4", "address") + call("ip", "-4", "route")
            start = int.from_bytes(self.name.encode(), "big") % len(SUBNETS)
            free = [net for net in SUBNETS[start:] + SUBNETS[:start] if f"{net}." not in taken]
            if not free:
                raise VmError("no network is free for another run: `python -m tests.vm list`")
            self.subnet = free[0]
            call("ip", "link", "add", self.bridge, "type", "bridge")
            call("ip", "address", "add", f"{self.subnet}.1/24", "dev", self.bridge)
            call("ip", "link", "set", self.bridge, "up")
            if self._ipv6:
                self.prefix = new_prefix(self.name)
                # Nobody else is on this bridge yet, and what is to listen here does not wait to find that out.
                call("ip", "address", "add", f"{self.prefix}1/64", "dev", self.bridge, "nodad")

    # -- found again --

    def _save(self) -> None:
        hosts = {host.name: [host.address, str(host.image)] for host in self.hosts.values()}
        text = json.dumps({"subnet": self.subnet, "prefix": self.prefix, "hosts": hosts})
        partial = self.folder / "run.json.partial"
        partial.write_text(text)
        partial.rename(self.folder / "run.json")

    @classmethod
    def found(cls, name: str) -> Self:
        """A kept run."""
        fleet = cls(name)
        try:
            saved = json.loads((fleet.folder / "run.json").read_text())
        except FileNotFoundError:
            raise VmError(f"no run {name!r}: `python -m tests.vm list` shows what there is") from None
        fleet.subnet, fleet.prefix = saved["subnet"], saved.get("prefix", "")
        for host, (_, image) in saved["hosts"].items():
            fleet._new(host, Path(image))
        return fleet

    # -- unmade --

    def close(self) -> None:
        """Everything of this run, in whatever state it is; what cannot be removed is told, after all else is gone."""
        faults: list[str] = []
        for folder in sorted((self.folder / "hosts").glob("*")):
            faults += _erase(f"{self.name}-{folder.name}", folder)
        if Path("/sys/class/net", self.bridge).exists():
            _attempt(faults, lambda: call("ip", "link", "delete", self.bridge))
        _attempt(faults, lambda: call("nft", "delete", "table", "bridge", f"hf-{self.name}", check=False))
        if not faults and self.folder.exists():
            _attempt(faults, self._forget)
        if self._lock:
            self._lock.close()
            self._lock = None
        if faults:
            raise VmError(f"run {self.name}: left behind: {'; '.join(faults)}")

    def _forget(self) -> None:
        """Under another name first: the lock goes with the folder, and nobody may take it for a dead run meanwhile."""
        gone = self.folder.with_name(f"{self.name}{GONE}")
        self.folder.rename(gone)
        try:
            shutil.rmtree(gone)
        except FileNotFoundError:
            shutil.rmtree(gone, ignore_errors=True)  # another run removes it, too
        except OSError:
            gone.rename(self.folder)  # found again by the next run
            raise


def _erase(machine: str, folder: Path) -> list[str]:
    """What of a host is outside its folder; returns what could not be removed."""
    faults: list[str] = []
    _attempt(faults, lambda: cgroups.kill(machine))
    _attempt(faults, lambda: cgroups.remove(machine))
    _attempt(faults, lambda: _unmount(folder / "root"))
    _attempt(faults, lambda: _remove_empty(NSPAWN / machine))
    return faults


def runs() -> Iterator[tuple[str, str]]:
    """Every run here, and how it is: owned, kept or dead."""
    for folder in sorted(state_folder().glob("*/")):
        if NAME.fullmatch(folder.name):
            yield folder.name, _state(folder)


def remove_leftovers(say: Callable[[str], None]) -> list[str]:
    removed = []
    for gone in state_folder().glob(f"*{GONE}"):
        shutil.rmtree(gone, ignore_errors=True)
    for name, state in list(runs()):
        if state != "dead":
            continue
        say(f"Removing what is left of the run {name} …")
        with _adopted(state_folder() / name) as ours:
            if ours:
                try:
                    Fleet(name).close()
                    removed.append(name)
                except VmError as exc:  # somebody else's; `down` may be removing it at this moment
                    say(str(exc))
    return removed


def _state(folder: Path) -> str:
    if (folder / "kept").exists():
        machines = [f"{folder.name}-{host.name}" for host in (folder / "hosts").glob("*")]
        return "kept" if any(cgroups.processes(machine) for machine in machines) else "dead"
    with _adopted(folder) as ours:
        return "dead" if ours else "owned"


@contextmanager
def _adopted(folder: Path) -> Iterator[bool]:
    """Whether nobody has it, and nobody else takes it meanwhile."""
    try:
        lock = _lock(folder)
    except (BlockingIOError, FileNotFoundError):
        yield False
        return
    try:
        yield True
    finally:
        lock.close()


def _lock(folder: Path) -> IO[str]:
    lock = (folder / "lock").open("w")  # not inherited: the hosts do not hold it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise
    return lock


def _unmount(root: Path) -> None:
    if os.path.ismount(root):
        call("umount", root)
    if os.path.ismount(root):
        raise VmError(f"{root} is still mounted")


def _remove_empty(folder: Path) -> None:
    """systemd-nspawn leaves this one where /run is on a disk."""
    if folder.exists():
        folder.rmdir()


def _attempt(faults: list[str], step: Callable[[], object]) -> None:
    try:
        step()
    except (VmError, OSError, subprocess.SubprocessError) as exc:
        faults.append(str(exc))
