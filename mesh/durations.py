"""Times on a command line, spelled alike in all programs: `90s`, `15m`, `24h`, `7d`; a plain number is seconds.

For the command line alone: what runs for long has no use for its library.
"""

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
else:
    _Seconds = click.ParamType  # generic since click 8.4

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FORM = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)")


class Duration(_Seconds):
    """Becomes seconds: a whole number of them where it is one."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        """A time.

        Args:
            zero: No time at all is one, too.

        """
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return float(value)
        found = _FORM.fullmatch(value)
        if not found or (not float(found[1]) and not self._zero):
            self.fail(f"{value!r} is not a time; write it like 90s, 15m, 24h or 7d", param, ctx)
        exact = float(found[1]) * _UNITS[found[2] or "s"]
        return int(exact) if exact.is_integer() else exact


DURATION, WAIT = Duration(), Duration(zero=True)
"""How long something lasts; how long to wait for it, perhaps not at all."""


def spelled(seconds: float) -> str:
    """In the largest unit of which it is a multiple."""
    unit = next((unit for unit, size in _UNITS.items() if seconds and seconds % size == 0), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"
