"""What handlers work with: put together by the daemon, found in the application."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from ca.limits import Buckets, Rate
from ca.policy import Claims, Denied
from ca.wire import JoinAnswer, JoinRequest, RenewRequest, SignAnswer, Signed, SignRequest
from controlplane.api.downloads import Downloads
from controlplane.api.idle import IdleConnections
from controlplane.applier import Applier
from controlplane.asking import Asking
from controlplane.audit import AuditLog
from controlplane.auth import Caller
from controlplane.election import Election
from controlplane.exporting import Exporting
from controlplane.metrics import Metrics
from controlplane.mirror import Mirror
from controlplane.peering import PeeringDesk
from controlplane.peers import Peers
from controlplane.proxies import Proxies
from controlplane.revisions import Revisions
from controlplane.settings import Settings
from controlplane.shelf import Shelf
from controlplane.uplink import Uplinks
from controlplane.writer import Writer
from mesh.store.protocol import Store


class Issuing(Protocol):
    """ca.api.Issuer, as the API needs it."""

    async def join(self, request: JoinRequest, peer_ip: str, now: float) -> JoinAnswer | Denied: ...

    async def sign(self, claims: Claims, request: SignRequest, now: float) -> SignAnswer | Denied: ...

    async def renew(self, request: RenewRequest, now: float, peer_ip: str = "") -> Signed | Denied: ...


class Authorities(Protocol):
    """ca.authority.Authority, as the API needs it."""

    @property
    def roots(self) -> tuple[str, ...]: ...

    def valid_until(self) -> float:
        """End of the intermediate that issues now, unix seconds; 0: none is held."""

    @property
    def signer_fault(self) -> str:
        """Why the signer would not sign, when it was last asked."""

    async def rotate(self) -> None:
        """Issue with a new intermediate. May raise ca.signer.protocol.SignerError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    settings: Settings
    version: str
    trust_domain: str
    cluster: str
    store: Store
    mirror: Mirror
    applier: Applier
    writer: Writer
    uplinks: Uplinks
    proxies: Proxies
    revisions: Revisions
    asking: Asking
    election: Election
    issuer: Issuing
    authority: Authorities
    audit: AuditLog
    metrics: Metrics
    wall: Callable[[], float]
    shelf: Shelf
    desk: PeeringDesk
    peers: Peers
    exporting: Exporting
    may_look_up: Callable[[str, str, float], float]
    """(key, source address, now) -> 0 if the store may be asked for this record, or the seconds to wait.

    Of what callers name before they are let in; whatever the mirror knows may be asked for always.
    """
    lags: dict[str, float] = field(default_factory=dict)
    """Peer -> seconds that its last offer took from its arrival to the store, at the leader."""
    registrations: Buckets = field(default_factory=lambda: Buckets(Rate(per_second=5, burst=100)))
    """By node: each call costs a plan of the whole host, and may write. An agent calls when something changed."""
    downloads: Downloads = field(default_factory=Downloads)
    idle: IdleConnections = field(default_factory=IdleConnections)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set before a stop: streams end, so that clients turn to another replica."""
    _watches: list[None] = field(default_factory=list)

    @property
    def open_watches(self) -> int:
        return len(self._watches)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts a watch while it is open."""
        self._watches.append(None)
        try:
            yield
        finally:
            self._watches.pop()


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", object)  # type: ignore[arg-type]
NOTES: web.RequestKey[dict[str, object]] = web.RequestKey("notes", dict)
"""What a handler adds to the request's audit line."""
