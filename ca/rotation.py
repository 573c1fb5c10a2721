"""When to renew or replace what: dates and jitter in, steps out (pure)."""

from dataclasses import dataclass
from typing import Literal

RENEW_FRACTION = 1 / 3
"""Everything renews at one third of its life, so two thirds are left for an outage."""
JITTER_FRACTION = 0.2
"""Of the time until renewal; always earlier, never later, so that the runway promised is kept."""

WARN_FRACTION, ALARM_FRACTION = 0.5, 0.25

Level = Literal["ok", "warn", "alarm", "expired"]


def renew_at(not_before: float, not_after: float, jitter: float) -> float:
    """The moment to renew a certificate. `jitter` is uniform in [0, 1)."""
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter {jitter} is not in [0, 1)")
    return not_before + (not_after - not_before) * RENEW_FRACTION * (1 - JITTER_FRACTION * jitter)


@dataclass(frozen=True, slots=True)
class Runway:
    """How long a certificate still lasts if nothing can be issued from now on."""

    seconds: float
    fraction: float
    """Of its whole life."""
    level: Level


def runway(not_before: float, not_after: float, now: float) -> Runway:
    """The figures for status pages and metrics."""
    left, life = max(0.0, not_after - now), max(1.0, not_after - not_before)
    fraction = min(1.0, left / life)
    if left == 0:
        return Runway(left, fraction, "expired")
    level: Level = "alarm" if fraction <= ALARM_FRACTION else "warn" if fraction <= WARN_FRACTION else "ok"
    return Runway(left, fraction, level)


@dataclass(frozen=True, slots=True)
class Slot:
    """An issuer's certificate in one place: what issues now, or what will."""

    not_before: float
    not_after: float
    jitter: float
    """Drawn once, when the slot was filled, so that a restart does not draw again."""
    ready: float = 0.0
    """Not to be activated before: a root that is new must reach every host first."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have a next issuer signed. Needs the signer; may be repeated."""


@dataclass(frozen=True, slots=True)
class Activate:
    """Issue with the next one from now on. Local."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Forget what can no longer issue. Local."""


@dataclass(frozen=True, slots=True)
class Wait:
    until: float


Step = Prepare | Activate | Retire | Wait


def step(current: Slot | None, upcoming: Slot | None, now: float) -> Step:
    """The one thing to do now. Each may be interrupted and is found again from what is on disk."""
    if upcoming is not None and upcoming.not_after <= now:
        return Retire()
    ready = max(upcoming.not_before, upcoming.ready) if upcoming is not None else 0.0
    if upcoming is not None and ready <= now:
        return Activate()
    if current is None:
        return Prepare() if upcoming is None else Wait(ready)
    due = renew_at(current.not_before, current.not_after, current.jitter)
    if upcoming is not None:
        return Wait(ready)
    return Wait(due) if now < due else Prepare()
