"""TLS to a control-plane node: the mesh's roots and no others, 1.3, the node's certificate."""

import os
import ssl
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from mesh.model import Identity


@lru_cache(maxsize=4)
def usable(roots: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are certificates. What stands in the store may be anything."""

    def good(pem: str) -> bool:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError):
            return False
        return True

    return tuple(pem for pem in roots if good(pem))


def context(roots: Sequence[str], own: Identity) -> ssl.SSLContext:
    """Python's TLS reads a certificate from a file only: it is private, and gone before this returns."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_verify_locations(cadata="\n".join(roots))
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        path = Path(folder) / "node.pem"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(own.chain_pem.rstrip("\n") + "\n" + own.key_pem)
        made.load_cert_chain(path)
    return made
