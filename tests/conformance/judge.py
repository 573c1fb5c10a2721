"""Does an answer meet an expectation? Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.conformance.expectations import Case

REQUESTS = 500
TOLERANCE = 0.05
"""Both as in the published suite, which also tries as often as ATTEMPTS before it believes a bad distribution."""
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    echoed: Mapping[str, Any] = field(default_factory=dict)
    """What the echo application says that it saw; empty: it was not the one to answer."""

    @property
    def backend(self) -> str:
        return str(self.echoed.get("deployment", ""))


def faults(case: Case, answer: Answer) -> Iterator[str]:
    """Everything that is not as expected."""
    if answer.status != case.status:
        yield f"status {answer.status}, not {case.status}"
    if case.backend and answer.backend != case.backend:
        yield f"answered by {answer.backend or 'nobody'}, not {case.backend}"
    saw = _joined((name, value) for name, values in answer.echoed.get("headers", {}).items() for value in values)
    yield from _headers("the backend saw", saw, case.seen, case.unseen)
    if case.seen_path and answer.echoed.get("path") != case.seen_path:
        yield f"the backend saw path {answer.echoed.get('path')}, not {case.seen_path}"
    had = _joined(answer.headers)
    yield from _headers("the answer has", had, case.answered, case.unanswered)
    if case.location and _plain(had.get("location", "")) != case.location:
        yield f"location {had.get('location')}, not {case.location}"


def skew(case: Case, backends: Iterable[str]) -> Iterator[str]:
    """How far the shares of backends are from the expected ones, beyond what chance may do."""
    counts = Counter(backends)
    total = counts.total()
    for name in sorted({*counts, *case.shares}):
        wanted, got = case.shares.get(name, 0.0), counts[name] / total
        if abs(got - wanted) > TOLERANCE or (got and not wanted):
            yield f"{name or 'nobody'} answered {got:.3f} of {total} requests, not {wanted:.3f}"


def _plain(url: str) -> str:
    """Without a port that goes without saying: it may be there, as in the published suite."""
    parts = urlsplit(url)
    ordinary = {"http": ":80", "https": ":443"}.get(parts.scheme, ":")
    return parts._replace(netloc=parts.netloc.removesuffix(ordinary)).geturl()


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _headers(who: str, had: Mapping[str, str], wanted: Mapping[str, str], absent: tuple[str, ...]) -> Iterator[str]:
    for name, value in wanted.items():
        if had.get(name.lower()) != value:
            yield f"{who} {name}: {had.get(name.lower())}, not {value}"
    for name in absent:
        if name.lower() in had:
            yield f"{who} {name}: {had[name.lower()]}, which should not be there"
