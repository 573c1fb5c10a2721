"""What is observed, applied and refused, for the control plane, for `holdfast-agent status` and for Prometheus.

Tells what is, never what should be. Pure: facts in, documents out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent import machine, metrics
from agent.drained import Drained
from mesh.model.uplink import Rejected, Report, SvidStatus

MAX_PROBLEMS = 100
"""In one report; the rest is counted."""

_ENVOY = {"unknown": "down", "gone": "down", "starting": "starting", "live": "live"}


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    service: str
    identity: str
    health: str
    reason: str
    registered: str
    """`yes`, `no`, or why it was refused."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of this agent at one moment."""

    state: machine.State
    node: str
    version: str = ""
    started: float = 0.0
    now: float = 0.0
    epoch: str = ""
    envoy_version: str = ""
    rejected: tuple[Rejected, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    svids: tuple[SvidStatus, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict)
    held: str = ""
    runways: Mapping[str, float] = field(default_factory=dict)
    instances: tuple[InstanceStatus, ...] = ()
    store: str = ""
    """Why the mesh is not followed; empty: it is."""
    controlplane: str = ""
    """Why there is no uplink; empty: there is."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Services that are called by name, and their addresses, as far as the host's helper has them in force."""
    capture: str = ""
    """Of further connections: none, armed, confirmed or reverted; empty: not known."""
    gates: tuple[str, ...] = ()
    controlplanes: tuple[str, ...] = ()
    locality: str = ""
    memory: int = 0
    drained: Drained = Drained()
    applied_newest: int = 0
    """Newest revision of any range that is in force; the report's is that of the objects alone."""


def report(facts: Facts) -> Report:
    """For the control plane."""
    state = facts.state
    problems = [*([state.failure] if state.failure else []), *facts.problems]
    if len(problems) > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], f"... and {len(problems) - MAX_PROBLEMS} more"]
    return Report(
        node=facts.node,
        version=facts.version,
        phase=state.phase,
        observed=state.observed,
        applied=state.applied if state.applied_digest else 0,
        epoch=facts.epoch,
        envoy=_ENVOY[state.envoy],
        envoy_version=facts.envoy_version,
        failure=state.failure,
        rejected=facts.rejected,
        problems=tuple(problems),
        warnings=facts.warnings,
        svids=facts.svids,
        resources=dict(facts.resources),
        held=facts.held,
        started=facts.started,
        locality=facts.locality,
        maintenance=facts.drained.host or 0.0,
    )


def document(facts: Facts) -> dict[str, Any]:
    """For `holdfast-agent status`: the report, and what only this host knows."""
    body: dict[str, Any] = msgspec.to_builtins(report(facts))
    body |= {
        "phase": facts.state.phase,
        "observed": facts.state.observed,
        "applied": facts.state.applied if facts.state.applied_digest else 0,
        "envoy": _ENVOY[facts.state.envoy],
        "appliedNewest": facts.applied_newest,
        "world": facts.state.world,
        "store": facts.store or "connected",
        "controlplane": facts.controlplane or "connected",
        "names": dict(facts.names),
        "capture": facts.capture,
        "gates": list(facts.gates),
        "controlplanes": list(facts.controlplanes),
        "instances": [
            {
                "service": i.service,
                "identity": i.identity,
                "health": i.health,
                "reason": i.reason,
                "registered": i.registered,
            }
            for i in facts.instances
        ],
        "runwaySeconds": {name: round(left) for name, left in facts.runways.items()},
        "drained": msgspec.to_builtins(facts.drained),
        "memoryBytes": facts.memory,
        "uptimeSeconds": round(max(0.0, facts.now - facts.started), 1),
    }
    return body


def samples(facts: Facts) -> Iterable[tuple[metrics.Metric, metrics.Labels, float]]:
    """For Prometheus."""
    state = facts.state
    none: dict[str, str] = {}
    yield metrics.PHASE, {"phase": state.phase}, 1
    yield metrics.OBSERVED, none, state.observed
    yield metrics.APPLIED, none, state.applied if state.applied_digest else 0
    for name, left in facts.runways.items():
        yield metrics.RUNWAY, {"identity": name}, round(left, 1)
    yield metrics.REJECTED, none, len(facts.rejected)
    yield metrics.PROBLEMS, none, len(facts.problems) + bool(state.failure)
    yield metrics.HELD, none, int(bool(facts.held))
    yield metrics.CONTROLPLANE, none, int(state.controlplane)
    yield metrics.STORE, none, int(not facts.store)
    yield metrics.ENVOY, none, int(state.envoy == "live")
    yield metrics.RSS, none, facts.memory
    for instance in facts.instances:
        yield metrics.HEALTHY, {"service": instance.service}, int(instance.health == "healthy")
