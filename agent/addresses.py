"""Which addresses this host has, and whether those it is told to use are among them."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.settings import Settings

_GLOBAL = 0x00
"""Scope of an address in /proc/net/if_inet6; 0x20 is of one link only, 0x10 of this host."""


def fault(settings: Settings, own: Iterable[str], has: Callable[[str], bool]) -> str:
    """What is wrong with the addresses that the settings name. Pure, but for `has`.

    Args:
        settings: The agent's.
        own: This host's addresses, for the words.
        has: Can something listen at this address here?

    """
    others = ", ".join(own) or "only loopback"
    if settings.bind:
        if has(settings.bind):
            return ""
        return f"bind {settings.bind} is not an address of this host, so Envoy cannot listen there; it has {others}"
    if has(settings.address):
        return ""
    what = "nobody reaches it there" if settings.listens_at == "::" else "Envoy cannot listen there"
    return (
        f"address {settings.address} is not an address of this host, so {what}; it has {others}. Set `address` in "
        "agent.yaml to that one by which other hosts reach this one and restart the agent, or, if it is another "
        "machine's that forwards to here (NAT), set `bind` to where Envoy is to listen"
    )


def here(address: str) -> bool:
    """Can something listen at this address on this host?"""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def own() -> tuple[str, ...]:
    """The host's addresses, without those of loopback and of a single link; in no order that means anything."""
    found: list[str] = []
    for path, parse in (("/proc/net/fib_trie", ipv4), ("/proc/net/if_inet6", ipv6)):
        try:
            found += parse(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return tuple(found)


def ipv4(text: str) -> list[str]:
    """The local addresses in /proc/net/fib_trie: a line with the address, then one that says `host LOCAL`."""
    found: dict[str, None] = {}
    last = ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[1:] == ["host", "LOCAL"] and not ipaddress.ip_address(last).is_loopback:
            found[last] = None
    return list(found)


def ipv6(text: str) -> list[str]:
    """Those in /proc/net/if_inet6: 32 hexadecimal digits, index, length of the prefix, scope, flags, name."""
    rows = (line.split() for line in text.splitlines())
    return [str(ipaddress.IPv6Address(bytes.fromhex(row[0]))) for row in rows if int(row[3], 16) == _GLOBAL]
