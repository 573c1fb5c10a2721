"""Filters for plays that take hosts out of service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DOCUMENTATION = r"""
name: only_here
short_description: Services that no further host would serve
version_added: 0.1.0
author: Holdfast contributors
description:
  - Of the endpoints of a mesh, the services that are healthy on these hosts and on no other one.
  - Taking these hosts out of service at once would take them from their callers.
positional: nodes
options:
  _input:
    description: Endpoints, as the C(items) of C(holdfast get endpoints -A -o json).
    type: list
    elements: dict
    required: true
  nodes:
    description: Names of the hosts' nodes.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Which services would be gone
  ansible.builtin.debug:
    msg: "{{ (answer.stdout | from_json)['items'] | holdfast.mesh.only_here(['web-1', 'web-2']) }}"
"""

RETURN = r"""
_value:
  description: Their names, as C(namespace/name), sorted.
  type: list
  elements: str
"""


def only_here(endpoints: Iterable[Mapping[str, Any]], nodes: Iterable[str]) -> list[str]:
    """Services (`namespace/name`) that are healthy on some of these nodes, and nowhere else."""
    gone = set(nodes)
    serving: dict[str, set[str]] = {}
    for endpoint in endpoints:
        metadata, spec = endpoint["metadata"], endpoint["spec"]
        if spec.get("health") == "healthy":
            serving.setdefault(f"{metadata['namespace']}/{spec['service']}", set()).add(spec["node"])
    return sorted(service for service, by in serving.items() if by <= gone)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name -> function."""
        return {"only_here": only_here}
