"""The hosts as Ansible wants them told."""

from collections.abc import Mapping, Sequence

from tests.vm.host import Host


def inventory(groups: Mapping[str, Sequence[Host]], *, user: str = "admin") -> str:
    """In INI form; the user is one with sudo, as on a cloud image."""
    lines = []
    for group, hosts in groups.items():
        lines.append(f"[{group}]")
        for host in hosts:
            options = " ".join(host.ssh_options())
            lines.append(
                f"{host.name} ansible_host={host.address} ansible_user={user} ansible_become=true "
                f"ansible_python_interpreter=/usr/bin/python3 ansible_ssh_common_args='{options}'"
            )
        lines.append("")
    return "\n".join(lines)
