"""The root file systems that hosts start from, each built once and kept under a hash of its recipe."""

import fcntl
import hashlib
import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.shell import VmError, call

# Run inside once. SSH keys are each host's own; a login prompt on a console that nobody reads costs a process.
FINISH = """
set -e
rm -f /etc/ssh/ssh_host_* /etc/machine-id /etc/resolv.conf /var/cache/apt/archives/*.deb
touch /etc/machine-id /etc/resolv.conf
useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/admin
chmod 0440 /etc/sudoers.d/admin
systemctl enable systemd-networkd ssh
systemctl mask console-getty.service getty.target systemd-firstboot.service
"""
# As on Ubuntu's own images: SSH by its socket unit, names by systemd-resolved, /etc/hosts by cloud-init at every boot.
FINISH_UBUNTU = """
systemctl disable ssh.service
systemctl enable ssh.socket systemd-resolved
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
mkdir -p /var/lib/cloud/seed/nocloud
echo 'instance-id: vm' > /var/lib/cloud/seed/nocloud/meta-data
echo '#cloud-config' > /var/lib/cloud/seed/nocloud/user-data
cat > /etc/cloud/cloud.cfg.d/99-vm.cfg <<END
datasource_list: [NoCloud]
network: {config: disabled}
manage_etc_hosts: true
preserve_hostname: true
ssh_deletekeys: false
disable_root: false
locale: false
END
"""


@dataclass(frozen=True)
class System:
    """A distribution, and of its packages what a cloud image has of what matters here."""

    suite: str
    mirror: str
    packages: tuple[str, ...]
    finish: str = FINISH
    options: tuple[str, ...] = ()
    keyring: tuple[str, str, str] | None = None
    """Where it lies, if it is installed here; else a package at the mirror that has it there, and its SHA-256."""
    script: str = ""
    """Debootstrap's, where it does not know the suite."""


# No ensurepip and no curl: a bare host must do without.
BARE = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "iproute2", "nftables", "sudo", "ca-certificates",
)  # fmt: skip
MIRROR = os.environ.get("HOLDFAST_VM_MIRROR", "http://deb.debian.org/debian")
DEBIAN = System("bookworm", MIRROR, BARE)
UBUNTU = System(
    "noble",
    os.environ.get("HOLDFAST_VM_UBUNTU_MIRROR", "http://archive.ubuntu.com/ubuntu"),
    (*BARE, "systemd-resolved", "netplan.io", "ufw", "cloud-init"),
    FINISH + FINISH_UBUNTU,
    options=("--components=main,universe",),
    keyring=(
        "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb",
        "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8",
    ),
    script="gutsy",
)
SYSTEMS = {"bare": DEBIAN, "ubuntu": UBUNTU}
# On top of the bare one.
VARIANTS: dict[str, tuple[str, ...]] = {
    "standard": ("python3-venv", "python3-apt", "curl", "openssl", "libfaketime", "procps"),
    # Other people's packet rules. None of them runs until a test starts it.
    "firewalls": ("firewalld", "ufw", "docker.io", "iptables", "curl"),
}
# Run inside after a variant's packages were installed.
AFTER = {"firewalls": ("systemctl disable firewalld ufw docker.service docker.socket containerd",)}


def names() -> list[str]:
    return [*SYSTEMS, *VARIANTS]


def recipe(variant: str) -> str:
    system = SYSTEMS.get(variant, DEBIAN)
    more = sorted(VARIANTS.get(variant, ()))
    made_of = [system.suite, system.mirror, sorted(system.packages), more, system.finish, *AFTER.get(variant, ())]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "holdfast" / "vm"


def find_image(variant: str, say: Callable[[str], None]) -> Path:
    """The image's root, built now if it is not there; one builder at a time, the others wait for it."""
    image = cache_folder() / f"{variant}-{recipe(variant)}"
    if image.is_dir():
        return image
    image.parent.mkdir(parents=True, exist_ok=True)
    with _locked(image.with_name(image.name + ".lock")):
        if not image.is_dir():
            _build(image, variant, say)
    return image


def _build(image: Path, variant: str, say: Callable[[str], None]) -> None:
    partial = image.with_name(image.name + ".partial")
    if partial.exists():
        for inner in ("proc", "sys"):  # of a debootstrap that was broken off
            call("umount", partial / inner, check=False)
        shutil.rmtree(partial)
    log = image.with_name(image.name + ".log")
    if variant in SYSTEMS:
        _bootstrap(partial, SYSTEMS[variant], say, log)
    else:
        bare = find_image("bare", say)
        say(f"Building the image {variant}: {', '.join(VARIANTS[variant])} …")
        call("cp", "-a", "--reflink=auto", bare, partial, timeout=300)
        shutil.copy("/etc/resolv.conf", partial / "etc/resolv.conf")
        install = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(VARIANTS[variant])}"
        tidy = "rm -f /var/cache/apt/archives/*.deb /etc/resolv.conf && touch /etc/resolv.conf"
        steps = "; ".join((install, *AFTER.get(variant, ()), tidy))
        _inside(partial, f"set -e; export DEBIAN_FRONTEND=noninteractive; {steps}", log)
    partial.rename(image)


def _bootstrap(partial: Path, system: System, say: Callable[[str], None], log: Path) -> None:
    say(f"Building the image of a bare host ({system.suite}); some minutes, once …")
    keys = _keyring(system, log.with_suffix(".keys"))
    known = Path("/usr/share/debootstrap/scripts", system.suite).exists()
    call(
        "debootstrap", "--variant=minbase", f"--include={','.join(system.packages)}", *system.options,
        *((f"--keyring={keys}",) if keys else ()), system.suite, partial, system.mirror,
        *(() if known or not system.script else (f"/usr/share/debootstrap/scripts/{system.script}",)),
        timeout=1800, log=log,
    )  # fmt: skip
    _inside(partial, system.finish, log)


def _keyring(system: System, folder: Path) -> Path | None:
    """The keys that the suite's index is signed with; None where this machine has them for its own packages."""
    if system.keyring is None:
        return None
    usual, package, sha256 = system.keyring
    if Path(usual).exists():
        return Path(usual)
    folder.mkdir(exist_ok=True)
    with urllib.request.urlopen(f"{system.mirror}/{package}", timeout=60) as answer:
        raw = answer.read()
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise VmError(f"{system.mirror}/{package} is not what it should be: its SHA-256 is another one")
    file = folder / "keyring.deb"
    file.write_bytes(raw)
    call("dpkg-deb", "-x", file, folder)
    return folder / usual.lstrip("/")


def _inside(root: Path, script: str, log: Path) -> None:
    call("chroot", root, "sh", "-c", script, timeout=900, log=log)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
