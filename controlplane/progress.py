"""How far a revision has come: which proxies have it in force, and what the others wait for. Pure.

A proxy is live while a replica holds its uplink. One that went away a moment ago is waited for, since agents change
replicas and restart; after the grace it is offline, which is told and holds nobody up unless that is asked for.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from mesh.model import Frozen
from mesh.model.uplink import Report

MAX_LISTED = 200
"""Of each list in a document; the counts are whole."""


class Standing(Frozen, frozen=True, kw_only=True):
    """One connected proxy: of what its agent reports, that which decides here."""

    node: str
    silent: float = 0.0
    """Seconds since it was heard."""
    reported: bool = False
    epoch: str = ""
    observed: int = 0
    applied: int = 0
    phase: str = ""
    envoy: str = ""
    failure: str = ""
    rejected: dict[str, str] = {}
    """Object -> why Envoy refused it."""


def standing(node: str, silent: float, report: Report | None) -> Standing:
    if report is None:
        return Standing(node=node, silent=silent)
    return Standing(
        node=node,
        silent=silent,
        reported=True,
        epoch=report.epoch,
        observed=report.observed,
        applied=report.applied,
        phase=report.phase,
        envoy=report.envoy,
        failure=report.failure,
        rejected={rejected.object: rejected.reason for rejected in report.rejected},
    )


class Absences:
    """Since when each node is connected nowhere, as one replica saw it. Moments are those of its monotonic clock."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._connected: AbstractSet[str] = frozenset()
        self._since: dict[str, float] = {}

    def observe(self, connected: AbstractSet[str], now: float) -> None:
        for node in self._connected - connected:
            self._since[node] = now
        for node in connected:
            self._since.pop(node, None)
        self._connected = connected

    def since(self, node: str, now: float) -> float:
        """Of a node that was never seen: since this replica started, for what was before it cannot know."""
        return now if node in self._connected else self._since.get(node, self._started)

    def forget(self, known: AbstractSet[str]) -> None:
        """All but these nodes exist no more."""
        self._since = {node: since for node, since in self._since.items() if node in known}


@dataclass(frozen=True, slots=True)
class Question:
    revision: int
    epoch: str
    """Of the store now: revisions of another one mean something else."""
    objects: frozenset[str] = frozenset()
    """Those whose refusal counts."""
    require_all: bool = False
    """Offline hosts count, too."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """All that is known of the proxies at one moment."""

    nodes: frozenset[str]
    """Those that should have a proxy."""
    standings: Mapping[str, Standing]
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Node -> the replica that holds it and does not answer."""
    absent: Mapping[str, float] = field(default_factory=dict)
    """Node -> seconds since it was seen, of those that are connected nowhere."""
    grace: float = 15.0


@dataclass(frozen=True, slots=True)
class Refusal:
    node: str
    object: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    revision: int
    live: int = 0
    """Proxies that count: all but those that are offline."""
    in_force: int = 0
    waiting: tuple[tuple[str, str], ...] = ()
    """Node and what it waits for."""
    refusals: tuple[Refusal, ...] = ()
    offline: tuple[tuple[str, float], ...] = ()
    """Node and seconds since it was seen."""

    @property
    def state(self) -> Literal["rejected", "waiting", "in force"]:
        if self.refusals:
            return "rejected"
        return "waiting" if self.waiting else "in force"


def judge(question: Question, fleet: Fleet) -> Progress:
    waiting: list[tuple[str, str]] = []
    refusals: list[Refusal] = []
    offline: list[tuple[str, float]] = []
    in_force = 0
    for node in sorted(fleet.nodes):
        found = fleet.standings.get(node)
        if found is None:
            reason = _absence(node, question, fleet)
            if reason:
                waiting.append((node, reason))
            else:
                offline.append((node, fleet.absent.get(node, 0.0)))
            continue
        refused = _refusals(found, question)
        refusals += refused
        if reason := _missing(found, question):
            waiting.append((node, reason))
        elif not refused:
            in_force += 1
    return Progress(
        revision=question.revision,
        live=len(fleet.nodes) - len(offline),
        in_force=in_force,
        waiting=tuple(waiting),
        refusals=tuple(refusals),
        offline=tuple(offline),
    )


def _absence(node: str, question: Question, fleet: Fleet) -> str:
    """Why a node that is not connected is waited for; empty: it is offline."""
    if replica := fleet.elsewhere.get(node):
        return f"control-plane node {replica} holds its connection, and does not answer"
    gone = fleet.absent.get(node, 0.0)
    if gone < fleet.grace:
        return f"away for {gone:.0f} s"
    return f"offline for {gone:.0f} s" if question.require_all else ""


def _refusals(found: Standing, question: Question) -> list[Refusal]:
    if found.epoch != question.epoch or found.observed < question.revision:
        return []  # what it says is of an older object of this name
    return [Refusal(found.node, name, reason) for name, reason in found.rejected.items() if name in question.objects]


def _missing(found: Standing, question: Question) -> str:  # noqa: PLR0911 - one for each reason
    """What a connected proxy waits for; empty: it has the revision in force."""
    if not found.reported:
        return "connected, has not reported yet"
    if found.epoch != question.epoch:
        return "follows another history of the store" if found.epoch else "has not read the store yet"
    if found.applied >= question.revision:
        return ""
    if found.phase in {"joining", "syncing", "draining"}:
        return found.phase
    if found.observed < question.revision:
        return "stale: does not reach the store" if found.phase == "stale" else "has not seen it yet"
    if found.failure:
        return found.failure
    return "being put in force" if found.envoy == "live" else f"its Envoy is {found.envoy}"


def document(progress: Progress, now: float) -> dict[str, object]:
    """For answers; `now` in unix seconds."""
    return {
        "revision": progress.revision,
        "state": progress.state,
        "live": progress.live,
        "inForce": progress.in_force,
        "waiting": [{"node": node, "reason": reason} for node, reason in progress.waiting[:MAX_LISTED]],
        "waitingCount": len(progress.waiting),
        "rejected": [
            {"node": refusal.node, "object": refusal.object, "reason": refusal.reason}
            for refusal in progress.refusals[:MAX_LISTED]
        ],
        "rejectedCount": len(progress.refusals),
        "offline": [
            {"node": node, "since": round(now - seconds, 3)} for node, seconds in progress.offline[:MAX_LISTED]
        ],
        "offlineCount": len(progress.offline),
    }


def programmed(progress: Progress) -> dict[str, object]:
    """The condition of one object: how many of the live proxies have this version of it in force."""
    told: dict[str, object] = {
        "proxies": progress.in_force,
        "of": progress.live,
        "revision": progress.revision,
    }
    if progress.refusals:
        told["rejected"] = {refusal.node: refusal.reason for refusal in progress.refusals[:5]}
    return told


def newest(groups: Iterable[Iterable[Standing]]) -> dict[str, Standing]:
    """By node. One that moved is told of twice for a moment: the replica that heard it last is right."""
    found: dict[str, Standing] = {}
    for group in groups:
        for one in group:
            known = found.get(one.node)
            if known is None or one.silent < known.silent:
                found[one.node] = one
    return found
