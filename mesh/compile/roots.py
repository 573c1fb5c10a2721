"""Roots of trust domains, as they come from the store: only what is PEM gets near a proxy."""

import base64
import binascii
import re
from collections.abc import Iterable

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*\Z")


def certificates(roots: Iterable[str]) -> tuple[str, ...]:
    """Those that are PEM certificates, by their form."""
    return tuple(pem for pem in roots if _is_certificate(pem))


def _is_certificate(pem: str) -> bool:
    found = _PEM.match(pem.strip())
    try:
        return bool(found and base64.b64decode("".join(found[1].split()), validate=True))
    except binascii.Error:
        return False
