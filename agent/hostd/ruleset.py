"""One nftables table, `inet holdfast`, loaded as a whole in one transaction. Pure.

    names    nat, output      virtual addresses (and captured ranges) -> the caller's own listener on loopback
    refuse   filter, output   what is left of 127.64.0.0/10, and who reaches a listener without having been redirected
    outside  filter, input    neighbours reach neither virtual addresses nor listeners
    closed   filter, input    opt-in: the applications' own ports, but for loopback

Opt-in rules ask the set `alive` first. Its one element has a timeout and is renewed by the helper alone, while agent
and Envoy answer; with helper, agent and Envoy all killed, the kernel drops the element and the rules match no more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from agent.hostd.arming import State
from agent.hostd.wanted import VIRTUAL, Caller, Outbound, Wanted

TABLE = "inet holdfast"
ALIVE_SECONDS = 15
"""How long capture outlives whoever renews it: longer than an agent's restart takes."""

NOT_NEW = "tcp flags & (fin | syn | rst | ack) != syn"
"""Where no table tracked connections before ours, those that are open look new to it: only a handshake is one."""

_DNS_DHCP = (53, 67, 68, 546, 547)
_NEVER = {
    # Besides link-local, where most clouds tell a machine about itself: Azure's and Alibaba's places for that.
    "ip": ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "168.63.129.16", "100.100.100.200"),
    # Over IPv6 AWS and Google have such places.
    "ip6": ("::1", "fe80::/10", "ff00::/8", "fd00:ec2::254", "fd20:ce::254"),
}
"""By family: loopback, link-local, multicast, metadata."""


@dataclass(frozen=True)
class Resolved:
    """What of a wanted caller this host knows."""

    caller: Caller
    uids: tuple[int, ...] = ()
    cgroups: tuple[tuple[str, int], ...] = ()
    """Path below /sys/fs/cgroup and the level at which a socket's cgroup must be it."""


@dataclass(frozen=True)
class Spared:
    """What capture must never touch on this host, besides what holds everywhere."""

    ssh_ports: tuple[int, ...] = (22,)
    mtls_port: int = 15443


def render(wanted: Wanted, callers: tuple[Resolved, ...], state: State, spared: Spared, mark: str) -> str:
    """Text for `nft -f -`. `mark` names this very content, as a chain of that name."""
    capturing = state in {"armed", "confirmed"} and wanted.captures
    lines = [
        f"table {TABLE} {{}}",
        f"delete table {TABLE}",
        f"table {TABLE} {{",
        f"  chain {mark} {{",
        "    return",
        "  }",
        "  set alive { type inet_proto; flags timeout; }",
        *_names(wanted, callers, spared, capturing=capturing),
        *_refuse(wanted, callers, state, spared, capturing=capturing),
        *_outside(callers),
        *(_closed(wanted, state, spared) if capturing else ()),
        "}",
    ]
    return "\n".join(lines) + "\n"


def renew(seconds: int = ALIVE_SECONDS) -> str:
    """The element anew: adding it where it is would not give it more time on every kernel."""
    element = f"element {TABLE} alive"
    return f"add {element} {{ tcp }}\ndelete {element} {{ tcp }}\nadd {element} {{ tcp timeout {seconds}s }}\n"


def lapse() -> str:
    """Capture out of force at once."""
    element = f"element {TABLE} alive"
    return f"add {element} {{ tcp }}\ndelete {element} {{ tcp }}\n"


def remove() -> str:
    return f"table {TABLE} {{}}\ndelete table {TABLE}\n"


def _names(wanted: Wanted, callers: tuple[Resolved, ...], spared: Spared, *, capturing: bool) -> list[str]:
    lines = [
        "  chain names {",
        "    type nat hook output priority -100; policy accept;",
        "    meta l4proto != tcp return",
        f"    ip daddr {VIRTUAL} goto virtual",
    ]
    if capturing and wanted.outbound:
        lines += [
            *_exempt(wanted.outbound, wanted.lifelines, spared),
            *(f"    {to} goto captured" for to in _to(wanted.outbound.ranges)),
        ]
    lines += ["  }", "  chain virtual {"]
    lines += [f"    {who} tcp dport 1-65535 redirect to :{port}" for who, port in _who(callers)]
    lines += ["  }"]
    if capturing and wanted.outbound:
        lines += ["  chain captured {", "    meta l4proto != @alive return", f"    {NOT_NEW} return"]
        lines += [f"    {who} tcp dport 1-65535 redirect to :{port}" for who, port in _who(callers)]
        lines += ["  }"]
    return lines


