"""Reach: where a peer's word may lead.

A peer names addresses, and proxies of ours connect to them. Without a bound it could have them connect to what only
they reach: themselves, their own network's machinery, a cloud's metadata. So each address is looked at when it comes,
and again where it is compiled for a proxy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from mesh.model.base import Violation
from mesh.model.checks import address_fault, at, ip_of, repeated, shown

MAX_NETWORKS = 64
"""Of one list."""

Network = IPv4Network | IPv6Network

PRIVATE = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
"""This host, and what is routed within organisations only (RFC 1918, 6598, 4193)."""

_METADATA = {
    "100.100.100.200": "Alibaba Cloud",
    "168.63.129.16": "Azure",
    "fd00:ec2::254": "EC2",
    "fd20:ce::254": "Google Cloud",
}
"""What tells a cloud's machines who they are and with what secrets, besides 169.254.0.0/16. By the vendors' manuals."""
_METADATA_PLACES = {ip_of(text): cloud for text, cloud in _METADATA.items()}
_NOWHERE = ip_network("0.0.0.0/8")


@dataclass(frozen=True, slots=True)
class Reach:
    """The addresses that one peer may name."""

    own: frozenset[str] = frozenset()
    """Addresses of this cluster's own hosts, as `canonical` has them. Through them a gateway would call itself, over
    and over."""
    networks: tuple[str, ...] = ()
    """The peer's, as its Peering has them: only addresses in them. Empty: any."""

    def fault(self, text: str) -> str:
        """Why an address may not be dialled on a peer's word; empty if it may, or is no address at all."""
        ip = _parsed(text)
        if ip is None:
            return ""
        if what := _never(text):
            return f"{shown(text)} is {what}: no proxy connects there on a peer's word"
        if canonical(text) in self.own:
            return f"{shown(text)} is an address of this cluster's own"
        if ip.is_loopback and not any(own == "::1" or own.startswith("127.") for own in self.own):
            # Several clusters on one machine, to try them: there own hosts are at loopback addresses, too.
            return f"{shown(text)} is a loopback address: no proxy connects there on a peer's word"
        if self.networks and not any(ip in network for network in _networks(self.networks)):
            return f"{shown(text)} is in none of the peer's networks (spec.networks of its Peering)"
        return ""


@lru_cache(maxsize=65_536)
def canonical(text: str) -> str:
    """An address as everybody writes it, an IPv4 address in IPv6's clothes as what it is; other texts as they are."""
    return str(_parsed(text) or text)


@lru_cache(maxsize=65_536)
def _never(text: str) -> str:
    """What is at an address where no peer's host can be; empty: perhaps one is."""
    ip = _parsed(text)
    if ip is None:
        return ""
    if ip in _METADATA_PLACES:
        return f"where {_METADATA_PLACES[ip]} has its metadata"
    tunnel = isinstance(ip, IPv6Address) and bool(ip.sixtofour or ip.teredo)
    kinds = (
        (ip.is_unspecified or ip in _NOWHERE, "an unspecified address"),
        (ip.is_link_local, "a link-local address, as metadata of clouds has"),
        (ip.is_multicast, "a multicast address"),
        # 240.0.0.0/4; and those with an IPv4 address in them that a translator would connect to (64:ff9b::/96).
        (ip.is_reserved and not ip.is_loopback, "a reserved address"),
        (tunnel, "a tunnel's address (6to4, Teredo)"),
    )
    return next((words for is_so, words in kinds if is_so), "")


def networks_faults(where: str, networks: tuple[str, ...]) -> Iterator[Violation]:
    """What is wrong with a list of networks."""
    if len(networks) > MAX_NETWORKS:
        yield Violation(path=where, reason=f"more than {MAX_NETWORKS}")
    for index, text in enumerate(networks):
        yield from at(f"{where}[{index}]", network_fault(text))
    yield from repeated(where, "", networks)


def network_fault(text: str) -> str:
    """Is it `<address>/<bits>`, nothing set behind these bits?"""
    try:
        network = ip_network(text)
    except ValueError as exc:
        return f"{shown(text)} is not a network, such as 10.1.0.0/16: {str(exc)[:100]}"
    if getattr(network.network_address, "ipv4_mapped", None) is not None or "%" in text:
        return f"{shown(text)}: write an IPv4 network as such, and none with a zone"
    return ""


def sound(networks: Iterable[str]) -> tuple[str, ...]:
    """Those without faults, each once, as everybody writes them."""
    return tuple(dict.fromkeys(str(ip_network(text)) for text in networks if not network_fault(text)))


@lru_cache(maxsize=65_536)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    return None if address_fault(text) else ip_of(text)


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in sound(texts))
