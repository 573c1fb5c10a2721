"""What many samples say, and how it is shown."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 170
"""Of the table where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing."""

    what: str
    unit: str
    samples: int
    values: dict[str, float]
    """Such as p50, p99, max; or median, low, high of the repeats."""
    goal: str = ""
    notes: str = ""


@dataclass(slots=True)
class Report:
    figures: list[Figure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, *figures: Figure) -> None:
        self.figures.extend(figures)

    def show(self, console: Console | None = None) -> None:
        """The table, what it was measured on, and the notes."""
        table = Table(title="Holdfast, measured", show_lines=False)
        for column in ("what", "samples", "figures", "unit", "goal"):
            table.add_column(column)
        for one in self.figures:
            shown = "  ".join(f"{name} {value:,.4g}" for name, value in one.values.items())
            table.add_row(one.what, str(one.samples), shown, one.unit, one.goal)
        console = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
        console.print(table)
        for name, value in self.facts.items():
            console.print(f"  {name}: {value}", markup=False)
        for notes, about in self._notes().items():
            console.print(f"  {'; '.join(about)}: {notes}", markup=False)

    def _notes(self) -> dict[str, list[str]]:
        """Each note once, with the figures that it is about."""
        found: dict[str, list[str]] = {}
        for one in self.figures:
            if one.notes:
                found.setdefault(one.notes, []).append(one.what.strip())
        return found

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"facts": self.facts, "figures": [asdict(one) for one in self.figures]}
        path.write_text(json.dumps(whole, indent=2) + "\n")


def quantile(samples: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was measured, never one in between.

    Raises:
        ValueError: nothing was measured.

    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latency(what: str, seconds: Sequence[float], *, goal: str = "", notes: str = "") -> Figure:
    """p50, p99 and max, in milliseconds."""
    values = {"p50": quantile(seconds, 0.5) * 1e3, "p99": quantile(seconds, 0.99) * 1e3, "max": max(seconds) * 1e3}
    return Figure(what, "ms", len(seconds), values, goal, notes)


def spread(what: str, unit: str, repeats: Sequence[float], *, goal: str = "", notes: str = "") -> Figure:
    """The median of the repeats, and the lowest and highest."""
    values = {"median": quantile(repeats, 0.5), "low": min(repeats), "high": max(repeats)}
    return Figure(what, unit, len(repeats), values, goal, notes)
