"""The server's TLS: optional client certificates of this mesh, and a context that is renewed while it serves.

A listener keeps the context that it was opened with. So that one is a door only: at each handshake its name callback
puts the newest context in its place, with the certificate and the roots that count now.
"""

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

PEER_NAME = ".peer.holdfast"
"""A peer's control plane dials `<its cluster>.peer.holdfast`, so that it is known whose bundle is to verify it."""


class PeerTrust(NamedTuple):
    """Whom one peering lets in."""

    peer: str
    trust_domain: str
    roots: tuple[str, ...]


class PeerContext(ssl.SSLContext):
    """Verifies clients against one peer's bundle, and no other: no name of our own mesh can come through it."""

    trust: PeerTrust


class ServerTls:
    def __init__(self, chain: Path, key: Path, roots: Iterable[str], peers: Iterable[PeerTrust] = ()) -> None:
        self.renew(chain, key, roots, peers)
        self.door = _context(chain, key, roots)
        """For the listener."""
        self.door.sni_callback = self._enter

    def renew(self, chain: Path, key: Path, roots: Iterable[str], peers: Iterable[PeerTrust] = ()) -> None:
        """From the next handshake on."""
        self._current = _context(chain, key, roots)
        self._peers: dict[str, PeerContext] = {}
        for trust in peers:
            context = _prepared(PeerContext(ssl.PROTOCOL_TLS_SERVER), chain, key, trust.roots)
            context.trust = trust
            self._peers[trust.peer + PEER_NAME] = context

    def _enter(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _door: ssl.SSLContext) -> None:
        connection.context = self._peers.get(name or "", self._current)


C = TypeVar("C", bound=ssl.SSLContext)


def _context(chain: Path, key: Path, roots: Iterable[str]) -> ssl.SSLContext:
    return _prepared(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain, key, roots)


def _prepared(context: C, chain: Path, key: Path, roots: Iterable[str]) -> C:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(chain, key)
    context.load_verify_locations(cadata="\n".join(roots))
    context.verify_mode = ssl.CERT_OPTIONAL
    # A resumed session would outlive a change of trust.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return context


def usable(roots: Iterable[str]) -> tuple[str, ...]:
    """Those that are certificates."""
    return tuple(pem for pem in roots if _is_certificate(pem))


def _is_certificate(pem: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError, TypeError):  # the last: not ASCII
        return False
    return True


def client_context(chain: Path, key: Path, roots: Iterable[str]) -> ssl.SSLContext:
    """To dial another replica, as this one."""
    context = ssl.create_default_context(cadata="\n".join(roots))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(chain, key)
    return context
