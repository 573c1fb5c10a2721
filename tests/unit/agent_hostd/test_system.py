"""What unprivileged users of a host might try on the helper's hands."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.hostd import system

LISTEN = """
import socket
link = socket.socket(socket.AF_INET6)
link.bind(("::1", 0))
link.listen()
print(link.getsockname()[1], flush=True)
input()
"""


@contextmanager
def called_sshd(folder: Path, uid: int) -> Iterator[int]:
    """A process of this user that calls itself so; yields the port on which it listens."""
    program = folder / "sshd"
    program.unlink(missing_ok=True)
    program.symlink_to(Path(sys.executable).resolve())
    command = ["setpriv", f"--reuid={uid}", "--clear-groups", str(program), "-c", LISTEN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_nobody_spares_a_port_from_capture_by_calling_his_process_sshd(tmp_path: Path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)  # others look into it, too
    with called_sshd(tmp_path, 0) as own:
        assert own in system.ssh_ports()
    with called_sshd(tmp_path, 65534) as anybodys:
        assert anybodys not in system.ssh_ports()


def test_a_link_in_the_way_of_the_new_file_is_not_followed(tmp_path: Path):
    hosts, precious = tmp_path / "hosts", tmp_path / "precious"
    hosts.write_text("127.0.0.1 localhost\n")
    precious.write_text("precious")
    (tmp_path / ".hosts.holdfast").symlink_to(precious)
    system.replace_file(hosts, b"new")
    assert (hosts.read_bytes(), precious.read_text()) == (b"new", "precious")
