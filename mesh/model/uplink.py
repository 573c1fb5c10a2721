"""What an agent tells the control plane, and hears from it: registration and the uplink's messages.

The uplink is one WebSocket per agent to any control-plane node: JSON text frames, `Hello` first, then `Report`s. That it
is open is the heartbeat; the server pings, and a peer that does not answer is cut.
"""

from mesh.model.base import Frozen
from mesh.model.instance import Instance


class RegisterRequest(Frozen, frozen=True, kw_only=True):
    """POST /v1/register, with the node's certificate: all instances of this host, whole. What is missing is removed."""

    instances: tuple[Instance, ...]


class RegisterAnswer(Frozen, frozen=True, kw_only=True):
    revision: int
    refused: dict[str, str] = {}
    """Instance name -> reason; the others are registered."""


class Rejected(Frozen, frozen=True, kw_only=True):
    """An object that Envoy refused; what is in force for it instead."""

    object: str
    reason: str
    in_force: str = "nothing"
    """`nothing`, `last accepted version` or `deny all`."""


class SvidStatus(Frozen, frozen=True, kw_only=True):
    spiffe_id: str
    serial: str
    not_before: float
    not_after: float


class Report(Frozen, frozen=True, kw_only=True):
    """Sent on change, at most once a second, and once after connecting."""

    node: str
    version: str = ""
    phase: str = "joining"
    """joining, syncing, serving, stale, draining."""
    observed: int = 0
    """Newest revision the agent has seen."""
    applied: int = 0
    """Newest revision that is in force in Envoy: acknowledged, and nothing warming."""
    epoch: str = ""
    envoy: str = "down"
    """down, starting, live."""
    envoy_version: str = ""
    rejected: tuple[Rejected, ...] = ()
    problems: tuple[str, ...] = ()
    svids: tuple[SvidStatus, ...] = ()
    resources: dict[str, int] = {}
    """Short type name (cds, eds, lds, rds, sds) -> how many the proxy holds."""
    held: str = ""
    """Why a mass deletion is held back, if one is."""
    started: float = 0.0
    """Unix seconds."""
