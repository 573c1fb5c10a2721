"""What is known of peers besides their Peerings. Pure."""

from collections.abc import Collection
from typing import Literal

import msgspec

from ca.limits import Rate
from mesh.model import Frozen, Peering
from multicluster import wire

PeerState = Literal["connecting", "connected", "lost", "paused", "refused", "deleted"]
"""connected: in step with it. lost: nobody answers. refused: it answers, and there can be no session. deleted: here."""


class PeerRecord(Frozen, frozen=True, kw_only=True):
    """What the leader last saw of a peer: kept at keys.PEERS/<peer>. Changes when something changes."""

    trust_domain: str
    state: PeerState = "connecting"
    since: float = 0.0
    """Unix seconds, of the state."""
    lost: float = 0.0
    """Since when there is no session with it, unix seconds; 0: there is one."""
    reason: str = ""
    """Why it is lost or refused."""
    replica: str = ""
    """Its control-plane node that serves us."""
    epoch: str = ""
    position: int = 0
    """Of its store, when we were last in step with it."""
    rejected: dict[str, str] = {}
    """What of its offer is not taken, and why; the first of them."""
    refused: int = 0
    """How many in all."""
    roots: tuple[str, ...] = ()
    """Once it is deleted: what it is known by, to be told so."""


REASONS = 20
"""Refusals that a record spells out."""
TOMBSTONE_SECONDS = 30 * 86400.0
"""So long a peer that was deleted here is told so, rather than turned away as a stranger."""

NEWS = Rate(0.2, 8)
"""Of one peer, offers with another bundle or other addresses: every agent of the mesh reads each."""


def learned(peering: Peering, addresses: Collection[str]) -> Peering | str:
    """The Peering with the addresses that its peer tells, or why they are not taken. The same one: nothing is new."""
    if not addresses or tuple(addresses) == peering.spec.addresses:
        return peering
    if fault := wire.address_faults(addresses):
        return fault
    spec = msgspec.structs.replace(peering.spec, addresses=tuple(dict.fromkeys(addresses)))
    metadata = msgspec.structs.replace(
        peering.metadata, generation=peering.metadata.generation + 1, resource_version=""
    )
    return msgspec.structs.replace(peering, spec=spec, metadata=metadata)


def same_link(one: Peering, other: Peering) -> bool:
    """May a session go on, though the Peering changed? Addresses come and go."""
    return msgspec.structs.replace(one.spec, addresses=()) == msgspec.structs.replace(other.spec, addresses=())
