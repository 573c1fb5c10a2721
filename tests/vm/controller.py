"""A controller: the collection's playbooks, run on hosts over SSH as an operator does it."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.collection import environment
from tests.vm.host import Host

PASSWORD = "a password of this test"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class Played:
    """What a run said, and how it ended."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text

    @property
    def changed(self) -> dict[str, int]:
        """Host -> how many tasks changed something."""
        return {found[0]: int(found[2]) for found in RECAP.findall(self.text)}

    @property
    def words(self) -> str:
        """Without the line breaks that are the terminal's."""
        return " ".join(self.text.split())


class Controller:
    """A folder with an inventory, the secrets that plays keep, and a distribution folder."""

    def __init__(self, folder: Path, dist: Path) -> None:
        self.folder, self.dist = folder, dist
        folder.mkdir(exist_ok=True)

    def write(
        self, groups: Mapping[str, Sequence[Host]], hosts: Mapping[str, Mapping[str, Any]], **variables: Any
    ) -> None:
        """The inventory; `hosts` has each one's own variables."""
        members = {host.name: host for group in groups.values() for host in group}
        document = {
            "all": {
                "vars": {
                    "ansible_user": "admin",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "holdfast_trust_domain": "vm.holdfast",
                    "holdfast_cluster": "vm",
                    **variables,
                },
                "hosts": {
                    name: {
                        "ansible_host": host.address,
                        "ansible_ssh_common_args": " ".join(host.ssh_options()),
                        **hosts.get(name, {}),
                    }
                    for name, host in members.items()
                },
                "children": {name: {"hosts": {host.name: {} for host in group}} for name, group in groups.items()},
            }
        }
        (self.folder / "inventory.yml").write_text(yaml.safe_dump(document))

    def forget_connections(self) -> None:
        """Ansible would go on with those to hosts that are gone."""
        shutil.rmtree(self.folder / "ansible-home/cp", ignore_errors=True)

    def play(
        self,
        name: str,
        *words: str,
        dist: Path | None = None,
        timeout: float = 1500,
        check: bool = True,
        until: re.Pattern[str] | None = None,
    ) -> Played:
        """`ansible-playbook holdfast.mesh.NAME`. With `until`: killed as soon as its output has that."""
        command = ["ansible-playbook", "-i", "inventory.yml", f"holdfast.mesh.{name}", *words]
        command += ["-e", json.dumps({"holdfast_dist": str(dist or self.dist)})]
        more = {
            "HOLDFAST_SECRETS_PASSWORD": PASSWORD,
            "ANSIBLE_FORKS": "8",
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s",
        }
        log = self.folder / f"{name}.log"
        with log.open("w") as said:  # as it comes, so that it can be looked at meanwhile
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment(self.folder, more), stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                if until:
                    _wait_for(until, log, process, timeout)
                else:
                    process.wait(timeout)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with its workers: as a controller that is gone
                process.wait()
        played = Played(process.returncode, log.read_text())
        if until:
            assert played.code == -signal.SIGKILL, played.text[-6000:]
        elif check:
            assert played.code == 0, played.text[-6000:]
        return played


def _wait_for(until: re.Pattern[str], log: Path, process: subprocess.Popen[bytes], timeout: float) -> None:
    """Or until the play has ended."""
    end = time.monotonic() + timeout
    while process.poll() is None and not until.search(log.read_text()):
        assert time.monotonic() < end, f"{log.name} has no {until.pattern} after {timeout:g} s"
        time.sleep(0.05)
