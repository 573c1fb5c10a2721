"""What a host is like: files, units, users, addresses and packet filter, so that two moments can be compared."""

from tests.vm.host import Host

SCRIPT = r"""
import hashlib, os, pathlib, stat, subprocess
# What the system itself keeps changing: its random seed and timers; the package manager's own state.
LEFT_OUT = ("/var/lib/systemd", "/var/lib/dpkg", "/var/lib/apt")
for top in ("/etc", "/usr/local", "/opt", "/var/lib"):
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if os.path.join(folder, name) not in LEFT_OUT)
        for name in sorted([*files, *folders]):
            path = pathlib.Path(folder, name)
            found = path.lstat()
            if path.is_symlink():
                what = "-> " + os.readlink(path)
            elif stat.S_ISREG(found.st_mode):
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                what = "folder"
            print(path, oct(found.st_mode), found.st_uid, found.st_gid, what)
for command in (
    "systemctl list-unit-files --no-legend --no-pager",
    "getent passwd", "getent group", "ip -o address show", "ls /sys/class/net", "ip rule",
    "ip -4 route show table all", "nft -s list ruleset",
):
    said = subprocess.run(command.split(), capture_output=True, text=True).stdout
    # How long an address is still good for, and that a fresh one is still being tried, are no part of it.
    # Nor is which SSH sessions are just ending.
    for line in said.splitlines():
        if line.startswith("session-") and " transient" in line:
            continue
        words = line.split("valid_lft")[0].replace(" tentative", "").split()
        print(command.split()[0], " ".join(words))
"""


def manifest(host: Host) -> list[str]:
    return host.run("python3 -", stdin=SCRIPT).out.splitlines()


def difference(before: list[str], after: list[str]) -> list[str]:
    """Lines that went and lines that came, with - and +."""
    return [
        *(f"- {line}" for line in before if line not in set(after)),
        *(f"+ {line}" for line in after if line not in set(before)),
    ]
