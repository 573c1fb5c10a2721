"""Control planes and store gates that are known by a DNS name: which addresses are theirs. Pure.

Capture leaves these addresses alone. Whoever answers for such a name may say another address at any time, or one of
many; so what was said counts for a while, and what was said last counts until something else is.
"""

from collections.abc import Container, Mapping
from typing import TypeVar

from mesh.model import Frozen

KEEP_SECONDS = 3600.0
"""How long an address stays that is in no answer any more: others may know of it, or have connections to it."""

MAX_ADDRESSES = 64
"""As many as the helper takes."""


V = TypeVar("V")


class Known(Frozen, frozen=True, kw_only=True):
    answers: dict[str, dict[str, float]] = {}
    """Name -> address -> when an answer had it last, in Unix seconds."""
    faults: dict[str, str] = {}
    """Name -> why it had no answer when it was asked for last."""

    def heard(self, name: str, addresses: tuple[str, ...], now: float) -> "Known":
        """An answer, of one address at least."""
        kept = {address: at for address, at in self.answers.get(name, {}).items() if now - at < KEEP_SECONDS}
        faults = {other: why for other, why in self.faults.items() if other != name}
        return Known(answers=self.answers | {name: kept | dict.fromkeys(addresses, now)}, faults=faults)

    def failed(self, name: str, reason: str) -> "Known":
        """What it led to before, stays."""
        return Known(answers=self.answers, faults=self.faults | {name: reason})

    def only(self, names: Container[str]) -> "Known":
        """Without what nobody asks for any more."""
        return Known(answers=_of(self.answers, names), faults=_of(self.faults, names))

    @property
    def addresses(self) -> tuple[str, ...]:
        """In order. Of too many, those that were heard last."""
        return tuple(sorted(self._newest()[:MAX_ADDRESSES]))

    @property
    def problems(self) -> tuple[str, ...]:
        found = [f"{self._told(name)} ({reason})" for name, reason in sorted(self.faults.items())]
        if (more := len(self._newest()) - MAX_ADDRESSES) > 0:
            found.append(
                f"capture.outbound: the names of control planes and gates lead to {more} addresses more than can be"
                " left alone; put their networks into `capture.outbound.exempt` in agent.yaml"
            )
        return tuple(found)

    def _newest(self) -> list[str]:
        heard: dict[str, float] = {}
        for answer in self.answers.values():
            for address, at in answer.items():
                heard[address] = max(at, heard.get(address, at))
        return sorted(heard, key=lambda address: (-heard[address], address))

    def _told(self, name: str) -> str:
        what = f"capture.outbound: {name}, a control plane or gate, cannot be resolved"
        if held := self.answers.get(name):
            return f"{what}; connections to where it led last, {', '.join(sorted(held)[:4])}, are still left alone"
        advice = "mend DNS, or put its addresses into `capture.outbound.exempt` in agent.yaml"
        return f"{what}, so connections to it are captured; {advice}"


def _of(held: Mapping[str, V], names: Container[str]) -> dict[str, V]:
    return {name: value for name, value in held.items() if name in names}
