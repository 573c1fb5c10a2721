"""What the roles write is what the programs read; what their arguments are said to be is what they are."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from agent import definitions
from agent import settings as agent_settings
from controlplane import settings as plane_settings
from tests.support.collection import ROOT, ansible

ROLES = ROOT / "ansible/roles"

INVENTORY = """
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    holdfast_trust_domain: vm.holdfast
    holdfast_cluster: vm
  children:
    holdfast_etcd: {hosts: {cp-1: , cp-2: }}
    holdfast_openbao: {hosts: {cp-1: }}
    holdfast_controlplane:
      hosts: {cp-1: {ansible_host: 10.0.0.1}, cp-2: {ansible_host: "2001:db8::2"}}
    holdfast_agent:
      hosts:
        gw-1:
          ansible_host: "2001:db8::9"
          holdfast_bind: "10.0.0.4"
          holdfast_gateway: true
          holdfast_agent_settings: {gateway: {sourceRanges: [10.0.0.0/24]}}
        web-1:
          ansible_host: 10.0.0.3
          holdfast_services:
          - name: web
            namespace: shop
            ports: [{port: 8080, protocol: http}]
            callers: {users: [web]}
            upstreams: [{service: api, port: 80}]
          - {name: mail, serviceAccount: post, ports: [{port: 25}]}
          holdfast_capture: {inbound: {ports: [8080], onFailure: closed}}
          holdfast_agent_settings: {locality: eu/a, envoy: {concurrency: 2}}
"""

PLAY = f"""
- hosts: all
  gather_facts: false
  tasks:
  - ansible.builtin.include_vars: {ROLES}/{{{{ item }}}}.yml
    loop: [common/defaults/main, common/vars/main, controlplane/defaults/main, controlplane/vars/main, agent/vars/main,
      etcd/defaults/main, etcd/vars/main, openbao/defaults/main]
  - ansible.builtin.include_vars: {{file: {ROLES}/agent/defaults/main.yml, name: agent_defaults}}
  - ansible.builtin.set_fact: {{"{{{{ item.key }}}}": "{{{{ item.value }}}}"}}
    loop: "{{{{ agent_defaults | dict2items }}}}"
    when: hostvars[inventory_hostname][item.key] is not defined
  # What is written is collected, and written once: a module that is run costs more than all that is tested here.
  - ansible.builtin.set_fact:
      __written: "{{{{ __written | default({{}}) | combine({{item | basename: __text}}) }}}}"
    loop: "{{{{ __templates + (__of_stores if inventory_hostname in groups.holdfast_etcd else []) }}}}"
    vars:
      __text: "{{{{ lookup('template', '{ROLES}/' ~ item ~ '.j2') }}}}"
      __templates: [agent/templates/agent.yaml, controlplane/templates/controlplane.yaml]
      __of_stores: [etcd/templates/etcd.env, openbao/templates/bao.hcl]
  - ansible.builtin.set_fact:
      __written: "{{{{ __written | combine({{'services.d/' ~ item.0: __text}}) }}}}"
    loop: "{{{{ __agent_service_files | zip(holdfast_services) }}}}"
    vars: {{__text: "{{{{ lookup('template', '{ROLES}/agent/templates/service.yaml.j2') }}}}"}}
  - ansible.builtin.set_fact:
      __written: "{{{{ __written | combine({{'identities': __identities, 'roles': __roles}}) }}}}"
    vars: {{__identities: "{{{{ __agent_identities | to_json }}}}", __roles: "{{{{ __agent_roles | to_json }}}}"}}
  - ansible.builtin.copy:
      content: "{{{{ dict(hosts | zip(hosts | map('extract', hostvars, '__written'))) | to_json }}}}"
      dest: "{{{{ inventory_dir }}}}/written.json"
    vars: {{hosts: "{{{{ ansible_play_hosts }}}}"}}
    run_once: true
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the templates make, in a folder for each host."""
    folder = tmp_path_factory.mktemp("roles")
    (folder / "inventory.yml").write_text(INVENTORY)
    (folder / "play.yml").write_text(PLAY)
    done = ansible(folder, "ansible-playbook", "-i", "inventory.yml", "play.yml", timeout=170)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for host, files in json.loads((folder / "written.json").read_text()).items():
        (folder / host / "services.d").mkdir(parents=True)
        for name, text in files.items():
            (folder / host / name).write_text(text)
    return folder


@pytest.mark.slow
def test_a_control_plane_node_can_be_run_with_what_is_written_for_it(written: Path):
    for name, address in (("cp-1", "10.0.0.1"), ("cp-2", "[2001:db8::2]")):
        found = plane_settings.load(written / name / "controlplane.yaml")
        assert (found.replica, found.listen, found.advertise) == (name, f"{address}:8443", f"https://{address}:8443")
        assert found.etcd.endpoints == ("10.0.0.1:2379", "[2001:db8::2]:2379")
        assert found.gates == ("10.0.0.1:15379", "[2001:db8::2]:15379")
        assert found.controlplanes == ("https://10.0.0.1:8443", "https://[2001:db8::2]:8443")
        # cp-2 has no OpenBao of its own.
        assert (found.signer.kind, found.signer.address) == ("vault", "https://10.0.0.1:8200")


@pytest.mark.slow
def test_an_agent_can_be_run_with_what_is_written_for_it(written: Path):
    gate = agent_settings.load(written / "cp-2/agent.yaml")
    assert gate.gate is not None
    assert (gate.node, gate.gate.listen) == ("cp-2", "[2001:db8::2]:15379")
    assert gate.gate.etcd == ("10.0.0.1:2379", "[2001:db8::2]:2379")
    host = agent_settings.load(written / "web-1/agent.yaml")
    assert host.gate is None
    assert (host.node, host.address, host.locality, host.envoy.concurrency) == ("web-1", "10.0.0.3", "eu/a", 2)
    assert host.capture.inbound is not None
    assert (host.capture.inbound.ports, host.capture.inbound.on_failure) == ((8080,), "closed")
    assert host.gates == ("10.0.0.1:15379", "[2001:db8::2]:15379")


@pytest.mark.slow
def test_a_gateway_can_be_run_with_what_is_written_for_it(written: Path):
    host = agent_settings.load(written / "gw-1/agent.yaml")
    assert (host.address, host.bind, host.listens_at) == ("2001:db8::9", "10.0.0.4", "10.0.0.4")
    assert host.gateway is not None
    assert (host.gateway.port, host.gateway.source_ranges) == (15444, ("10.0.0.0/24",))
    assert agent_settings.load(written / "web-1/agent.yaml").gateway is None
    roles = {name: yaml.safe_load((written / name / "roles").read_text()) for name in ("gw-1", "web-1", "cp-1")}
    assert roles == {"gw-1": ["gateway"], "web-1": [], "cp-1": ["gate"]}


@pytest.mark.slow
def test_addresses_of_ipv6_stand_in_brackets_where_a_port_follows(written: Path):
    for name in ("etcd.env", "bao.hcl"):
        text = (written / "cp-2" / name).read_text()
        found = re.findall(r"(?<![-\w/])(?:https://)?\[?2001:db8::2\S*", text)
        assert found
        for each in found:
            plain = each.strip('"')
            url = urlsplit(plain if "//" in plain else f"//{plain}")
            assert url.hostname == "2001:db8::2", each
            assert url.port in (2379, 2380, 8200, 8201), each


@pytest.mark.slow
def test_services_are_written_as_the_agent_reads_them_and_their_identities_are_its_own(written: Path):
    found = definitions.load(written / "web-1/services.d", "web-1")
    assert found.problems == ()
    assert [definition.name for definition in found.good] == ["mail", "web"]
    told = yaml.safe_load((written / "web-1/identities").read_text())
    assert sorted(told) == sorted(definition.identity for definition in found.good) == ["default/post", "shop/web"]
    # By this line the role knows the files that it may remove (configure.yml).
    pattern = yaml.safe_load((ROLES / "agent/tasks/configure.yml").read_text())[3]["ansible.builtin.find"]["contains"]
    for path in (written / "web-1/services.d").iterdir():
        assert any(re.match(pattern, line) for line in path.read_text().splitlines()), path


@pytest.mark.parametrize("role", sorted(path.parents[1].name for path in ROLES.glob("*/meta/argument_specs.yml")))
def test_a_role_s_arguments_have_the_defaults_that_they_are_said_to_have(role: str):
    def read(name: str) -> dict[str, Any]:
        return yaml.safe_load((ROLES / name).read_text())

    shared = read("common/defaults/main.yml")
    defaults = read(f"{role}/defaults/main.yml")
    specs = read(f"{role}/meta/argument_specs.yml")["argument_specs"]
    said = {name: option for spec in specs.values() for name, option in spec["options"].items()}
    assert set(defaults) <= set(said), "a default that nobody is told of"
    for name, option in said.items():
        if "default" in option:
            assert {**shared, **defaults}[name] == option["default"], name


@pytest.mark.parametrize("playbook", sorted(path.name for path in (ROOT / "ansible/playbooks").glob("*.yml")))
def test_what_plays_ask_on_hosts_they_ask_directly(playbook: str):
    """All of it is the mesh's own; uri, etcdctl and others would ask the proxy of a host (/etc/environment) for it."""
    for play in yaml.safe_load((ROOT / "ansible/playbooks" / playbook).read_text()):
        assert play["environment"] == {"no_proxy": "*", "NO_PROXY": "*"}, play["name"]


