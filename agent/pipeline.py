"""World + host -> Snapshot: the inputs of compile, what stands in for refused objects, and what Envoy made of it.

No policy and no I/O: `runtime` calls it when the machine says so.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent import quarantine
from agent.quarantine import Replacement
from mesh import compile as mesh_compile
from mesh.compile.types import Snapshot
from mesh.model import NodeLocal, Object, Ref, Revision, World
from mesh.model.uplink import Rejected

OFFERS_KEPT = 8
"""Offers whose inputs are remembered until Envoy has answered; older ones have been replaced."""


class CompileError(Exception):
    """A snapshot that must not be offered, with the reason."""


@dataclass(frozen=True, slots=True)
class Substitute:
    """What stands in for an object that Envoy refused, as long as that is the object."""

    refused: Object | None
    """None: its deletion was refused."""
    instead: Replacement
    reason: str

    def holds(self, world: World) -> bool:
        return world.objects.get(self.instead.ref) == self.refused


Substitutes = Mapping[Ref, Substitute]


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that one compile depends on."""

    world: World
    local: NodeLocal | None
    substitutes: Substitutes
    newest: Revision = Revision(0)

    def same_but_endpoints(self, other: "Inputs") -> bool:
        return (
            self.world.objects is other.world.objects
            and self.world.undecodable is other.world.undecodable
            and self.local is other.local
            and self.substitutes is other.substitutes
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """A snapshot, and from what it was made."""

    snapshot: Snapshot
    world: World
    """With substitutes in place."""
    local: NodeLocal
    newest: Revision = Revision(0)
    """Of any range; the snapshot's revision is that of the objects alone."""


def in_force(world: World, substitutes: Substitutes) -> World:
    """The world as it is compiled. An object that is not the refused one any more gets its own try."""
    return quarantine.substitute(world, [s.instead for s in substitutes.values() if s.holds(world)])


class Pipeline:
    """One agent's compile, with its caches. Not for two callers at once; the machine sees to that."""

    def __init__(self, local: NodeLocal | None = None) -> None:
        self.world = World()
        self.newest = Revision(0)
        """Of any range in it."""
        self.local = local
        self.substitutes: Substitutes = {}
        self.accepted: Offer | None = None
        """The last one that Envoy acknowledged whole."""
        self._compiler, self._checker = mesh_compile.Compiler(), mesh_compile.Checker()
        self._view: mesh_compile.NodeView | None = None
        self._offers: OrderedDict[bytes, Offer] = OrderedDict()
        self._last: Inputs | None = None
        self._substituted: World | None = None

    def inputs(self) -> Inputs:
        """What a compile would be made from now. Taken on the loop; the compile itself may run in a thread."""
        return Inputs(self.world, self.local, self.substitutes, self.newest)

    def light(self, inputs: Inputs) -> bool:
        """Are at most endpoints new since the last compile? Then it is too cheap to leave the loop for."""
        return self._last is not None and self._last.same_but_endpoints(inputs)

    def compile(self, inputs: Inputs) -> Offer:
        """Compile.

        Raises:
            CompileError: the result would break Envoy's rules; a fault of ours.

        """
        if inputs.local is None:
            raise CompileError("the host has no identity yet")
        world = self._in_force(inputs)
        self._view = mesh_compile.project(world, inputs.local, self._view)
        snapshot = self._compiler.compile(self._view)
        if faults := self._checker.check(snapshot):
            raise CompileError("; ".join(faults[:5]))
        self._last = inputs
        return Offer(snapshot, world, inputs.local, inputs.newest)

    def _in_force(self, inputs: Inputs) -> World:
        """The objects keep their identity from compile to compile: its caches rely on it."""
        if not inputs.substitutes:
            return inputs.world
        if self._substituted is None or not self.light(inputs):
            self._substituted = in_force(inputs.world, inputs.substitutes)
        return replace(inputs.world, objects=self._substituted.objects)

    def remember(self, offer: Offer) -> None:
        """It is the newest compiled one."""
        self._offers[offer.snapshot.digest] = offer
        self._offers.move_to_end(offer.snapshot.digest)
        while len(self._offers) > OFFERS_KEPT:
            self._offers.popitem(last=False)

    def offer(self, digest: bytes) -> Offer | None:
        return self._offers.get(digest)

    def accept(self, digest: bytes) -> None:
        """Envoy acknowledged it."""
        self.accepted = self._offers.get(digest, self.accepted)

    def substitute(self, found: Substitutes) -> None:
        """These stand in from now on. Those that are outdated go at the same time."""
        standing = {ref: s for ref, s in self.substitutes.items() if s.holds(self.world)}
        self.substitutes = {**standing, **found}

    def rejected(self) -> tuple[Rejected, ...]:
        return tuple(
            Rejected(
                object=str(ref), reason=self.substitutes[ref].reason, in_force=self.substitutes[ref].instead.in_force
            )
            for ref in sorted(self.substitutes)
            if self.substitutes[ref].holds(self.world)
        )
