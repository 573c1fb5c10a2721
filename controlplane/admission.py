"""What becomes of an apply. Pure: documents and what the store holds in; one transaction or all faults out.

    read    documents -> Intent, or every violation of every document
    needs   which objects the plan must see
    plan    Intent + State -> Plan | Invalid | Conflicts

An object that is as it was causes no write. Everything that the decision stood on is compared in the transaction.
"""

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from controlplane import history
from controlplane.commit import Totals, Transaction, declare
from controlplane.history import Action, Change, Mark
from controlplane.view import Held
from mesh import codec, keys
from mesh.model import CLUSTER_SINGLETON, KINDS, Frozen, MeshConfig, Object, Ref, Revision, Violation
from mesh.store.protocol import Compare, Delete, Op, Put
from mesh.validate import validate, validate_all

DEFAULT_NAMESPACE = "default"
"""Needs no Namespace object."""
MAX_OBJECTS = 2000
"""Of one call; the transaction limit is usually met first."""


class Removal(Frozen, frozen=True, kw_only=True):
    """One object to delete."""

    kind: str
    name: str
    namespace: str = ""
    resource_version: str = ""
    """Delete only if it is at this version."""

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.namespace, self.name)


class Result(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    object: str
    action: Action


@dataclass(frozen=True, slots=True)
class Limits:
    ops: int
    size: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What is wanted, well-formed."""

    objects: tuple[Object, ...]
    removals: tuple[Removal, ...]
    raw: Mapping[Ref, bytes] = field(default_factory=dict)
    """Objects that are written just so, with the metadata that they have: those that are put back."""


@dataclass(frozen=True, slots=True)
class State:
    """What the store holds of what `needs` named."""

    current: Mapping[Ref, Held[Object]]
    unreadable: Mapping[Ref, Revision] = field(default_factory=dict)
    """Values that no reader understands: they may be replaced or deleted, as whatever they are."""
    raw: Mapping[Ref, bytes] = field(default_factory=dict)
    """All these values as they are stored, readable or not."""
    contents: Mapping[str, Sequence[Ref]] = field(default_factory=dict)
    """Namespace -> objects in it, of those that are to be deleted."""
    totals: Totals = field(default_factory=dict)
    """Of declared deletions, if there is anything to delete."""
    epoch: str = ""

    def revision(self, ref: Ref) -> Revision:
        held = self.current.get(ref)
        return held.revision if held else self.unreadable.get(ref, Revision(0))


@dataclass(frozen=True, slots=True)
class Plan:
    results: tuple[Result, ...]
    transaction: Transaction | None
    """None: nothing changes."""
    changes: tuple[Change, ...] = ()
    entry: str = ""
    """Its entry in the history."""
    standing: Revision = Revision(0)
    """The newest change of the objects that are as they were, of those that proxies are made from."""


@dataclass(frozen=True, slots=True)
class Invalid:
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Objects that are not at the version which the caller meant."""

    objects: tuple[str, ...]


def read(documents: Sequence[object], removals: Sequence[Removal]) -> Intent | Invalid:
    """Every violation of every document, or what they mean."""
    if len(documents) + len(removals) > MAX_OBJECTS:
        return Invalid((Violation(path="", reason=f"more than {MAX_OBJECTS} objects in one call; split it"),))
    faults: list[Violation] = []
    objects: list[Object] = []
    for index, document in enumerate(documents):
        outcome = codec.decode_strict(document)
        if isinstance(outcome, tuple):
            name = _title(document) or f"objects[{index}]"
            faults.extend(msgspec.structs.replace(fault, object=fault.object or name) for fault in outcome)
            continue
        objects.append(_in_namespace(outcome))
        if not KINDS[outcome.kind].operator:
            reason = f"{outcome.kind} objects are written by the control plane itself"
            faults.append(Violation(object=str(outcome.ref)[:160], path="kind", reason=reason))
    wanted = tuple(_removal(removal) for removal in removals)
    faults.extend(validate_all(objects))
    faults.extend(_check_removals(wanted, {obj.ref for obj in objects}))
    return Invalid(tuple(faults)) if faults else Intent(tuple(objects), wanted)


def _title(document: object) -> str:
    """What a faulty document calls itself."""
    if not isinstance(document, Mapping):
        return ""
    meta = document.get("metadata")
    name, namespace = (meta.get("name"), meta.get("namespace", "")) if isinstance(meta, Mapping) else ("", "")
    if not isinstance(name, str) or not isinstance(document.get("kind"), str) or not name.isprintable():
        return ""
    return str(Ref(str(document["kind"]), str(namespace), name))[:160]


def _in_namespace(obj: Object) -> Object:
    if obj.metadata.namespace or not KINDS[obj.kind].namespaced:
        return obj
    return msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, namespace=DEFAULT_NAMESPACE))


