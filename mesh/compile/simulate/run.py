"""One simulation: what it looks at, its chances, and the trace it leaves."""

from dataclasses import dataclass, field
from typing import Any

from mesh import pb
from mesh.compile.simulate.chance import Chance
from mesh.compile.simulate.fields import known, resource
from mesh.compile.simulate.verdict import Kind, Step, Unsupported
from mesh.compile.types import Snapshot

_DENOMINATORS = {
    pb.FractionalPercent.HUNDRED: 100,
    pb.FractionalPercent.TEN_THOUSAND: 10_000,
    pb.FractionalPercent.MILLION: 1_000_000,
}


@dataclass(slots=True)
class Run:
    snapshot: Snapshot
    chance: Chance
    trace: list[Step] = field(default_factory=list)

    def note(self, kind: Kind, resource: str, field: str, said: str, *, decided: bool = True) -> None:
        self.trace.append(Step(kind, resource, field, said, decided))

    def find(self, url: str, name: str) -> Any:
        """The message of a resource; None: it is not there."""
        found = self.snapshot.resources.get(url, {}).get(name)
        return None if found is None else resource(url, found.body)

    def met(self, fraction: Any, *, stable: bool) -> bool:
        """Is a RuntimeFractionalPercent met? Nobody overrides it by its key."""
        known(fraction)
        return self.happens(fraction.default_value, stable=stable)

    def happens(self, percent: Any, *, stable: bool) -> bool:
        """Does something of this FractionalPercent happen? `stable`: by the request's own number."""
        modulus = _DENOMINATORS.get(percent.denominator)
        if modulus is None:
            raise Unsupported("envoy.type.v3.FractionalPercent.denominator", str(percent.denominator))
        if percent.numerator >= modulus:
            return True
        if percent.numerator == 0:
            return False
        pick = self.chance.stable if stable else self.chance.fresh
        return pick(modulus, [percent.numerator]) == 0


def shown(url: str, name: str) -> str:
    """A resource, in a step."""
    return f"{pb.SHORT[url]} {name}"
