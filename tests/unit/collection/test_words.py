"""What a play says to an operator who forgot something, or said something else than meant. No host is reached."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.support.collection import ROOT, ansible

pytestmark = pytest.mark.slow

INVENTORY = """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}", ansible_become: false}
  children:
    holdfast_etcd: {hosts: {cp-1: , cp-2: , cp-3: }}
    holdfast_controlplane: {hosts: {cp-1: {ansible_host: 127.0.0.1}}}
    holdfast_agent: {hosts: {web-1: {ansible_host: 127.0.0.2}}}
"""
PLAYBOOKS = ROOT / "ansible/playbooks"
PASSWORD = "as long as it must be"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inventory.yml").write_text(INVENTORY)
    return tmp_path


def play(folder: Path, name: str, *words: str, password: str = PASSWORD) -> str:
    more = {"HOLDFAST_SECRETS_PASSWORD": password} if password else {}
    command = ("ansible-playbook", "-i", "inventory.yml", f"holdfast.mesh.{name}", *words)
    done = ansible(folder, *command, more=more)
    assert done.returncode != 0
    # What is shown to the operator, in one line.
    return " ".join((done.stdout + done.stderr).split())


def keep(folder: Path, name: str, text: str, password: str = PASSWORD) -> None:
    """As the roles keep it."""
    vault = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(password.encode()))])
    (folder / name).write_bytes(base64.b64encode(vault.encrypt(text)))


@pytest.mark.parametrize("name", ["backup", "remove_hosts", "restore"])
def test_a_missing_password_is_asked_for(folder: Path, name: str):
    (folder / "secrets").mkdir()
    (folder / "secrets/admin-token.vault").touch()
    said = play(folder, name, "--limit", "cp-1,web-1", password="")
    assert "HOLDFAST_SECRETS_PASSWORD" in said


def test_a_wrong_password_is_told(folder: Path):
    (folder / "secrets").mkdir()
    keep(folder, "secrets/admin-token.vault", "hfo1.0123456789abcdef.secret")
    said = play(folder, "backup", password="another one, as long")
    assert "is not the password that" in said
    assert "secret." not in said


def back_up(folder: Path, **more: Any) -> None:
    """backups/one, with a store of nothing."""
    backup = folder / "backups/one"
    backup.mkdir(parents=True, exist_ok=True)
    store = backup / "store.ndjson.vault"
    if not store.exists():
        keep(folder, "backups/one/store.ndjson.vault", "{}")
    files = {store.name: hashlib.sha256(store.read_bytes()).hexdigest()}
    what = {"format": 1, "trustDomain": "mesh.example", "cluster": "default", "created": "now", "sha256": files}
    said = json.dumps({**what, **more})
    (backup / "backup.json").write_text(said)
    keep(folder, "backups/one/backup.json.vault", said)


RESTORE = ("restore", "-e", "holdfast_backup=backups/one")


def refusal(folder: Path, password: str = PASSWORD) -> str:
    """What `restore` says of a backup that is none: its own tasks as far as that, without the site's roles."""
    (book,) = [p for p in read("restore.yml") if p["name"] == "The backup, and what is there now"]
    names = [task["name"] for task in book["tasks"]]
    tasks = placed(book["tasks"][: names.index("Check that it is whole") + 1])
    (folder / "whole.yml").write_text(json.dumps([{**book, "gather_facts": False, "tasks": tasks}]))
    more = {"HOLDFAST_SECRETS_PASSWORD": password}
    done = ansible(folder, "ansible-playbook", "-i", "inventory.yml", "whole.yml", *RESTORE[1:], more=more)
    assert done.returncode != 0
    return " ".join((done.stdout + done.stderr).split())


def read(playbook: str) -> Any:
    return yaml.safe_load((PLAYBOOKS / playbook).read_text())


