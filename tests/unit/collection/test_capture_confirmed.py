"""Does the role confirm capture that is new, on a host that has confirmed another one before?"""

import json
from pathlib import Path

from tests.support.collection import ROOT, ansible

AGENT = """#!/bin/sh
cd {folder}
echo "$*" >>asked
case "$*" in
"status -o json")  # the agent was restarted for the new capture, and tells the helper a moment later
    looks=$(grep -c "^status" asked)
    [ "$looks" -ge 3 ] && echo armed >helper
    [ "$looks" -ge 3 ] && echo '{{"capture": "armed"}}' || echo '{{"capture": ""}}' ;;
"capture confirm") echo confirmed >helper; echo "capture: confirmed" ;;
"capture "*) echo "capture: $(cat helper)" ;;
esac
"""


def test_what_was_confirmed_before_is_not_taken_for_what_is_new(tmp_path: Path):
    agent = tmp_path / "holdfast-agent"
    agent.write_text(AGENT.format(folder=tmp_path))
    agent.chmod(0o755)
    (tmp_path / "helper").write_text("confirmed\n")
    tasks = [
        {"ansible.builtin.include_vars": f"{ROOT}/ansible/roles/agent/vars/main.yml"},
        {"ansible.builtin.include_tasks": f"{ROOT}/ansible/roles/agent/tasks/capture.yml"},
    ]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    done = ansible(tmp_path, "ansible-playbook", "play.yml", "-e", f"__agent_command={agent}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "capture confirm" in (tmp_path / "asked").read_text().splitlines()