def test_root_s_python_runs_nothing_that_lies_in_the_folder_where_it_starts():
    """Over SSH that is the home of whom one logs in as: a secrets.py there would make the keys."""
    files = [path for part in ("roles", "playbooks") for path in (ROOT / "ansible" / part).rglob("*.yml")]
    lines = [(path, line) for path in files for line in path.read_text().splitlines()]
    found = [(path, line) for path, line in lines if re.search(r"(argv: |\['/usr).*python3\b", line)]
    assert len(found) > 4
    assert [(path.name, line) for path, line in found if not re.search(r"/usr/bin/python3'?, '?-I'?,", line)] == []


def test_each_variable_is_described_somewhere():
    """In a role's argument_specs, or, where it is a play's own, on the page."""
    files = [path for kind in ("yml", "j2") for path in (ROOT / "ansible").rglob(f"*.{kind}")]
    used = {name for path in files for name in re.findall(r"\bholdfast_[a-z0-9_]+\b", path.read_text())}
    specs = [yaml.safe_load(path.read_text())["argument_specs"] for path in ROLES.glob("*/meta/argument_specs.yml")]
    said = {name for roles in specs for spec in roles.values() for name in spec["options"]}
    groups = {"holdfast_agent", "holdfast_controlplane", "holdfast_etcd", "holdfast_openbao"}
    page = set(re.findall(r"\bholdfast_[a-z0-9_]+\b", (ROOT / "docs/ansible.md").read_text()))
    assert used - said - groups - page == set()
