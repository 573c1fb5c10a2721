"""What the steps of a check found."""

from collections.abc import Iterator
from contextlib import contextmanager

from mesh.model import Frozen

Figure = str | int | float | bool


class Step(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """One step's outcome. It passed if nothing failed."""

    number: int
    title: str
    ok: bool
    seconds: float
    figures: dict[str, Figure] = {}
    failures: tuple[str, ...] = ()


class Report(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    ok: bool
    seconds: float
    steps: tuple[Step, ...]
    facts: dict[str, Figure] = {}
    """What the check ran on: versions, signer, settings that differ from the defaults."""
    log_tails: dict[str, str] = {}
    """File -> its last lines, if something failed."""


class Findings:
    """Where a step writes what it sees."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}
        self.failures: list[str] = []

    def figure(self, name: str, value: Figure) -> None:
        self.figures[name] = round(value, 2) if isinstance(value, float) else value

    def expect(self, holds: bool, otherwise: str) -> bool:
        """Note a failure unless this holds."""
        if not holds:
            self.failures.append(otherwise)
        return holds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Figures written inside carry this part's name in front."""
        before, self.figures = self.figures, {}
        try:
            yield
        finally:
            inner, self.figures = self.figures, before
            self.figures |= {f"{name}: {key}": value for key, value in inner.items()}

    def step(self, number: int, title: str, seconds: float) -> Step:
        return Step(
            number=number,
            title=title,
            ok=not self.failures,
            seconds=round(seconds, 1),
            figures=dict(self.figures),
            failures=tuple(self.failures),
        )
