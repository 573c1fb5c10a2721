"""The root file systems that hosts start from, each built once and kept under a hash of its recipe."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.shell import call

SUITE = "bookworm"
MIRROR = os.environ.get("HOLDFAST_VM_MIRROR", "http://deb.debian.org/debian")
# What a Debian cloud image has of what matters here; no ensurepip and no curl: a bare host must do without.
BARE = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "iproute2", "nftables", "sudo", "ca-certificates",
)  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "bare": (),
    "standard": ("python3-venv", "python3-apt", "curl", "openssl", "libfaketime", "procps"),
}
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


def recipe(variant: str) -> str:
    made_of = [SUITE, MIRROR, sorted(BARE), sorted(VARIANTS[variant]), FINISH]
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
        shutil.rmtree(partial)
    log = image.with_name(image.name + ".log")
    if variant == "bare":
        say(f"Building the image of a bare host (Debian {SUITE}); a minute, once …")
        call(
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(BARE)}",
            SUITE,
            partial,
            MIRROR,
            timeout=900,
            log=log,
        )
        _inside(partial, FINISH, log)
    else:
        bare = find_image("bare", say)
        say(f"Building the image {variant}: {', '.join(VARIANTS[variant])} …")
        call("cp", "-a", "--reflink=auto", bare, partial, timeout=300)
        shutil.copy("/etc/resolv.conf", partial / "etc/resolv.conf")
        install = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(VARIANTS[variant])}"
        tidy = "rm -f /var/cache/apt/archives/*.deb /etc/resolv.conf && touch /etc/resolv.conf"
        _inside(partial, f"set -e; export DEBIAN_FRONTEND=noninteractive; {install}; {tidy}", log)
    partial.rename(image)


def _inside(root: Path, script: str, log: Path) -> None:
    call("chroot", root, "sh", "-c", script, timeout=900, log=log)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