def _removal(removal: Removal) -> Removal:
    row = KINDS.get(removal.kind)
    if row is None or not row.namespaced or removal.namespace:
        return removal
    return msgspec.structs.replace(removal, namespace=DEFAULT_NAMESPACE)


def _check_removals(removals: Sequence[Removal], objects: set[Ref]) -> Iterable[Violation]:
    seen = set(objects)
    for index, removal in enumerate(removals):
        path, name = f"delete[{index}]", str(removal.ref)[:160]
        row = KINDS.get(removal.kind)
        if row is None:
            yield Violation(object=name, path=f"{path}.kind", reason=f"no such kind: {removal.kind[:80]!r}")
            continue
        try:
            keys.key_for(removal.ref, service="x")
        except keys.BadKeyError as exc:
            yield Violation(object=name, path=f"{path}.name", reason=str(exc))
            continue
        if not row.operator:
            yield Violation(object=name, path=path, reason=f"{removal.kind} objects are removed by the control plane")
        if removal.kind == MeshConfig.__name__:
            yield Violation(object=name, path=path, reason="the mesh cannot be without its MeshConfig")
        if removal.ref in seen:
            yield Violation(object=name, path=path, reason="this object is also applied or deleted in the same call")
        seen.add(removal.ref)


def undo(changes: Iterable[Change], revision: Revision) -> Intent:
    """Back to what these objects were before this revision changed them, for as long as nobody else did.

    What was there before must be readable (see `cannot_undo`).
    """
    objects: list[Object] = []
    removals: list[Removal] = []
    raw: dict[Ref, bytes] = {}
    for change in changes:
        ref = change.ref
        version = str(revision if change.after is not None else 0)
        if change.before is None:
            removals.append(Removal(kind=ref.kind, name=ref.name, namespace=ref.namespace, resource_version=version))
        else:
            before = codec.decode(ref.kind, change.before)
            meta = msgspec.structs.replace(before.metadata, resource_version=version)
            objects.append(msgspec.structs.replace(before, metadata=meta))
            raw[ref] = change.before
    return Intent(tuple(objects), tuple(removals), raw)


def cannot_undo(changes: Iterable[Change]) -> tuple[Violation, ...]:
    """Objects that could not be put back."""
    faults: list[Violation] = []
    for change in changes:
        try:
            if change.before is not None:
                codec.decode(change.ref.kind, change.before)
        except codec.Undecodable as exc:
            reason = f"what it is now cannot be read, so it could not be put back: {exc}"
            faults.append(Violation(object=str(change.ref)[:160], path="", reason=reason))
    return tuple(faults)


def needs(intent: Intent) -> frozenset[Ref]:
    """Objects that the plan must see: those to change, their namespaces, the mesh's configuration, and neighbours."""
    refs = {obj.ref for obj in intent.objects} | {removal.ref for removal in intent.removals}
    refs |= {Ref("Namespace", "", ref.namespace) for ref in refs if ref.namespace}
    refs |= {ref for obj in intent.objects if obj.ref not in intent.raw for ref in obj.looks_at()}
    return frozenset(refs | {Ref("MeshConfig", "", CLUSTER_SINGLETON)})


def emptied(intent: Intent) -> tuple[str, ...]:
    """Namespaces to be deleted: the plan must see what is in them."""
    return tuple(removal.name for removal in intent.removals if removal.kind == "Namespace")


def plan(
    intent: Intent, state: State, *, mark: Mark, new_uid: Callable[[], str], limits: Limits
) -> Plan | Invalid | Conflicts:
    """One transaction for all of it, with its entry in the history."""
    if stale := [str(ref) for ref, version in _versions(intent) if version and version != str(state.revision(ref))]:
        return Conflicts(tuple(stale))
    existing = {ref: held.object for ref, held in state.current.items()}
    faults = list(_faults(intent, existing))
    faults.extend(_namespace_faults(intent, state))
    if faults:
        return Invalid(tuple(faults))
    draft = _Draft(state)
    for obj in intent.objects:
        draft.put(obj, mark.moment, new_uid, intent.raw.get(obj.ref))
    for removal in intent.removals:
        draft.delete(removal.ref)
    if not draft.ops:
        return Plan(tuple(draft.results), None, standing=draft.standing)
    transaction = _with_entry(
        declare(mark.author, [Compare(*pair) for pair in draft.compares.items()], draft.ops, state.totals),
        draft.changes,
        mark,
        limits,
    )
    count = max(len(transaction.ops), len(transaction.compares))
    if count > limits.ops or transaction.size > limits.size:
        reason = (
            f"the call needs {count} operations and {transaction.size} bytes in one transaction; the store takes"
            f" {limits.ops} and {limits.size}. Nothing was written: split the call"
        )
        return Invalid((Violation(path="", reason=reason),))
    return Plan(tuple(draft.results), transaction, tuple(draft.changes), mark.entry, draft.standing)


