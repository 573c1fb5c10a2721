"""What the host's helper is asked for: names, and whose connections come to which listener. Pure.

definitions, what Envoy listens on, agent.yaml's `capture` -> Wanted
"""

import ipaddress
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from typing import Literal
from urllib.parse import urlsplit

from agent.hostd.wanted import MAX_EACH, Caller, Inbound, Name, Outbound, Wanted
from mesh import pb
from mesh.compile import names
from mesh.compile.types import Snapshot
from mesh.model import Frozen, NodeLocal, Violation
from mesh.model.checks import ip_of, port_fault, shown
from mesh.model.reach import network_fault

OnFailure = Literal["open", "closed"]

_NEVER_CLOSED = frozenset({22, 53, 67, 68, 546, 547})
"""SSH, DNS and DHCP."""


class OutboundCapture(Frozen, frozen=True, kw_only=True):
    """Further destinations of `callers` go through the proxy; MeshConfig.spec.egress says which of them go on."""

    ranges: tuple[str, ...] = ("0.0.0.0/0", "::/0")
    """Networks of IPv4 and of IPv6; the latter count where the host has IPv6."""
    exempt: tuple[str, ...] = ()
    """Networks in them that are left alone. Gates and control planes always are, those with a DNS name too."""
    on_failure: OnFailure = "open"
    """While agent or Envoy do not live: captured no more, or refused."""


class InboundCapture(Frozen, frozen=True, kw_only=True):
    """Applications' own ports are closed to other hosts: those come through mutual TLS."""

    ports: tuple[int, ...] = ()
    """Empty: all that this host's definitions name."""
    on_failure: OnFailure = "open"


class CaptureSettings(Frozen, frozen=True, kw_only=True):
    socket: str = "/run/holdfast-host/host.sock"
    """Where the host's helper (holdfast-host.service) listens."""
    outbound: OutboundCapture | None = None
    inbound: InboundCapture | None = None


def faults(capture: CaptureSettings, mesh: Iterable[str]) -> Iterator[Violation]:
    """Everything that is wrong with it, each with its path. `mesh`: as for `wanted`."""
    if not capture.socket.startswith("/"):
        yield Violation(path="capture.socket", reason=f"{shown(capture.socket)} is not an absolute path")
    if outbound := capture.outbound:
        if not outbound.ranges:
            yield Violation(path="capture.outbound.ranges", reason="name at least one network, or leave outbound out")
        for field, texts in (("ranges", outbound.ranges), ("exempt", outbound.exempt)):
            yield from _network_faults(f"capture.outbound.{field}", texts)
        if (more := len({*outbound.exempt, *_own(mesh)}) - MAX_EACH) > 0:
            said = f"{more} too many: with gates and control planes, which always are exempt, {MAX_EACH} at most"
            yield Violation(path="capture.outbound.exempt", reason=f"{said}; put them together in larger networks")
    if inbound := capture.inbound:
        if len(inbound.ports) > MAX_EACH:
            yield Violation(path="capture.inbound.ports", reason=f"more than {MAX_EACH}")
        for index, port in enumerate(inbound.ports):
            reason = port_fault(port) or ("SSH, DNS and DHCP are never closed" if port in _NEVER_CLOSED else "")
            if reason:
                yield Violation(path=f"capture.inbound.ports[{index}]", reason=reason)


def mesh_hosts(gates: Iterable[str], controlplanes: Iterable[str]) -> tuple[str, ...]:
    """Of `<address>:<port>` and of base URLs: the hosts that the agent itself lives from."""
    places = (*gates, *(urlsplit(url).netloc for url in controlplanes))
    return tuple(place if place.endswith("]") else place.rpartition(":")[0] or place for place in places)


def named(mesh: Iterable[str]) -> tuple[str, ...]:
    """Those of `mesh_hosts` that are known by a name of DNS. Their addresses are `lifelines`."""
    return tuple(sorted({host for host in mesh if host and ip_of(host.strip("[]")) is None}))


def _network_faults(path: str, texts: tuple[str, ...]) -> Iterator[Violation]:
    if len(texts) > MAX_EACH // 2:
        yield Violation(path=path, reason=f"more than {MAX_EACH // 2}")
    for index, text in enumerate(texts):
        if reason := network_fault(text):
            yield Violation(path=f"{path}[{index}]", reason=reason)


