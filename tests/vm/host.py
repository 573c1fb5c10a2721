"""One host: started, stopped, and reached over SSH as an operator would."""

import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.support.waiting import eventually
from tests.vm import cgroups
from tests.vm.shell import VmError, call

T = TypeVar("T")

NETWORK = """[Match]
Name=host0
[Network]
Address={ipv4}/24
{more}Gateway={gateway}
IPv6AcceptRA=no
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Host:
    name: str  # as the host calls itself
    machine: str  # as this machine calls it: unique among all runs
    address: str  # where others reach it
    ipv4: str  # that one, or the other family's
    gateway: str
    bridge: str
    folder: Path
    image: Path
    key: Path

    @property
    def root(self) -> Path:
        """The host's root file system as seen from here; what is mounted inside is not seen."""
        return self.folder / "root"

    # -- made and unmade --

    def create(self) -> None:
        for part in ("root", "upper", "work"):
            (self.folder / part).mkdir(parents=True)
        self.mount()
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost ip6-localhost\n")
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (etc / "systemd/network/10-host0.network").write_text(
            NETWORK.format(
                ipv4=self.ipv4,
                more=f"Address={self.address}/64\n" if self.address != self.ipv4 else "",
                gateway=self.gateway,
            )
        )
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", etc / "ssh/ssh_host_ed25519_key")
        public = self.key.with_suffix(".pub").read_text()
        for home in (self.root / "root", self.root / "home/admin"):
            _authorize(home, public)
        host_key = " ".join((etc / "ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])
        with self.known_hosts.open("a") as known:
            known.write(f"{self.address} {host_key}\n")

    @property
    def known_hosts(self) -> Path:
        return self.key.with_name("known_hosts")

    def mount(self) -> None:
        if os.path.ismount(self.root):
            return
        layers = f"lowerdir={self.image},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        call("mount", "-t", "overlay", "overlay", "-o", layers, self.root)

    # -- power --

    def start(self) -> None:
        """Returns at once; `wait` for what is needed of it."""
        groups = cgroups.make(self.machine)
        nspawn = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={self.root}",
            f"--machine={self.machine}", f"--hostname={self.name}", f"--network-bridge={self.bridge}",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--capability=CAP_IPC_LOCK",
            "--console=pipe",
        ]  # fmt: skip
        with (self.folder / "console").open("ab") as console:
            # Not our child: it outlives who starts it where that is wanted, and Ctrl-C does not reach it.
            subprocess.run(
                ["sh", "-ec", f"setsid sh -ec {shlex.quote(_keeper(groups, nspawn))} &"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                check=True,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_LOCK": "0"},
            )

    @property
    def running(self) -> bool:
        return bool(cgroups.processes(self.machine))

    def kill(self) -> None:
        """As a power cut, but for what the kernel had not written yet: that is kept."""
        cgroups.kill(self.machine)

    def stop(self, *, timeout: float = 60) -> None:
        self.run("systemctl poweroff", check=False)
        eventually(lambda: not self.running, timeout=timeout, what=f"{self.name} is off")

    def reboot(self, *, timeout: float = 60) -> None:
        """Returns when the host is up anew."""
        before = self.boot_id()
        self.run("systemctl reboot", check=False)
        self.wait(lambda: self.boot_id() != before, timeout=timeout, what="another boot")
        self.wait_up(timeout=timeout)

    def leader(self) -> int:
        """The host's own init, as this machine numbers it: another one after each boot."""
        return cgroups.leader(self.machine)

    def up_seconds(self) -> float:
        """Since its init began."""
        stat = Path(f"/proc/{self.leader()}/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[19]) / os.sysconf("SC_CLK_TCK")

    def boot_id(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id", timeout=5).out.strip()

    # -- reaching it --

    def ssh(self, user: str = "root") -> list[str]:
        """A new connection each time: what is shown by one is that a new one is let in."""
        return ["ssh", *self.ssh_options(), f"{user}@{self.address}"]

    def ssh_options(self) -> list[str]:
        options = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={self.known_hosts}", "ConnectTimeout=5")
        return ["-i", str(self.key), *(word for option in options for word in ("-o", option))]

    def run(
        self, script: str, *, user: str = "root", check: bool = True, timeout: float = 60, stdin: str | bytes = b""
    ) -> Done:
        """A shell script over SSH."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            done = subprocess.run(
                [*self.ssh(user), script], input=data, capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise VmError(f"{self.name}: {script[:200]!r}: no end within {timeout:g} s; {exc.stdout!r}") from exc
        answer = Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        if check and answer.code != 0:
            raise VmError(f"{self.name}: {script[:300]!r}: exit {answer.code}\n{answer.text[-4000:]}")
        return answer

    def inside(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """A command within the host without its network: how a fault is made or mended when SSH is part of it."""
        return call(
            "nsenter",
            "-t",
            str(self.leader()),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "--",
            *command,
            check=check,
            timeout=timeout,
        )

    def write(self, path: str, text: str | bytes, *, mode: str = "0644") -> None:
        self.run(f"mkdir -p $(dirname {path}) && cat >{path} && chmod {mode} {path}", stdin=text)

    def put(self, source: Path, target: str) -> None:
        """A file or a whole folder, as root's."""
        tar = ["tar", "-C", str(source.parent), "--owner=0", "--group=0", "-cf", "-", source.name]
        packed = subprocess.run(tar, capture_output=True, check=True).stdout
        into = f"{target}.coming"
        unpack = f"rm -rf {into} && mkdir -p {into} && tar -C {into} -xf -"
        self.run(f"{unpack} && rm -rf {target} && mv {into}/{source.name} {target} && rmdir {into}", stdin=packed)

    def journal(self, unit: str, *, lines: int = 60) -> str:
        return self.run(f"journalctl --no-pager -o cat -n {lines} -u {unit}", check=False).out

    # -- waiting --

    def wait(self, check: Callable[[], T], *, timeout: float = 30, what: str = "") -> T:
        """Until true; a host that does not answer is one for which it is not true yet."""

        def tried() -> T:
            try:
                return check()
            except VmError as exc:
                time.sleep(0.1)
                raise AssertionError(str(exc)) from None

        return eventually(tried, timeout=timeout, what=f"{self.name}: {what}")

    def wait_up(self, *, timeout: float = 60) -> None:
        """Booted, with no failed unit."""

        def state() -> bool:
            said = self.run("systemctl is-system-running --wait", check=False, timeout=timeout)
            assert said.out.strip() in {"running", "degraded"}, said.text or self.console()
            return True

        self.wait(state, timeout=timeout, what="booted")

    def console(self) -> str:
        return (self.folder / "console").read_text(errors="replace")[-2000:]


def _authorize(home: Path, public: str) -> None:
    owner = home.stat()
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(public)
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, owner.st_uid, owner.st_gid)


def _keeper(groups: list[Path], nspawn: list[str]) -> str:
    """A shell script: the host, and again each time that it ends by asking for a reboot (status 133)."""

    def enter(part: str) -> str:
        return "; ".join(f"echo $$ >{shlex.quote(str(group / part / 'cgroup.procs'))}" for group in groups)

    boot = shlex.quote(f"{enter('')}; exec {shlex.join(nspawn)}")
    return (
        f"{enter('keeper')}; while :; do status=0; sh -ec {boot} || status=$?; [ $status = 133 ] || exit $status; done"
    )
