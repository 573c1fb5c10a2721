"""What doctor knows of a host. Pure values; a `fault` says why something is not known or does not work."""

from dataclasses import dataclass
from typing import Any

from agent.limits import Limits, Wanted


@dataclass(frozen=True, slots=True)
class Reached:
    """An address that this host needs."""

    where: str
    fault: str = ""
    skew: float | None = None
    """Seconds by which its clock is ahead of this host's; None: it was not told."""


@dataclass(frozen=True, slots=True)
class Certificate:
    name: str
    not_before: float
    not_after: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Unit:
    name: str
    loaded: bool = False
    active: str = "inactive"
    """active, activating, inactive, failed, ..."""
    result: str = ""
    """Of systemd: success, exit-code, oom-kill, watchdog, ..."""
    restarts: int = 0
    enabled: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    path: str
    free: int
    total: int
    """Bytes that others than root may use, and all of them."""
    free_inodes: int = 1_000_000
    """A file system without a number of them has enough."""


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    """agent or Envoy"""
    limits: Limits


@dataclass(frozen=True, slots=True)
class Facts:
    """One host at one moment."""

    now: float = 0.0
    settings_fault: str = ""
    """Why agent.yaml cannot be used: then much else is not known."""
    node: str = ""
    mtls_port: int = 15443
    scrape_port: int = 0
    """0: none."""
    serves: bool = False
    """Services are defined that others may call."""
    by_name: bool = False
    """Services are called by name from here."""
    definition_faults: tuple[str, ...] = ()

    joined_as: str = ""
    """Node of the identity on disk; empty: there is none."""
    identity_fault: str = ""
    """Why it cannot be read."""
    certificates: tuple[Certificate, ...] = ()

    controlplanes: tuple[Reached, ...] = ()
    gates: tuple[Reached, ...] = ()

    agent_fault: str = ""
    agent: dict[str, Any] | None = None
    """What `holdfast-agent status -o json` tells."""
    envoy_fault: str = ""
    envoy_state: str = ""
    """LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING."""
    envoy_version: str = ""
    envoy_installed: str = ""
    """The version that is installed; empty: not by Holdfast's own layout."""
    version: str = ""
    """Of what runs this."""

    systemd: bool = False
    units: tuple[Unit, ...] = ()
    listening: frozenset[int] = frozenset()
    """TCP ports on which somebody listens."""
    processes: tuple[Process, ...] = ()
    wanted: Wanted = Wanted(0, 0)
    address_fault: str = ""

    helper_fault: str = ""
    helper: dict[str, Any] | None = None
    """What `holdfast-agent host status` is told."""
    names_missing: tuple[str, ...] = ()
    """Names that the helper wants in /etc/hosts and that are not there as it wrote them."""
    nft: str = ""
    """Why the rules are not known; empty: they are."""
    table: bool = False
    """`inet holdfast` is loaded."""
    rivals: tuple[str, ...] = ()
    """Rules of others that may stand in the way, in words."""

    disks: tuple[Disk, ...] = ()
    journal_kept: bool | None = None
    """The journal outlives a boot; None: not known."""
    journal_bytes: int = 0
    access_log: str = ""
    access_log_bytes: int = 0
