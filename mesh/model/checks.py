"""What checks of several kinds share: a function gives the fault of a text or number in words, or "" if there is none.

Words of an input are echoed only through `shown`, so that a hostile value cannot fill a terminal or a log.
"""

import ipaddress
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from mesh import spiffe
from mesh.model.base import Violation

ECHO = 80
"""At most so many characters of an input are repeated in a message."""

MAX_LABEL = 63
"""RFC 1123; also the longest label of an SNI."""

MAX_INSTANCE_NAME = 2 * MAX_LABEL + 1
"""`<service>-<node>`."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_LOCALITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}(/[A-Za-z0-9][A-Za-z0-9._-]{0,62}){0,2}\Z")


def shown(value: object) -> str:
    """A value of an input, short and printable."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "a number of more than 19 digits"
    if isinstance(value, float):
        return repr(value)
    words: dict[type, str] = {dict: "a mapping", list: "a list", tuple: "a list"}
    return words.get(type(value), f"a value of type {type(value).__name__[:40]}")


def _quoted(text: str) -> str:
    quoted = repr(text[:ECHO]) if text[:ECHO].isprintable() else ascii(text[:ECHO])
    if len(text) <= ECHO and len(quoted) <= ECHO + 2:
        return quoted
    return f"{quoted[: ECHO - 20]}… ({len(text)} characters)"


def at(path: str, fault: str) -> Iterator[Violation]:
    """One violation if there is a fault."""
    if fault:
        yield Violation(path=path, reason=fault)


def label_fault(text: str, most: int = MAX_LABEL) -> str:
    """Is it a DNS label (RFC 1123)?"""
    if not text:
        return "must not be empty"
    if len(text) <= most and _LABEL.match(text):
        return ""
    return f"{shown(text)} is not a DNS label: a-z, 0-9 and '-' inside, at most {most} characters"


def imported_name_fault(text: str) -> str:
    """Is it `<service>.<peer>`, as a Service of another cluster is named here?"""
    service, dot, peer = text.partition(".")
    if not dot:
        return f"{shown(text)} is not <service>.<peer>"
    return label_fault(service) or label_fault(peer)


def port_fault(port: int) -> str:
    return "" if 1 <= port <= 0xFFFF else f"{shown(port)} is not a port: 1 to 65535"


def address_fault(text: str) -> str:
    """Is it an IP address? Names are not taken: an agent must not wait for DNS to serve.

    Nor is one with a zone (`fe80::1%eth0`): it means something on one host only, and Envoy refuses all endpoints of an
    assignment that has one whose zone is not on its host.
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return f"{shown(text)} is not an IP address"
    return f"{shown(text)} has a zone, which means nothing on other hosts" if "%" in text else ""


def ip_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text names, an IPv4 address in IPv6's clothes as what it is; None: it is not one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def place(address: str, port: int) -> str:
    """`<address>:<port>`, as URLs have it too: an address of IPv6 in brackets (RFC 3986)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def number_fault(value: float, low: float, high: float) -> str:
    return "" if low <= value <= high else f"{shown(value)} is not within {low:g} to {high:g}"


def locality_fault(text: str) -> str:
    """Is it `region`, `region/zone` or `region/zone/subzone`?"""
    return "" if _LOCALITY.match(text) else f"{shown(text)} is not <region>[/<zone>[/<subzone>]]"


def account_fault(text: str) -> str:
    """Is it `<namespace>/<service-account>`?"""
    namespace, slash, account = text.partition("/")
    if slash and not label_fault(namespace) and not label_fault(account):
        return ""
    return f"{shown(text)} is not <namespace>/<service-account>"


def principal_fault(text: str) -> str:
    """Is it a SPIFFE id, or `<namespace>/<service-account>`?"""
    if not text.startswith("spiffe:"):
        fault = account_fault(text)
        return fault and f"{shown(text)} is neither a SPIFFE id nor <namespace>/<service-account>"
    try:
        spiffe.parse(text)
    except spiffe.SpiffeError as exc:
        return f"{shown(text)}: {exc}"
    return ""


def namespace_fault(text: str) -> str:
    """Is it a namespace, of this trust domain or as `spiffe://<trust-domain>/ns/<namespace>`?"""
    if not text.startswith("spiffe:"):
        return label_fault(text)
    head, _, namespace = text.partition("/ns/")
    if head.count("/") == 2 and not principal_fault(head) and not label_fault(namespace):
        return ""
    return f"{shown(text)} is not spiffe://<trust-domain>/ns/<namespace>"


def qualified_fault(text: str) -> str:
    """Is it a label or annotation key: [DNS name/]name?"""
    prefix, slash, name = text.rpartition("/")
    fine = len(name) <= MAX_LABEL and bool(_QUALIFIED.match(name))
    if slash:
        fine = fine and len(prefix) <= 253 and all(not label_fault(part) for part in prefix.split("."))
    return (
        ""
        if fine
        else f"{shown(text)} is not a key: [DNS name/]name, the name at most 63 of A-Z, a-z, 0-9, '.', '_', '-'"
    )


def labels_faults(path: str, labels: Mapping[str, str]) -> Iterator[Violation]:
    """Keys and values by the syntax of labels."""
    for key, value in labels.items():
        where = entry(path, key)
        yield from at(where, qualified_fault(key))
        if value and not (len(value) <= MAX_LABEL and _QUALIFIED.match(value)):
            yield Violation(
                path=where,
                reason=f"{shown(value)} is not a label value: at most 63 of A-Z, a-z, 0-9, '.', '_', '-'",
            )


def repeated(path: str, field: str, values: Iterable[Hashable]) -> Iterator[Violation]:
    """A violation for every item of a list whose value another one before it has. Empty values do not count."""
    seen: set[Hashable] = set()
    for index, value in enumerate(values):
        if value and value in seen:
            yield Violation(path=f"{path}[{index}]{field}", reason=f"{shown(value)} is there twice")
        seen.add(value)


def entry(path: str, key: object) -> str:
    """The path of a mapping's entry."""
    if isinstance(key, str) and len(key) <= MAX_LABEL and key.replace("_", "").replace("-", "").isalnum():
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"


def nearest(word: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` if one of the known words is near."""
    import difflib

    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(word[:ECHO].casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""
