"""Envoy refused something: which objects are guilty, and what takes their place?

    changed  what differs from the objects that Envoy took last
    newest   which of that changed last, and is most likely to be guilty
    Search   finds the guilty among them, by trials that somebody else runs (`envoy --mode validate`)
    plan     what stands in for each of them
    substitute   the world with these in it

Pure. A trial is: compile the world in which exactly these changed objects have their new form, and ask Envoy.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from mesh.model import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    AuthorizationRule,
    MeshConfig,
    Object,
    Ref,
    World,
)
from mesh.model.world import Change, Removed, Upserted

Objects = Mapping[Ref, Object]

MAX_TRIALS = 60
"""A trial takes some 100 ms: at most a few seconds of searching. One guilty object among 1,000 takes about 12."""

InForce = Literal["nothing", "last accepted version", "deny all"]

QUARANTINE_RULE = "quarantined"
"""Name of the rule that denies in place of a refused one."""


def changed(accepted: Objects, objects: Objects) -> frozenset[Ref]:
    """Added, changed or removed between the two."""
    if accepted is objects:
        return frozenset()
    names = {ref for ref, obj in objects.items() if accepted.get(ref) is not obj}
    names.update(ref for ref in accepted if ref not in objects)
    return frozenset(names)


def newest(refs: Iterable[Ref], objects: Objects) -> frozenset[Ref]:
    """Those that changed at the last revision of all. A deletion has none: it comes before."""
    when = {ref: _revision(objects.get(ref)) for ref in refs}
    last = max(when.values(), default=0)
    return frozenset(ref for ref, revision in when.items() if revision == last)


def _revision(obj: Object | None) -> int:
    return int(obj.metadata.resource_version or 0) if obj is not None else 0


class Search:
    """Delta debugging: of a set that is refused, halve until one is left; blame it, and go on without it.

    The likely ones are last in it, and the first cut is before them: Envoy took what was there before, so if they are
    guilty, that cut says so, and nothing is left aside to be tried again.

    Ask `next_trial` and answer with `result`, until it is None. The first trial is everything: if Envoy takes that,
    the refusal cannot be reproduced. If it takes nothing at all, not even nothing new, no change of these is guilty.
    What depends on another guilty object, or clashes with a neighbour, is blamed too; the later one of two that clash.
    """

    def __init__(self, suspects: Iterable[Ref], *, likely: Collection[Ref] = (), max_trials: int = MAX_TRIALS) -> None:
        ordered = tuple(sorted(suspects, key=lambda ref: (ref in likely, ref)))
        self._cut = sum(ref not in likely for ref in ordered)
        self._max, self.trials = max_trials, 0
        self._group = ordered
        """Refused, together with what is accepted: at least one of them is guilty."""
        self._aside: tuple[Ref, ...] = ()
        """Not tried without a guilty one yet."""
        self._accepted: frozenset[Ref] = frozenset()
        self._guilty: list[Ref] = []
        self._stage: Literal["whole", "base", "half", "rest", "done"] = "whole" if ordered else "done"
        self.verdict: Literal["searching", "found", "not reproduced", "not these"] = (
            "searching" if ordered else "not these"
        )
        self.exhausted = False
        """The trials ran out: all that was not cleared by then is called guilty."""

    @property
    def guilty(self) -> frozenset[Ref]:
        """Known so far; all of them when the verdict is `found`."""
        return frozenset(self._guilty)

    def next_trial(self) -> frozenset[Ref] | None:
        """Which changed objects to keep in their new form; None when the search is over."""
        match self._stage:
            case "whole":
                return frozenset(self._group)
            case "base":
                return frozenset()
            case "half":
                return self._accepted.union(self._half)
            case "rest":
                return self._accepted.union(self._aside)
            case "done":
                return None

    def foreseen(self) -> frozenset[Ref] | None:
        """The trial after this one, where its answer is as good as known: Envoy has just refused the whole."""
        if self._stage != "whole":
            return None
        return frozenset(self._half if len(self._group) > 1 else ())

    @property
    def _half(self) -> tuple[Ref, ...]:
        """The first half; of all of them, those that are not likely."""
        return self._group[: self._cut if 0 < self._cut < len(self._group) else len(self._group) // 2]

    def result(self, *, accepted: bool) -> None:
        """What Envoy said to the last trial."""
        assert self._stage != "done", "the search is over"
        self.trials += 1
        match self._stage:
            case "whole" if accepted:
                self._end("not reproduced")
            case "whole":
                self._narrow()
            case "base" if accepted:
                self._blame()
            case "base":
                self._end("not these")
            case "half":
                self._halve(accepted=accepted)
            case "rest" if accepted:
                self._end("found")
            case "rest":
                self._group, self._aside = self._aside, ()
                self._narrow()
        if self.verdict == "searching" and self.trials >= self._max:
            self.exhausted = True
            self._guilty.extend((*self._group, *self._aside))
            self._end("found")

    def _halve(self, *, accepted: bool) -> None:
        half, self._cut = self._half, 0
        other = self._group[len(half) :]
        if accepted:
            # The group as a whole is refused with these, so the other half is.
            self._accepted, self._group = self._accepted.union(half), other
        else:
            self._aside, self._group = (*other, *self._aside), half
        self._narrow()

    def _narrow(self) -> None:
        if len(self._group) > 1:
            self._stage = "half"
        elif self._accepted or self._guilty:
            self._blame()
        else:
            # Nothing was ever accepted: perhaps nothing can be.
            self._stage = "base"

    def _blame(self) -> None:
        self._guilty.extend(self._group)
        self._group = ()
        if self._aside:
            self._stage = "rest"
        else:
            self._end("found")

    def _end(self, verdict: Literal["found", "not reproduced", "not these"]) -> None:
        self._stage, self.verdict = "done", verdict


@dataclass(frozen=True, slots=True)
class Replacement:
    """What stands in for a guilty object."""

    ref: Ref
    object: Object | None
    """None: nothing."""
    in_force: InForce


def plan(guilty: Iterable[Ref], accepted: Objects, objects: Objects) -> tuple[Replacement, ...]:
    """The last accepted version, or nothing for what is new; but never an access that the new version takes away."""
    return tuple(_replace(ref, accepted.get(ref), objects.get(ref)) for ref in sorted(guilty))


def _replace(ref: Ref, old: Object | None, new: Object | None) -> Replacement:
    if isinstance(new, AuthorizationPolicy):
        return _replace_policy(new, old if isinstance(old, AuthorizationPolicy) else None)
    if isinstance(old, AuthorizationPolicy) and old.spec.action == "Allow":
        return Replacement(ref, None, "nothing")  # it was deleted, so what it allowed stays taken away
    if isinstance(old, MeshConfig) and isinstance(new, MeshConfig) and new.spec.authorization_default == "Deny":
        old = msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, authorization_default="Deny"))
    return Replacement(ref, old, "last accepted version" if old is not None else "nothing")


def _replace_policy(new: AuthorizationPolicy, old: AuthorizationPolicy | None) -> Replacement:
    comparable = old is not None and (old.spec.target, old.spec.action) == (new.spec.target, new.spec.action)
    rules = old.spec.rules if old is not None and comparable else ()
    if new.spec.action == "Deny":
        if old is not None and comparable and all(rule in rules for rule in new.spec.rules):
            return Replacement(new.ref, old, "last accepted version")  # it denies all that the new one does
        everything = AuthorizationRule(name=QUARANTINE_RULE)
        spec = AuthorizationPolicySpec(target=new.spec.target, action="Deny", rules=(everything,))
        return Replacement(new.ref, msgspec.structs.replace(new, spec=spec), "deny all")
    # Allow: only rules that were accepted before and are still wanted.
    kept = tuple(rule for rule in rules if rule in new.spec.rules)
    if old is None or not kept:
        return Replacement(new.ref, None, "nothing")
    spec = msgspec.structs.replace(old.spec, rules=kept)
    return Replacement(new.ref, msgspec.structs.replace(old, spec=spec), "last accepted version")


def keep(world: World, accepted: Objects, new: Iterable[Ref]) -> World:
    """For a trial: the world in which, of all that changed, only these objects have their new form."""
    back = changed(accepted, world.objects).difference(new)
    return _with(world, {ref: accepted.get(ref) for ref in back})


def substitute(world: World, replacements: Iterable[Replacement]) -> World:
    """The world with these in place of the guilty."""
    return _with(world, {r.ref: r.object for r in replacements})


def _with(world: World, objects: Mapping[Ref, Object | None]) -> World:
    changes: list[Change] = []
    for ref, obj in objects.items():
        changes.append(Removed(ref) if obj is None else Upserted(obj, world.revision))
    return world.apply(changes, world.revision) if changes else world