def _neighbours(intent: Intent, existing: Mapping[Ref, Object]) -> dict[Ref, Object]:
    """The objects that are known, as they will be.

    They may change afterwards as well, so what is wrong then is said by an object's status, and the transaction does
    not stand on them.
    """
    gone = {removal.ref for removal in intent.removals}
    after = {**existing, **{obj.ref: obj for obj in intent.objects}}
    return {ref: obj for ref, obj in after.items() if ref not in gone}


def _faults(intent: Intent, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
    """Each object is checked against itself as it was, and its neighbours as they will be."""
    neighbours = _neighbours(intent, existing)
    for obj in intent.objects:
        before = {obj.ref: existing[obj.ref]} if obj.ref in existing else {}
        # What is put back was there with its neighbours, and shall be again.
        yield from validate(obj, before if obj.ref in intent.raw else ChainMap(before, neighbours))


def _with_entry(transaction: Transaction, changes: Sequence[Change], mark: Mark, limits: Limits) -> Transaction:
    entry = history.record(mark, changes, limits.size - transaction.size)
    # A name that is taken is a conflict like any other: the next attempt has another one.
    return Transaction((*transaction.compares, Compare(entry[0].key, Revision(0))), (*transaction.ops, *entry))


def _versions(intent: Intent) -> Iterable[tuple[Ref, str]]:
    for obj in intent.objects:
        yield obj.ref, obj.metadata.resource_version
    for removal in intent.removals:
        yield removal.ref, removal.resource_version


def _namespace_faults(intent: Intent, state: State) -> Iterable[Violation]:
    made = {obj.metadata.name for obj in intent.objects if obj.kind == "Namespace"}
    unmade = {removal.ref for removal in intent.removals}
    for obj in intent.objects:
        namespace = obj.metadata.namespace
        if not namespace or namespace in made or namespace == DEFAULT_NAMESPACE:
            continue
        ref = Ref("Namespace", "", namespace)
        if ref in unmade or not state.revision(ref):
            reason = f"there is no namespace {namespace!r}; apply a Namespace of this name first, or in the same call"
            yield Violation(object=str(obj.ref), path="metadata.namespace", reason=reason)
    for namespace, contents in state.contents.items():
        if left := [str(ref) for ref in contents if ref not in unmade]:
            reason = f"it still holds {len(left)} objects, such as {left[0]}; delete them first, or in the same call"
            yield Violation(object=f"Namespace {namespace}", path="", reason=reason)


class _Draft:
    """Collects a transaction."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.compares: dict[str, Revision] = {}
        self.ops: list[Op] = []
        self.results: list[Result] = []
        self.changes: list[Change] = []
        self.standing = Revision(0)

    def put(self, obj: Object, now: float, new_uid: Callable[[], str], exact: bytes | None) -> None:
        held = self._state.current.get(obj.ref)
        before = held.object.metadata if held else None
        changed = held is None or _spec(held.object) != _spec(obj)
        meta = msgspec.structs.replace(
            obj.metadata,
            resource_version="",
            uid=before.uid if before and before.uid else new_uid(),
            generation=(before.generation if before else 0) + (1 if changed else 0),
            creation_timestamp=before.creation_timestamp if before else _stamp(now),
        )
        wanted = msgspec.structs.replace(obj, metadata=meta)
        raw = exact or codec.encode(wanted)
        if held and codec.encode(held.object) == raw:
            if for_proxies(obj.ref):
                self.standing = Revision(max(self.standing, held.revision))
            self.results.append(Result(object=str(obj.ref), action="unchanged"))
            return
        self._rely(obj.ref)
        self._rely_on_namespace(obj.ref)
        self.ops.append(Put(keys.key_for(obj.ref), raw))
        self._changed(obj.ref, "configured" if self._state.revision(obj.ref) else "created", raw)

    def delete(self, ref: Ref) -> None:
        if not self._state.revision(ref):
            self.results.append(Result(object=str(ref), action="unchanged"))
            return
        self._rely(ref)
        self.ops.append(Delete(keys.key_for(ref)))
        self._changed(ref, "deleted", None)

    def _changed(self, ref: Ref, action: Action, after: bytes | None) -> None:
        self.results.append(Result(object=str(ref), action=action))
        self.changes.append(Change(ref, action, self._state.raw.get(ref), after))

    def _rely(self, ref: Ref) -> None:
        self.compares[keys.key_for(ref)] = self._state.revision(ref)

    def _rely_on_namespace(self, ref: Ref) -> None:
        """So that a namespace cannot go while something is being made in it."""
        namespace = Ref("Namespace", "", ref.namespace)
        if ref.namespace and self._state.revision(namespace):
            self._rely(namespace)


def for_proxies(ref: Ref) -> bool:
    """Are proxies configured from objects of this kind?"""
    return KINDS[ref.kind].area == "objects"


def _spec(obj: Object) -> object:
    return getattr(obj, "spec", None)


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