def _refuse(
    wanted: Wanted, callers: tuple[Resolved, ...], state: State, spared: Spared, *, capturing: bool
) -> list[str]:
    lines = [
        "  chain refuse {",
        "    type filter hook output priority 0; policy accept;",
        f"    ip daddr {VIRTUAL} meta l4proto tcp counter reject with tcp reset",
        f"    ip daddr {VIRTUAL} counter reject with icmp type admin-prohibited",
    ]
    ports = sorted({resolved.caller.port for resolved in callers})
    loopback = ["ip daddr 127.0.0.0/8"]
    if wanted.outbound and "ip6" in _families(wanted.outbound.ranges):
        loopback.append("ip6 daddr ::1")
    lines += [
        f"    {to} tcp dport {_set(ports)} ct direction original ct status & dnat == 0 counter reject with tcp reset"
        for to in loopback
        if ports
    ]
    if capturing and wanted.outbound and wanted.outbound.on_failure == "closed" and state == "confirmed":
        lines += _exempt(wanted.outbound, wanted.lifelines, spared)
        lines += [f"    {to} meta l4proto tcp goto unserved" for to in _to(wanted.outbound.ranges)]
    lines.append("  }")
    if any("goto unserved" in line for line in lines):
        lines += ["  chain unserved {", f"    {NOT_NEW} accept", "    meta l4proto @alive accept"]
        lines += [f"    {who} counter reject with tcp reset" for who, _ in _who(callers)]
        lines += ["  }"]
    return lines


def _outside(callers: tuple[Resolved, ...]) -> list[str]:
    """Where `route_localnet` is on (kube-proxy does that), neighbours reach loopback addresses: not these."""
    ports = sorted({resolved.caller.port for resolved in callers})
    listeners = [f'    iifname != "lo" ip daddr 127.0.0.0/8 tcp dport {_set(ports)} counter drop'] if ports else []
    return [
        "  chain outside {",
        "    type filter hook input priority 0; policy accept;",
        f'    iifname != "lo" ip daddr {VIRTUAL} counter drop',
        *listeners,
        "  }",
    ]


def _closed(wanted: Wanted, state: State, spared: Spared) -> list[str]:
    if wanted.inbound is None:
        return []
    ports = [port for port in wanted.inbound.ports if port not in {*spared.ssh_ports, spared.mtls_port, *_DNS_DHCP}]
    if not ports:
        return []
    # What was confirmed and is to fail closed asks nobody whether the mesh lives: the port is loopback's for good.
    always = wanted.inbound.on_failure == "closed" and state == "confirmed"
    return [
        "  chain closed {",
        "    type filter hook input priority 0; policy accept;",
        '    iifname "lo" accept',
        f"    {NOT_NEW} accept",
        f"    tcp dport {_set(ports)} {'' if always else 'meta l4proto @alive '}counter reject with tcp reset",
        "  }",
    ]


def _exempt(outbound: Outbound, lifelines: Iterable[str], spared: Spared) -> list[str]:
    """What never goes through the mesh: this host itself, SSH, DNS, DHCP, metadata, and what the agent lives from."""
    families = _families(outbound.ranges)
    never = [network for family in sorted(families) for network in _NEVER[family]]
    spare = [network for network in (*outbound.exempt, *lifelines) if _families([network]) <= families]
    ports = sorted({*spared.ssh_ports, 22, spared.mtls_port, *_DNS_DHCP})
    return [
        "    fib daddr type { local, broadcast, multicast } return",
        *(f"    {to} return" for to in _to((*never, *spare))),
        f"    tcp dport {_set(ports)} return",
        f"    tcp sport {_set(sorted({*spared.ssh_ports, 22}))} return",
    ]


def _who(callers: tuple[Resolved, ...]) -> list[tuple[str, int]]:
    """Units before users: a unit says more about a process than the user it runs as."""
    found = [
        (f'socket cgroupv2 level {level} "{path}"', resolved.caller.port)
        for resolved in callers
        for path, level in resolved.cgroups
    ]
    return found + [(f"meta skuid {uid}", r.caller.port) for r in callers for uid in r.uids]


def _to(networks: Iterable[str]) -> list[str]:
    """A match for each family. A set in which one network holds another is refused by nft."""
    parsed = [ip_network(text) for text in networks]
    four = collapse_addresses(network for network in parsed if isinstance(network, IPv4Network))
    six = collapse_addresses(network for network in parsed if isinstance(network, IPv6Network))
    matches = ((family, [str(network) for network in of]) for family, of in (("ip", four), ("ip6", six)))
    return [f"{family} daddr {_set(of)}" for family, of in matches if of]


def _families(networks: Iterable[str]) -> set[str]:
    """A kernel without IPv6 takes no rule about it, so there is none where none was asked for."""
    return {"ip" if isinstance(ip_network(text), IPv4Network) else "ip6" for text in networks}


def _set(values: tuple[str, ...] | tuple[int, ...] | list[int] | list[str]) -> str:
    return "{ " + ", ".join(str(value) for value in values) + " }"
