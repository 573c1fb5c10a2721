"""Plays on this machine, in namespaces of their own: a module's ports are its own there, and /etc is a copy."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.integration.hostd.hosts import can_make_namespaces
from tests.support.collection import ROOT, environment

MARKS = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root, and mounts of its own"),
]
PASSWORD = "as long as it must be"
VAULT = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(PASSWORD.encode()))])
ETC = Path("/etc/holdfast")
PLAY_SECONDS = 500
"""For one play: some twenty on a machine that has nothing else to do."""
HOST = """
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
ip link set lo up
useradd -r holdfast-controlplane
exec "$2" -m "$3" "$4"
"""
# Roles refuse a host without systemd, which this one need not have: nothing here asks for it.
FIRST = """
- hosts: all
  tags: [always]
  tasks:
  - ansible.builtin.setup: {gather_subset: [min]}
  - ansible.builtin.set_fact: {service_mgr: systemd, ansible_service_mgr: systemd, cacheable: true}
"""


def run_alone(module: str, tmp_path: Path) -> None:
    """`python -m MODULE FOLDER` in namespaces: its `main` is the scenario, and fails with what was said."""
    (tmp_path / "scratch").mkdir()
    words = ["host", str(tmp_path / "scratch"), sys.executable, module, str(tmp_path / "it")]
    done = subprocess.run(
        ["unshare", "-mn", "sh", "-ec", HOST, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def keep(path: Path, text: str) -> None:
    """As the roles keep it."""
    path.write_bytes(base64.b64encode(VAULT.encrypt(text)))


def opened(path: Path) -> dict[str, Any]:
    """What is kept there, as plays read it."""
    found: dict[str, Any] = json.loads(VAULT.decrypt(base64.b64decode(path.read_text())))
    return found


class Alone:
    """One host, cp-1, of all groups; and its controller's folder, with a backup in it."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        self.folder, self.secrets, self.backup = folder, folder / "secrets", folder / "backup"
        for made in (self.secrets, self.backup, folder / "dist", ETC / "openbao", ETC / "controlplane", ETC / "etcd"):
            made.mkdir(parents=True)
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
        hosts = {"hosts": {"cp-1": {"ansible_host": "127.0.0.1"}}}
        groups = dict.fromkeys(("holdfast_etcd", "holdfast_openbao", "holdfast_controlplane"), hosts)
        (folder / "inventory.json").write_text(json.dumps({"all": {"vars": {**here, **variables}, "children": groups}}))
        wheels = [{"kind": "wheel", "arch": "any", "python": "any", "name": n} for n in ("holdfast", "grpcio", "pip")]
        (folder / "dist/manifest.json").write_text(json.dumps({"version": "0.1.0", "files": wheels}))
        (folder / "first.yml").write_text(FIRST)

    def play(self, *words: str, until: str = "", playbook: str = "holdfast.mesh.restore") -> str:
        """What it says, in one line; with `until` it is killed as soon as it says that."""
        more = {"HOLDFAST_SECRETS_PASSWORD": PASSWORD, "ANSIBLE_GATHERING": "explicit"}
        command = ["ansible-playbook", "-i", "inventory.json", "first.yml", playbook, *words]
        log = self.folder / "play.log"
        with log.open("w") as said:
            play = subprocess.Popen(
                command, cwd=self.folder, env=environment(self.folder, more), stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            end = time.monotonic() + PLAY_SECONDS
            while play.poll() is None and not (until and until in log.read_text()):
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            if play.poll() is None:
                os.killpg(play.pid, signal.SIGKILL)
            play.wait()
        text = " ".join(log.read_text().split())
        print(text, flush=True)
        return text

    def describe_backup(self, **more: str) -> None:
        """Its backup.json, of the files that are in it."""
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.backup.iterdir()}
        files = {name: digest for name, digest in files.items() if not name.startswith("backup.json")}
        what = {"format": 1, "trustDomain": "mesh.example", "cluster": "default", "created": "now", **more}
        said = json.dumps({**what, "sha256": files})
        (self.backup / "backup.json").write_text(said)
        keep(self.backup / "backup.json.vault", said)
