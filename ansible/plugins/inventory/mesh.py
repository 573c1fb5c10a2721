"""The mesh's own nodes and services, as Ansible's inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.holdfast.mesh.plugins.module_utils.controlplane import Api, ControlPlaneError
from ansible_collections.holdfast.mesh.plugins.module_utils.members import members_of

if TYPE_CHECKING:
    from ansible.inventory.data import InventoryData
    from ansible.parsing.dataloader import DataLoader
    from ansible_collections.holdfast.mesh.plugins.module_utils.members import Members

DOCUMENTATION = r"""
name: mesh
short_description: The nodes and services of a Holdfast mesh
version_added: 0.1.0
author: Holdfast contributors
description:
  - Asks the control plane which hosts are in the mesh, and makes of them an inventory.
  - A host is named as its node. C(ansible_host) and C(holdfast_address) are its address, C(holdfast_node) is its name.
  - C(holdfast_mesh) has the rest - C(labels), C(roles), C(identities), C(locality) (C(region), C(zone), C(subzone)),
    C(services) (each with C(namespace), C(name), C(instance), C(identity), C(health), C(locality)), C(connected),
    C(lost), C(evicted), C(maintenance), C(phase), C(agent_version), C(envoy_version).
    What an agent says (the last four) is empty while it is not connected.
  - Groups of hosts are C(mesh_nodes), all of them; C(mesh_connected) and C(mesh_away); C(mesh_lost), C(mesh_evicted),
    and C(mesh_maintenance) (drained).
  - Then C(mesh_role_<role>), C(mesh_label_<key>_<value>), C(mesh_region_<region>), C(mesh_zone_<region>_<zone>),
    C(mesh_subzone_<region>_<zone>_<subzone>).
  - And C(mesh_service_<namespace>__<service>) with the hosts that run it, for each service, also without hosts. Its
    variable C(holdfast_service) says what it is (C(namespace), C(name), C(labels), C(ports)).
  - Characters that Ansible does not take in a group's name become C(_).
  - Nothing of what comes from the mesh is evaluated as a template.
  - The name of the file ends in C(holdfast.yml) or C(holdfast.yaml).
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
options:
  plugin:
    description: Always C(holdfast.mesh.mesh).
    type: str
    required: true
    choices: [holdfast.mesh.mesh]
  addresses:
    description: >-
      Control-plane nodes, C(host:port) or URLs; the first that answers is asked. Separated by commas
      in the environment.
    type: list
    elements: str
    env:
      - name: HOLDFAST_ADDR
  ca:
    description: File with the mesh's roots, which the control plane must chain to.
    type: str
    env:
      - name: HOLDFAST_CA
  token:
    description: >-
      An operator's token; a viewer's will do. Not in clear in the file - encrypt it with Ansible Vault, look it up, or
      use O(token_file).
    type: str
    env:
      - name: HOLDFAST_TOKEN
  token_file:
    description: File with the token. O(token) comes first.
    type: str
    env:
      - name: HOLDFAST_TOKEN_FILE
  timeout:
    description: Seconds until a control-plane node that does not answer is given up.
    type: float
    default: 10
  group_prefix:
    description: How the names of the groups begin.
    type: str
    default: mesh_
"""

EXAMPLES = r"""
---
# holdfast.yml: all from the environment (HOLDFAST_ADDR, HOLDFAST_CA, HOLDFAST_TOKEN_FILE)
plugin: holdfast.mesh.mesh

---
# mesh.holdfast.yml: an operator's token from a file, groups of one's own, and a cache
# ansible-inventory -i mesh.holdfast.yml --graph
# ansible-playbook -i mesh.holdfast.yml play.yml --limit 'mesh_service_shop__web:!mesh_maintenance'
plugin: holdfast.mesh.mesh
addresses: [cp-1.example.net:8443, cp-2.example.net:8443]
ca: ~/.config/holdfast/ca.pem
token_file: ~/.config/holdfast/viewer.token
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/holdfast-inventory
cache_timeout: 60
keyed_groups:
  - key: holdfast_mesh.agent_version
    prefix: agent
compose:
  ansible_user: "'admin'"
  rack: holdfast_mesh.labels.rack | default('none')
groups:
  outdated: holdfast_mesh.agent_version != '0.2.0'
"""

PATHS = {
    "nodes": "/v1/objects/nodes",
    "proxies": "/v1/proxies",
    "services": "/v1/objects/services",
    "endpoints": "/v1/objects/endpoints",
}


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """See DOCUMENTATION."""

    NAME = "holdfast.mesh.mesh"

    def verify_file(self, path: str) -> bool:
        """Is this file one of ours?"""
        return bool(super().verify_file(path)) and path.endswith(("holdfast.yml", "holdfast.yaml"))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache=cache)
        self._read_config_data(path)
        try:
            documents = self._documents(self.get_cache_key(path), reading=cache)
            found = members_of(documents, self.get_option("group_prefix"))
        except ControlPlaneError as exc:
            raise AnsibleParserError(f"{path}: {exc}") from exc
        except (KeyError, TypeError, AttributeError) as exc:
            raise AnsibleParserError(
                f"{path}: the control plane's answer is not as expected: {exc!r}. Is it of a much other version?"
            ) from exc
        for warning in found.warnings:
            self.display.warning(warning)
        self._fill(found)

    def _documents(self, key: str, *, reading: bool) -> dict[str, Any]:
        """From the cache where that is wanted and has them, else from the control plane."""
        caching = self.get_option("cache")
        if caching and reading:
            try:
                return dict(self.cache[key])
            except KeyError:
                pass
        api = Api(
            [word.strip() for word in self._said("addresses") or [] if word.strip()],
            ca=self._said("ca") or "",
            token=self._token(),
            seconds=self.get_option("timeout"),
        )
        documents = {name: api.get(path) for name, path in PATHS.items()}
        if caching:
            self.cache[key] = documents
        return documents

    def _said(self, option: str) -> Any:
        return self.templar.template(self.get_option(option))

    def _token(self) -> str:
        token, path = self._said("token"), self._said("token_file")
        if token or not path:
            return str(token or "").strip()
        try:
            return Path(path).expanduser().read_text(encoding="ascii").strip()
        except (OSError, ValueError) as exc:
            raise ControlPlaneError(f"the token file {path} cannot be read: {exc}") from exc

    def _fill(self, found: Members) -> None:
        for group in sorted(found.groups):
            self.inventory.add_group(group)
        for group, service in found.services.items():
            self.inventory.set_variable(group, "holdfast_service", service)
        for host in found.hosts:
            self.inventory.add_host(host.name)
            known = {"holdfast_node": host.name, "holdfast_mesh": host.facts}
            if host.address:
                known |= {"ansible_host": host.address, "holdfast_address": host.address}
            for name, value in known.items():
                self.inventory.set_variable(host.name, name, value)
        for group, hosts in found.groups.items():
            for name in hosts:
                self.inventory.add_child(group, name)
        self._construct(found)

    def _construct(self, found: Members) -> None:
        """What the operator makes of it: variables first, then the groups that are made from them."""
        strict = self.get_option("strict")
        for host in found.hosts:
            known = self.inventory.get_host(host.name).get_vars()
            self._set_composite_vars(self.get_option("compose"), known, host.name, strict=strict)
            known = self.inventory.get_host(host.name).get_vars()
            self._add_host_to_composed_groups(self.get_option("groups"), known, host.name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), known, host.name, strict=strict)
