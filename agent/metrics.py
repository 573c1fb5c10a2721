"""Names of the agent's metrics, and their page in Prometheus' text format.

Gauges are read when the page is asked for; nothing is kept but counters. A library for this would cost 3 MB a host.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Labels = Mapping[str, str]


class Metric(NamedTuple):
    name: str
    kind: str
    help: str


PHASE = Metric("holdfast_agent_phase", "gauge", "1 for the phase the agent is in")
OBSERVED = Metric("holdfast_agent_observed_revision", "gauge", "Newest revision of the store that the agent has seen")
APPLIED = Metric("holdfast_agent_applied_revision", "gauge", "Newest revision in force in Envoy")
RUNWAY = Metric("holdfast_agent_certificate_runway_seconds", "gauge", "Seconds until a certificate expires")
REJECTED = Metric("holdfast_agent_rejected_objects", "gauge", "Objects that Envoy refused and that were replaced")
PROBLEMS = Metric("holdfast_agent_problems", "gauge", "Faults that wait for an operator")
HELD = Metric("holdfast_agent_mass_deletion_held", "gauge", "1 while an undeclared mass deletion is held back")
CONTROLPLANE = Metric("holdfast_agent_controlplane_connected", "gauge", "1 while the uplink is open")
STORE = Metric("holdfast_agent_store_connected", "gauge", "1 while the mesh is followed")
ENVOY = Metric("holdfast_agent_envoy_live", "gauge", "1 while Envoy is live")
RSS = Metric("holdfast_agent_resident_memory_bytes", "gauge", "Resident memory of the agent")
HEALTHY = Metric("holdfast_agent_instance_healthy", "gauge", "1 while an instance of this host passes its check")
COMPILES = Metric("holdfast_agent_compiles_total", "counter", "Compiles, by outcome")
COMPILE_SECONDS = Metric("holdfast_agent_compile_seconds_total", "counter", "Time spent compiling")
ANSWERS = Metric("holdfast_agent_proxy_answers_total", "counter", "Answers of Envoy to what it was offered")
CHANGES = Metric("holdfast_agent_store_events_total", "counter", "Changes of keys seen in the store")
EXCHANGES = Metric("holdfast_agent_identity_exchanges_total", "counter", "Calls to the CA, by outcome")
SAVES = Metric("holdfast_agent_state_saves_total", "counter", "Writes of the last good state, by outcome")


class Counters:
    def __init__(self) -> None:
        self._values: Counter[tuple[Metric, tuple[tuple[str, str], ...]]] = Counter()
        self._sums: dict[Metric, float] = {}

    def count(self, metric: Metric, amount: int = 1, **labels: str) -> None:
        self._values[metric, tuple(sorted(labels.items()))] += amount

    def add(self, metric: Metric, amount: float) -> None:
        self._sums[metric] = self._sums.get(metric, 0.0) + amount

    def samples(self) -> Iterable[tuple[Metric, Labels, float]]:
        for (metric, labels), value in self._values.items():
            yield metric, dict(labels), value
        for metric, total in self._sums.items():
            yield metric, {}, total


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def page(samples: Iterable[tuple[Metric, Labels, float]]) -> str:
    """Prometheus text format 0.0.4, each metric's samples together."""
    grouped: dict[Metric, list[str]] = {}
    for metric, labels, value in samples:
        inner = ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items())
        grouped.setdefault(metric, []).append(
            f"{metric.name}{{{inner}}} {value}" if inner else f"{metric.name} {value}"
        )
    return "".join(
        f"# HELP {m.name} {m.help}\n# TYPE {m.name} {m.kind}\n" + "\n".join(lines) + "\n"
        for m, lines in sorted(grouped.items())
    )
