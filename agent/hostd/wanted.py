"""What an agent may ask for on its host. Read strictly: all faults, each with its path. Standard library only."""

import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

VIRTUAL = ipaddress.ip_network("127.64.0.0/10")
"""Where Services have their virtual addresses. Nothing outside is touched unless capture is asked for."""

MAX_NAMES = 20_000
MAX_CALLERS = 256
MAX_EACH = 64
"""Users, units, ports or ranges of one entry."""

OnFailure = Literal["open", "closed"]

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,31}")
_UNIT = re.compile(r"[a-zA-Z0-9_.@:\\-]{1,240}\.(service|scope|slice)")
_HELD = re.compile(r"(holdfast-(agent|envoy|host)\.service|-\.slice|system\.slice|init\.scope)")
"""The mesh's own units, and what holds them: redirected, Envoy's own connections would come back to it."""
_IDENTITY = re.compile(r"[a-z0-9-]{1,63}/[a-z0-9-]{1,63}")
_NEVER = frozenset({22, 53, 67, 68, 546, 547})
"""SSH, DNS and DHCP: never closed to anybody."""


@dataclass(frozen=True)
class Name:
    name: str
    """`<service>.<namespace>.mesh`, or with the cluster before `mesh`."""
    address: str
    """In 127.64.0.0/10."""


@dataclass(frozen=True)
class Caller:
    """The local processes that call as one identity."""

    identity: str
    """`<namespace>/<service account>`"""
    port: int
    """Its listener on 127.0.0.1."""
    users: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    """systemd units, as `web.service`."""


@dataclass(frozen=True)
class Outbound:
    """Further destinations that go through the mesh, for those who are callers. Opt-in."""

    ranges: tuple[str, ...]
    """Networks of IPv4 and IPv6. For those of IPv6 the callers' listeners are on ::1, too."""
    exempt: tuple[str, ...] = ()
    """Networks that do not, at least the control plane and the gates."""
    on_failure: OnFailure = "open"


@dataclass(frozen=True)
class Inbound:
    """The application's own ports that only loopback reaches, so that others come through mutual TLS. Opt-in."""

    ports: tuple[int, ...]
    on_failure: OnFailure = "open"


@dataclass(frozen=True)
class Wanted:
    names: tuple[Name, ...] = ()
    callers: tuple[Caller, ...] = ()
    outbound: Outbound | None = None
    inbound: Inbound | None = None
    lifelines: tuple[str, ...] = ()
    """Addresses that `outbound` leaves alone besides: of control planes and gates that are known by a name. They move
    by themselves, so they are no part of what is confirmed."""

    @property
    def captures(self) -> bool:
        return self.outbound is not None or self.inbound is not None


