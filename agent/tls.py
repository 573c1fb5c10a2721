"""TLS to a control-plane node: the mesh's roots and no others, 1.3, the node's certificate."""

import ssl
from collections.abc import Sequence
from functools import lru_cache

from agent import memfile
from mesh.model import Identity


@lru_cache(maxsize=4)
def usable(roots: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are certificates. What stands in the store may be anything."""

    def good(pem: str) -> bool:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError, TypeError):  # the last: not ASCII
            return False
        return True

    return tuple(pem for pem in roots if good(pem))


def context(roots: Sequence[str], own: Identity) -> ssl.SSLContext:
    """Python's TLS reads a key by the name of a file only."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_verify_locations(cadata="\n".join(roots))
    with memfile.named((own.chain_pem.rstrip("\n") + "\n" + own.key_pem).encode()) as name:
        made.load_cert_chain(name)
    return made
