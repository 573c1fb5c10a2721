"""Durations as Gateway API writes them: `1h30m`, `500ms`, `0s` (GEP-2257)."""

import re

from mesh.model.checks import shown

_WHOLE = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}\Z")
_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration_fault(text: str, low: float = 0.0, high: float = float("inf")) -> str:
    """What is wrong with it, or "". The bounds are in seconds."""
    if not _WHOLE.match(text):
        return f"{shown(text)} is not a duration, such as 500ms, 10s or 1h30m"
    value = seconds(text)
    if value < low:
        return f"{shown(text)} is shorter than {low:g} s"
    return f"{shown(text)} is longer than {high:g} s" if value > high else ""


def seconds(text: str) -> float:
    """Of a duration without fault. Raises OverflowError for one that no clock can count."""
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