def wanted(local: NodeLocal, snapshot: Snapshot, capture: CaptureSettings, mesh: Iterable[str]) -> Wanted:
    """As a configuration of Envoy needs it. `mesh`: hosts that the agent itself lives from.

    `redirect` puts in the lifelines.
    """
    callers = tuple(_callers(local, snapshot.resources[pb.LISTENER]))
    return Wanted(
        names=tuple(_names(local)),
        callers=callers,
        outbound=_outbound(capture.outbound, mesh, ipv6=local.capture_ipv6) if capture.outbound and callers else None,
        inbound=_inbound(capture.inbound, local) if capture.inbound else None,
    )


def common(one: Wanted, other: Wanted) -> Wanted:
    """What both want. Of callers: those at the same port, by whom both name. Of IPv6: nothing, where one has no
    listener for it. Lifelines are no configuration's: those of the first.
    """
    there = {(caller.identity, caller.port): caller for caller in other.callers}
    shared = (
        replace(
            caller,
            users=tuple(user for user in caller.users if user in match.users),
            units=tuple(unit for unit in caller.units if unit in match.units),
        )
        for caller in one.callers
        if (match := there.get((caller.identity, caller.port)))
    )
    return Wanted(
        names=tuple(name for name in one.names if name in set(other.names)),
        callers=tuple(caller for caller in shared if caller.users or caller.units),
        outbound=_common_outbound(one.outbound, other.outbound),
        inbound=other.inbound if one.inbound else None,
        lifelines=one.lifelines,
    )


def _names(local: NodeLocal) -> Iterator[Name]:
    services = {
        upstream.called(definition.namespace)
        for definition in local.definitions
        for upstream in definition.upstreams
        if not upstream.listen
    }
    for service in sorted(services):
        if address := local.virtual.get(f"{service.namespace}/{service.name}"):
            yield from (Name(name, address) for name in names.called_by_name(service, local.cluster))


def _callers(local: NodeLocal, listeners: Container[str]) -> Iterator[Caller]:
    """Those whom a listener waits for."""
    for identity in sorted({d.identity for d in local.definitions if d.called_by}):
        port = local.capture_ports.get(identity)
        if port is None or names.capture_listener(identity) not in listeners:
            continue
        mine = [d.callers for d in local.definitions if d.identity == identity]
        users = sorted({user for callers in mine for user in callers.users})
        units = sorted({unit for callers in mine for unit in callers.units})
        yield Caller(identity, port, tuple(users), tuple(units))


def wants_ipv6(capture: CaptureSettings) -> bool:
    return capture.outbound is not None and any(map(_is_ipv6, capture.outbound.ranges))


def _outbound(capture: OutboundCapture, mesh: Iterable[str], *, ipv6: bool) -> Outbound | None:
    ours = _own(mesh)
    # What the agent lives from is never captured, however much it is. More than fit are a fault of agent.yaml.
    theirs = [network for network in dict.fromkeys(capture.exempt) if network not in ours][: MAX_EACH - len(ours)]
    ranges = tuple(text for text in capture.ranges if ipv6 or not _is_ipv6(text))
    return Outbound(ranges, (*theirs, *ours)[-MAX_EACH:], capture.on_failure) if ranges else None


def _common_outbound(one: Outbound | None, other: Outbound | None) -> Outbound | None:
    if one is None or other is None:
        return None
    both = any(map(_is_ipv6, one.ranges))
    ranges = tuple(text for text in other.ranges if both or not _is_ipv6(text))
    return replace(other, ranges=ranges) if ranges else None


def _own(mesh: Iterable[str]) -> list[str]:
    """Each as a network of that address alone. Of those with a name of DNS, see `named`."""
    return sorted({str(ipaddress.ip_network(ip)) for host in mesh if (ip := ip_of(host.strip("[]"))) is not None})


def _inbound(capture: InboundCapture, local: NodeLocal) -> Inbound | None:
    ports = capture.ports or sorted({port.port for d in local.definitions for port in d.ports} - _NEVER_CLOSED)
    return Inbound(tuple(ports)[:MAX_EACH], capture.on_failure) if ports else None


def _is_ipv6(network: str) -> bool:
    return ":" in network