def placed(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tasks of a playbook, for one that lies elsewhere."""
    for task in tasks:
        if file := task.get("ansible.builtin.include_tasks"):
            task["ansible.builtin.include_tasks"] = str(PLAYBOOKS / file)
    return tasks


def test_a_backup_is_named_from_where_the_operator_stands(folder: Path):
    back_up(folder, trustDomain="another.example")
    assert "backups/one is of another.example" in refusal(folder)
    back_up(folder)
    assert "makes an empty one" in play(folder, *RESTORE)


def test_a_backup_s_password_and_what_is_kept_here_need_be_one(folder: Path):
    back_up(folder)
    said = refusal(folder, password="another one, as long")
    assert "is not the password that backups/one was encrypted with" in said
    (folder / "secrets").mkdir()
    keep(folder, "secrets/seal-key.vault", "a key", "the one before it was changed")
    assert "or not the one of what is in" in refusal(folder)


def test_a_backup_without_a_store_or_with_files_elsewhere_is_none(folder: Path):
    for listed in ({}, {"store.ndjson.vault": "", "../inventory.yml": ""}):
        back_up(folder, sha256=listed)
        assert "files that no backup has" in refusal(folder)


def test_a_backup_is_bound_to_its_password_with_what_is_in_clear_in_it(folder: Path):
    """Whoever can write there could have operators and etcd trust a CA of his own."""
    backup = folder / "backups/one"
    back_up(folder)
    (backup / "ca.pem").write_text("somebody's")
    what = json.loads((backup / "backup.json").read_text())
    what["sha256"]["ca.pem"] = hashlib.sha256(b"somebody's").hexdigest()
    (backup / "backup.json").write_text(json.dumps(what))
    assert "is not what holdfast.mesh.backup wrote there" in refusal(folder)
    (backup / "backup.json.vault").unlink()
    assert "is not what holdfast.mesh.backup wrote there" in refusal(folder)


def test_what_the_play_writes_of_a_backup_is_what_restore_believes(folder: Path):
    """The end of `backup`, without a mesh: what it says of the files, kept twice."""
    back_up(folder)
    backup = folder / "backups/one"
    for path in backup.glob("backup.json*"):
        path.unlink()
    (book,) = [p for p in read("backup.yml") if p["name"] == "A backup"]
    names = [task["name"] for task in book["tasks"]]
    tasks = placed(book["tasks"][names.index("Find all that was kept") :])
    head = {"trustDomain": "mesh.example", "cluster": "default", "revision": 7}
    known = {"__backup_folder": str(backup), "__backup_head": head, "__backup_foot": {"keys": 3}}
    role = {"ansible.builtin.import_role": {"name": "holdfast.mesh.common", "tasks_from": "known"}}
    plays = [{"hosts": "cp-1", "gather_facts": False, "vars": known, "tasks": [role, *tasks]}]
    (folder / "end.yml").write_text(json.dumps(plays))
    more = {"HOLDFAST_SECRETS_PASSWORD": PASSWORD}
    done = ansible(folder, "ansible-playbook", "-i", "inventory.yml", "end.yml", more=more)
    assert done.returncode == 0, done.stdout
    assert {path.name for path in backup.iterdir()} == {"backup.json", "backup.json.vault", "store.ndjson.vault"}
    assert "makes an empty one" in play(folder, *RESTORE)


def test_a_restore_leaves_no_host_out(folder: Path):
    assert "Restore without --limit" in play(folder, "restore", "--limit", "cp-1")


def test_a_restore_says_what_to_do_while_a_host_cannot_be_reached(folder: Path):
    document = yaml.safe_load(INVENTORY)
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}  # nobody listens there
    here = {"ansible_connection": "local", "ansible_host": "127.0.0.1"}
    document["all"]["children"]["holdfast_controlplane"]["hosts"] = {"cp-1": away, "cp-2": here, "cp-3": here}
    (folder / "inventory.yml").write_text(yaml.safe_dump(document))
    back_up(folder)
    said = play(folder, *RESTORE)
    assert "cp-1 cannot be reached, and a restore needs all of cp-1, cp-2, cp-3" in said
    assert "take it out of the inventory, restore, and put it back then. (Nothing was changed.)" in said


LEAVE = ("remove_hosts", "--limit", "web-1")


def test_another_control_plane_host_is_asked_where_the_first_cannot_be_reached(folder: Path):
    (folder / "secrets").mkdir()
    keep(folder, "secrets/admin-token.vault", "hfo1.0123456789abcdef.secret")
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}  # nobody listens there
    here = {"ansible_connection": "local", "ansible_host": "127.0.0.1"}
    document = yaml.safe_load(INVENTORY)
    of_planes = document["all"]["children"]["holdfast_controlplane"]
    for planes, plays in (
        ({"cp-1": away, "cp-2": here, "cp-3": here}, (LEAVE, ("backup",))),
        ({"cp-1": away}, (LEAVE,)),
    ):
        of_planes["hosts"] = planes
        (folder / "inventory.yml").write_text(yaml.safe_dump(document))
        for words in plays:
            said = play(folder, *words)
            assert ("cp-2 is asked: cp-1 cannot be reached" in said) == ("cp-2" in planes), said
            assert ("none of cp-1 can be reached from here" in said) == ("cp-2" not in planes), said


def test_a_name_in_the_place_of_an_address_is_told_before_anything_is_made(folder: Path):
    roles = ROOT / "ansible/roles"
    tasks = [
        {"ansible.builtin.include_vars": f"{roles}/common/{{{{ item }}}}/main.yml", "loop": ["defaults", "vars"]},
        {"ansible.builtin.include_tasks": f"{roles}/common/tasks/preflight.yml"},
    ]
    (folder / "check.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    addresses = {"a": "web.example.net", "b": "10.0.0.7", "c": "2001:db8::7", "d": "10.0.0.7:22"}
    hosts = {name: {"ansible_host": address, "ansible_connection": "local"} for name, address in addresses.items()}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    done = ansible(folder, "ansible-playbook", "-i", "hosts.json", "check.yml")
    fatal = [line for line in done.stdout.splitlines() if line.startswith("fatal: [")]
    told = {line[len("fatal: [")] for line in fatal if "must be the IP address where" in line}
    assert told == {"a", "d"}, done.stdout


def test_an_empty_member_forms_no_cluster_while_others_were_not_asked(folder: Path):
    roles = ROOT / "ansible/roles"
    tasks = [
        {"ansible.builtin.include_vars": f"{roles}/common/vars/main.yml"},
        # What its preflight found here. The others had none: left out, or not reached.
        {"ansible.builtin.set_fact": {"__etcd_has_data": False}},
        {"ansible.builtin.include_tasks": f"{roles}/etcd/tasks/run.yml"},
    ]
    (folder / "run.yml").write_text(json.dumps([{"hosts": "holdfast_etcd", "gather_facts": False, "tasks": tasks}]))
    command = ("ansible-playbook", "-i", "inventory.yml", "--check", "run.yml", "--limit", "cp-1,cp-3")
    done = ansible(folder, *command)
    said = " ".join(done.stdout.split())
    assert "cp-3 has no data, and whether cp-2 has some is not known" in said
    assert "Write how the first cluster forms" not in said
