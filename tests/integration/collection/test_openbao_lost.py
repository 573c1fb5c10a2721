"""The play `restore --tags openbao` against a real OpenBao that lost all data and was made anew."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from controlplane.demo.bao import MOUNT, Bao
from tests.integration.collection.alone import ETC, MARKS, Alone, keep, opened, run_alone
from tests.support.collection import ROOT

pytestmark = MARKS

GIVEN_UP = ("-e", "holdfast_restore_openbao=mesh.example")
BACKUP = f"""
- hosts: all
  vars: {{__backup_folder: "{{{{ inventory_dir }}}}/backup"}}
  tasks:
  - ansible.builtin.import_role: {{name: holdfast.mesh.common, tasks_from: known}}
  - ansible.builtin.include_tasks: {ROOT}/ansible/playbooks/tasks/openbao.yml
  - ansible.builtin.copy: {{content: "{{{{ __bao_root }}}}", dest: "{{{{ inventory_dir }}}}/root"}}
"""


class Lost(Alone):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, holdfast_openbao_key_shares=1, holdfast_openbao_key_threshold=1)
        self.bao = Bao(folder / "bao")
        self.bao.port = 8200
        (folder / "backup.yml").write_text(BACKUP)

    def kept(self) -> dict[str, Any]:
        """OpenBao's shares and token."""
        return opened(self.secrets / "openbao-init.vault")

    def keep_shares(self) -> None:
        made = json.loads((self.bao.directory / "init.json").read_text())
        keep(self.secrets / "openbao-init.vault", json.dumps({"keys": [made["key"]], "token": made["token"]}))

    def root(self) -> str:
        return self.bao.call("GET", f"{MOUNT}/cert/ca", token="")["data"]["certificate"]

    def sealed(self) -> bool:
        return self.bao.call("GET", "sys/seal-status", token="")["sealed"]

    def logs_in(self) -> bool:
        ids = {name.replace("-", "_"): (ETC / "controlplane" / name).read_text() for name in ("role-id", "secret-id")}
        return bool(self.bao.call("POST", "auth/approle/login", ids, token="")["auth"]["client_token"])

    def restore(self, *words: str, until: str = "") -> str:
        return self.play("--tags", "openbao", "-e", "holdfast_backup=backup", *words, until=until)

    def back_up(self) -> None:
        assert "failed=0" in self.play(playbook="backup.yml")
        keep(self.backup / "store.ndjson.vault", "{}")
        shutil.copy(self.secrets / "openbao-init.vault", self.backup)
        self.describe_backup(openbaoRoot=(self.folder / "root").read_text())

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
        it.bao.process.wait_until(it.sealed, what="seal itself", timeout=120)
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
    run_alone(__name__, tmp_path)


if __name__ == "__main__":
    scenario(Path(sys.argv[1]))
