"""SPIFFE ids: parse, build, check.

Source: the SPIFFE-ID standard (spiffe/spiffe, standards/SPIFFE-ID.md), sections 2.1 to 2.4.
"""

import re
from typing import NamedTuple

MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+\Z")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+\Z")


class SpiffeError(ValueError):
    """Text that is not a SPIFFE id, with the reason."""


class SpiffeId(NamedTuple):
    trust_domain: str
    path: str
    """Starts with a slash; empty for a trust domain's own id, which only a CA certificate may carry."""

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def check_trust_domain(text: str) -> str:
    """The text, if it is a trust domain name.

    Raises:
        SpiffeError: it is not, with the reason.

    """
    if not text:
        raise SpiffeError("the trust domain is empty")
    if len(text) > MAX_TRUST_DOMAIN_BYTES:
        raise SpiffeError(f"the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")
    if not _TRUST_DOMAIN.match(text):
        raise SpiffeError(f"trust domain {text[:60]!r}: only a-z, 0-9, '.', '-' and '_' are allowed")
    return text


def parse(text: str) -> SpiffeId:
    """Parse an id.

    Raises:
        SpiffeError: it breaks the standard, with the reason.

    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise SpiffeError(f"a SPIFFE id has at most {MAX_ID_BYTES} bytes")
    # Scheme and trust domain are case-insensitive by RFC 3986, but the standard's validators take lower case only.
    if not text.startswith("spiffe://"):
        raise SpiffeError("a SPIFFE id starts with 'spiffe://'")
    authority, slash, path = text.removeprefix("spiffe://").partition("/")
    check_trust_domain(authority)
    if slash:
        for segment in path.split("/"):
            if not segment:
                raise SpiffeError("the path has an empty segment or a trailing slash")
            if segment in {".", ".."}:
                raise SpiffeError("the path has a relative segment")
            if not _SEGMENT.match(segment):
                raise SpiffeError("a path segment may hold only a-z, A-Z, 0-9, '.', '-' and '_'")
    return SpiffeId(authority, slash + path)


def build(trust_domain: str, *segments: str) -> SpiffeId:
    """The id of these segments, checked."""
    if any("/" in s for s in segments):
        raise SpiffeError("a path segment may not hold a slash")
    return parse(f"spiffe://{trust_domain}" + "".join("/" + s for s in segments))


def workload(trust_domain: str, namespace: str, service_account: str) -> SpiffeId:
    """The identity of a service account."""
    return build(trust_domain, "ns", namespace, "sa", service_account)


def node(trust_domain: str, name: str) -> SpiffeId:
    """The identity of a host's agent."""
    return build(trust_domain, "node", name)


def controlplane(trust_domain: str, replica: str) -> SpiffeId:
    """The identity of a control-plane node."""
    return build(trust_domain, "controlplane", replica)
