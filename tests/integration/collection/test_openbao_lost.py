"""The play `restore --tags openbao` against a real OpenBao that lost all data and was made anew.

It runs in namespaces of its own: OpenBao has its port there, and /etc is a copy. As a program, this is what runs there.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret

from controlplane.demo.bao import MOUNT, Bao
from tests.integration.hostd.hosts import can_make_namespaces
from tests.support.collection import ROOT, environment

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root, and mounts of its own"),
]

PASSWORD = "as long as it must be"
VAULT = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(PASSWORD.encode()))])
ETC = Path("/etc/holdfast")
GIVEN_UP = ("-e", "holdfast_restore_openbao=mesh.example")
HOST = """
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
ip link set lo up
useradd -r holdfast-controlplane
exec "$2" -m tests.integration.collection.test_openbao_lost "$3"
"""
# Roles refuse a host without systemd, which this one need not have: nothing here asks for it.
FIRST = """
- hosts: all
  tags: [always]
  tasks:
  - ansible.builtin.setup: {gather_subset: [min]}
  - ansible.builtin.set_fact: {service_mgr: systemd, ansible_service_mgr: systemd, cacheable: true}
"""
BACKUP = f"""
- hosts: all
  vars: {{__backup_folder: "{{{{ inventory_dir }}}}/backup"}}
  tasks:
  - ansible.builtin.import_role: {{name: holdfast.mesh.common, tasks_from: known}}
  - ansible.builtin.include_tasks: {ROOT}/ansible/playbooks/tasks/openbao.yml
  - ansible.builtin.copy: {{content: "{{{{ __bao_root }}}}", dest: "{{{{ __backup_folder }}}}/root"}}
"""


def opened(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(VAULT.decrypt(base64.b64decode(path.read_text())))
    return found


class Lost:
    def __init__(self, folder: Path) -> None:
        self.folder, self.secrets, self.backup = folder, folder / "secrets", folder / "backup"
        self.bao = Bao(folder / "bao")
        self.bao.port = 8200
        for made in (self.secrets, ETC / "openbao", ETC / "controlplane"):
            made.mkdir(parents=True)
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "holdfast_openbao_key_shares": 1,
            "holdfast_openbao_key_threshold": 1,
        }
        hosts = {"hosts": {"cp-1": {"ansible_host": "127.0.0.1"}}}
        groups = dict.fromkeys(("holdfast_etcd", "holdfast_openbao", "holdfast_controlplane"), hosts)
        (folder / "inventory.json").write_text(json.dumps({"all": {"vars": variables, "children": groups}}))
        wheels = [{"kind": "wheel", "arch": "any", "python": "any", "name": n} for n in ("holdfast", "grpcio", "pip")]
        (folder / "dist").mkdir()
        (folder / "dist/manifest.json").write_text(json.dumps({"version": "0.1.0", "files": wheels}))
        (folder / "first.yml").write_text(FIRST)
        (folder / "backup.yml").write_text(BACKUP)

    def keep(self, path: Path, text: str) -> None:
        """As the roles keep it."""
        path.write_bytes(base64.b64encode(VAULT.encrypt(text)))

    def kept(self) -> dict[str, Any]:
        """OpenBao's shares and token, as plays read them."""
        return opened(self.secrets / "openbao-init.vault")

    def keep_shares(self) -> None:
        made = json.loads((self.bao.directory / "init.json").read_text())
        self.keep(self.secrets / "openbao-init.vault", json.dumps({"keys": [made["key"]], "token": made["token"]}))

    def root(self) -> str:
        return self.bao.call("GET", f"{MOUNT}/cert/ca", token="")["data"]["certificate"]

    def sealed(self) -> bool:
        return self.bao.call("GET", "sys/seal-status", token="")["sealed"]

    def logs_in(self) -> bool:
        ids = {name.replace("-", "_"): (ETC / "controlplane" / name).read_text() for name in ("role-id", "secret-id")}
        return bool(self.bao.call("POST", "auth/approle/login", ids, token="")["auth"]["client_token"])

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
            end = time.monotonic() + 120
            while play.poll() is None and not (until and until in log.read_text()):
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            if play.poll() is None:
                os.killpg(play.pid, signal.SIGKILL)
            play.wait()
        text = " ".join(log.read_text().split())
        print(text, flush=True)
        return text

    def restore(self, *words: str, until: str = "") -> str:
        return self.play("--tags", "openbao", "-e", "holdfast_backup=backup", *words, until=until)

    def back_up(self) -> None:
        assert "failed=0" in self.play(playbook="backup.yml")
        root = (self.backup / "root").read_text()
        (self.backup / "root").unlink()
        self.keep(self.backup / "store.ndjson.vault", "{}")
        shutil.copy(self.secrets / "openbao-init.vault", self.backup)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.backup.iterdir()}
        what = {"format": 1, "trustDomain": "mesh.example", "cluster": "default", "created": "now", "openbaoRoot": root}
        (self.backup / "backup.json").write_text(json.dumps({**what, "sha256": files}))

    def lose(self) -> None:
        """All data of OpenBao; what is made in its place is another one, under the same certificate."""
        self.bao.stop()
        shutil.rmtree(self.bao.directory / "data")
        (self.bao.directory / "data").mkdir(mode=0o700)
        (self.bao.directory / "init.json").unlink()
        self.bao.start()
        self.bao.set_up("mesh.example")
        self.keep_shares()


def scenario(folder: Path) -> None:
    it = Lost(folder)
    with it.bao:
        it.bao.set_up("mesh.example")
        it.keep_shares()
        shutil.copy(it.bao.ca_file, ETC / "openbao/ca.pem")
        shutil.copy(it.bao.ca_file, ETC / "controlplane/vault-ca.pem")
        shutil.copy(it.bao.ca_file, it.secrets / "openbao-ca.pem")
        for path in (it.bao.role_id_file, it.bao.secret_id_file):
            shutil.copy(path, ETC / "controlplane")
        root, shares = it.root(), it.kept()
        it.back_up()
        # It has what the backup says: nothing is done, whatever is given up.
        assert re.search(r"cp-1 : ok=\d+ changed=0 unreachable=0 failed=0", it.restore(*GIVEN_UP))

        it.lose()
        other, others = it.root(), it.kept()
        assert other != root
        assert "OpenBao has another root than the backup's" in it.restore("-e", "holdfast_restore_confirm=mesh.example")
        assert "failed=0" in it.restore("--check", *GIVEN_UP)
        assert (it.root(), it.kept()) == (other, others)

        it.restore(*GIVEN_UP, until="TASK [Wait until this member has sealed itself]")
        it.bao.process.wait_until(it.sealed, what="seal itself")
        assert it.kept() == others
        # Another play finishes it; nothing is overwritten any more, so nothing need be given up.
        finished = it.restore()
        assert "failed=0" in finished
        assert (it.root(), it.kept()) == (root, shares)
        assert it.logs_in()
        for secret in (*shares["keys"], *others["keys"], shares["token"], others["token"]):
            assert secret not in finished
        # What the shares replaced opens the one that was overwritten.
        beside = list(it.secrets.glob("openbao-init.vault.*"))
        assert [opened(path) for path in beside] == [others]


def test_an_openbao_that_was_lost_has_its_root_again_also_after_a_play_that_was_killed(tmp_path: Path):
    (tmp_path / "scratch").mkdir()
    done = subprocess.run(
        ["unshare", "-mn", "sh", "-ec", HOST, "host", str(tmp_path / "scratch"), sys.executable, str(tmp_path / "it")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir()
    scenario(Path(sys.argv[1]))