@dataclass(frozen=True)
class Fault:
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class RefusedError(Exception):
    """What was asked for cannot be granted, with all of its faults."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = faults


def encode(wanted: Wanted) -> dict[str, Any]:
    """As JSON has it. What is not asked for is left out."""
    return {key: value for key, value in asdict(wanted).items() if value}


def digest_of(wanted: Wanted) -> str:
    return json.dumps(encode(wanted), sort_keys=True)


def parse(raw: object) -> Wanted:
    """What `encode` made.

    Raises:
        RefusedError: with everything that is wrong with it.

    """
    faults: list[Fault] = []
    body = _fields(raw, "", {"names", "callers", "outbound", "inbound", "lifelines"}, faults)
    names = tuple(_name(n, p, faults) for n, p in _items(body.get("names"), "names", MAX_NAMES, faults))
    callers = tuple(_caller(c, p, faults) for c, p in _items(body.get("callers"), "callers", MAX_CALLERS, faults))
    outbound = _outbound(body["outbound"], faults) if body.get("outbound") is not None else None
    inbound = _inbound(body["inbound"], faults) if body.get("inbound") is not None else None
    lifelines = _addresses(body.get("lifelines"), "lifelines", faults)
    wanted = Wanted(names, callers, outbound, inbound, lifelines)
    faults += _together(wanted)
    if faults:
        raise RefusedError(tuple(faults))
    return wanted


def _name(raw: object, path: str, faults: list[Fault]) -> Name:
    body = _fields(raw, path, {"name", "address"}, faults)
    name, address = body.get("name"), body.get("address")
    labels = name.split(".") if isinstance(name, str) else []
    if len(labels) not in {3, 4} or labels[-1] != "mesh" or not all(_LABEL.fullmatch(label) for label in labels):
        faults.append(Fault(f"{path}.name", f"{_shown(name)} is not <service>.<namespace>[.<cluster>].mesh"))
    if not _is_virtual(address):
        faults.append(Fault(f"{path}.address", f"{_shown(address)} is not an address in {VIRTUAL}"))
    return Name(str(name), str(address))


def _caller(raw: object, path: str, faults: list[Fault]) -> Caller:
    body = _fields(raw, path, {"identity", "port", "users", "units"}, faults)
    identity = body.get("identity")
    if not (isinstance(identity, str) and _IDENTITY.fullmatch(identity)):
        faults.append(Fault(f"{path}.identity", f"{_shown(identity)} is not <namespace>/<service account>"))
    port = _port(body.get("port"), f"{path}.port", faults)
    users = _texts(body.get("users"), f"{path}.users", _USER, "a user's name", faults)
    units = _texts(body.get("units"), f"{path}.units", _UNIT, "a systemd unit, as web.service", faults)
    faults += [
        Fault(f"{path}.units", f"{unit} is the mesh's own, or holds it; nothing of that is redirected")
        for unit in units
        if _HELD.fullmatch(unit)
    ]
    if "root" in users:
        faults.append(Fault(f"{path}.users", "root is nobody's identity: every service manager and shell runs as root"))
    return Caller(str(identity), port, users, units)


def _outbound(raw: object, faults: list[Fault]) -> Outbound:
    body = _fields(raw, "outbound", {"ranges", "exempt", "on_failure"}, faults)
    ranges = _networks(body.get("ranges"), "outbound.ranges", faults)
    exempt = _networks(body.get("exempt"), "outbound.exempt", faults)
    if not ranges:
        faults.append(Fault("outbound.ranges", "name at least one network"))
    return Outbound(ranges, exempt, _on_failure(body, "outbound", faults))


def _inbound(raw: object, faults: list[Fault]) -> Inbound:
    body = _fields(raw, "inbound", {"ports", "on_failure"}, faults)
    ports = tuple(_port(p, where, faults) for p, where in _items(body.get("ports"), "inbound.ports", MAX_EACH, faults))
    faults += [
        Fault("inbound.ports", f"{port} is never closed: SSH, DNS and DHCP stay reachable")
        for port in sorted(set(ports) & _NEVER)
    ]
    if not ports:
        faults.append(Fault("inbound.ports", "name at least one port"))
    return Inbound(ports, _on_failure(body, "inbound", faults))


def _together(wanted: Wanted) -> Iterator[Fault]:
    """Whoever belongs to two identities would call as one of them by chance."""
    for kind in ("users", "units"):
        owners: dict[str, str] = {}
        for index, caller in enumerate(wanted.callers):
            for who in getattr(caller, kind):
                if owners.setdefault(who, caller.identity) != caller.identity:
                    yield Fault(f"callers[{index}].{kind}", f"{who} calls as {owners[who]} already")
    ports = [caller.port for caller in wanted.callers]
    for index, port in enumerate(ports):
        if port in ports[:index]:
            yield Fault(f"callers[{index}].port", f"{port} is another identity's")
    by_name: dict[str, str] = {}
    for index, name in enumerate(wanted.names):
        if by_name.setdefault(name.name, name.address) != name.address:
            yield Fault(f"names[{index}]", f"{name.name} has two addresses")


# --- small readers ---


def _fields(raw: object, path: str, known: set[str], faults: list[Fault]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        faults.append(Fault(path, "is not an object"))
        return {}
    faults += [Fault(f"{path}.{key}".lstrip("."), "is not known") for key in sorted(map(str, raw.keys() - known))]
    return raw


def _items(raw: object, path: str, most: int, faults: list[Fault]) -> list[tuple[object, str]]:
    if raw is None:
        return []
    if not isinstance(raw, list | tuple):
        faults.append(Fault(path, "is not a list"))
        return []
    if len(raw) > most:
        faults.append(Fault(path, f"has {len(raw)} entries; at most {most} are taken"))
        return []
    return [(item, f"{path}[{index}]") for index, item in enumerate(raw)]


def _texts(raw: object, path: str, form: re.Pattern[str], what: str, faults: list[Fault]) -> tuple[str, ...]:
    found = []
    for item, where in _items(raw, path, MAX_EACH, faults):
        if isinstance(item, str) and form.fullmatch(item):
            found.append(item)
        else:
            faults.append(Fault(where, f"{_shown(item)} is not {what}"))
    return tuple(found)


def _networks(raw: object, path: str, faults: list[Fault]) -> tuple[str, ...]:
    found = []
    for item, where in _items(raw, path, MAX_EACH, faults):
        try:
            found.append(str(_network(item)))
        except ValueError as exc:
            faults.append(Fault(where, f"{_shown(item)} is not a network: {exc}"))
    return tuple(found)


def _addresses(raw: object, path: str, faults: list[Fault]) -> tuple[str, ...]:
    """Single ones: whoever answers for a name takes no network out of capture."""
    found = []
    for item, where in _items(raw, path, MAX_EACH, faults):
        try:
            network = _network(item)
        except ValueError:
            network = None
        if network is None or network.num_addresses != 1 or "/" in str(item):
            faults.append(Fault(where, f"{_shown(item)} is not an address"))
        else:
            found.append(str(network.network_address))
    return tuple(found)


def _network(raw: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if not isinstance(raw, str) or "%" in raw:  # a zone is any text to Python, and would be read by nft
        raise ValueError("not text, or with a zone")
    return ipaddress.ip_network(raw)


def _port(raw: object, path: str, faults: list[Fault]) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw < 65536:
        return raw
    faults.append(Fault(path, f"{_shown(raw)} is not a port, 1 to 65535"))
    return 0


def _on_failure(body: dict[str, Any], path: str, faults: list[Fault]) -> OnFailure:
    value = body.get("on_failure", "open")
    if value == "closed":
        return "closed"
    if value != "open":
        faults.append(Fault(f"{path}.on_failure", f"{_shown(value)} is neither open nor closed"))
    return "open"


def _is_virtual(address: object) -> bool:
    try:
        return isinstance(address, str) and ipaddress.IPv4Address(address) in VIRTUAL
    except ValueError:
        return False


def _shown(value: object) -> str:
    return repr(value)[:80]
