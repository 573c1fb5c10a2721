"""check: is a snapshot whole? Every name that one resource refers to must be another's, and hold what is expected.

The Checker remembers what it has read, so a check costs what changed since the snapshot before. Nothing it remembers
changes an outcome: a fresh Checker, which is what `check` is, finds the same.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from mesh import pb
from mesh.compile.types import Resource, Resources, Snapshot

_FAR = 24
"""Nesting of messages; ours have some ten levels."""

_NOTHING: Resources = MappingProxyType({})

T = TypeVar("T")
Name = tuple[str, str]
"""Type URL and name of a resource."""


def check(snapshot: Snapshot) -> tuple[str, ...]:
    """What is wrong with it, in words for a bug report; nothing if all is well."""
    return Checker().check(snapshot)


@dataclass(frozen=True, slots=True)
class _Read:
    """What one resource says, as far as it matters to others."""

    resource: Resource
    refers: frozenset[Name] = frozenset()
    fault: str = ""
    place: bytes = b""
    """Where it listens, if it does."""


class Checker:
    """Checks one snapshot after another. Not for two callers at once."""

    def __init__(self) -> None:
        self._digest: bytes | None = None
        """Of the snapshot that all of this is about; None: it cannot be relied on."""
        self._forget()

    def _forget(self) -> None:
        self._seen: dict[str, Resources] = {}
        self._read: dict[Name, _Read] = {}
        self._refers: Counter[Name] = Counter()
        """How many resources refer to a name."""
        self._dangling: set[Name] = set()
        self._unasked: set[Name] = set()
        self._faulty: set[Name] = set()
        self._places: dict[bytes, set[str]] = {}
        self._crowded: set[bytes] = set()

    def check(self, snapshot: Snapshot) -> tuple[str, ...]:
        """What is wrong with it, in words for a bug report; nothing if all is well."""
        known, self._digest = self._digest, None
        if known is None:
            self._forget()
        for url in pb.SHORT:
            after = snapshot.resources.get(url, _NOTHING)
            before = self._seen.get(url, _NOTHING)
            if after is not before:
                told = snapshot.changed.get(url, frozenset()) if snapshot.base and snapshot.base == known else None
                self._update(url, after, _compare(before, after) if told is None else told)
                self._seen[url] = after
        self._digest = snapshot.digest
        return tuple(self._faults(snapshot))

    def _update(self, url: str, after: Resources, changed: Iterable[str]) -> None:
        for name in changed:
            resource, old = after.get(name), self._read.get((url, name))
            if old is not None and old.resource is resource:
                continue
            new = _read(url, name, resource) if resource is not None else None
            self._replace((url, name), old, new)

    def _replace(self, name: Name, old: _Read | None, new: _Read | None) -> None:
        if new is None:
            self._read.pop(name, None)
        else:
            self._read[name] = new
        _keep(self._faulty, name, among=bool(new and new.fault))
        self._refers.update(new.refers if new else ())
        self._refers.subtract(old.refers if old else ())
        for other in {name, *(new.refers if new else ()), *(old.refers if old else ())}:
            self._judge(other)
        if old and old.place:
            self._stand(old.place, name[1], stands=False)
        if new and new.place:
            self._stand(new.place, name[1], stands=True)

    def _judge(self, name: Name) -> None:
        """Is it there, and does anybody ask for it?"""
        wanted, there = self._refers[name] > 0, name in self._read
        if not wanted:
            del self._refers[name]
        _keep(self._dangling, name, among=wanted and not there)
        # A load assignment or route that nothing asks for would never be acknowledged.
        _keep(self._unasked, name, among=there and not wanted and name[0] in {pb.ENDPOINT, pb.ROUTE})

    def _stand(self, place: bytes, name: str, *, stands: bool) -> None:
        names = self._places.setdefault(place, set())
        _keep(names, name, among=stands)
        if not names:
            del self._places[place]
        if len(names) > 1:
            self._crowded.add(place)
        else:
            self._crowded.discard(place)

    def _faults(self, snapshot: Snapshot) -> Iterator[str]:
        for url in sorted(snapshot.resources.keys() - pb.SHORT.keys()):
            yield f"unknown type {url}"
        for name in sorted(self._faulty):
            yield f"{_shown(name)}{self._read[name].fault}"
        for name in sorted(self._dangling):
            yield f"{_shown(name)} is referred to, and is not there"
        for name in sorted(self._unasked):
            yield f"{_shown(name)} is there, and nothing refers to it"
        # Envoy would refuse the second one at a place.
        for first, *others in sorted(sorted(self._places[place]) for place in self._crowded):
            for other in others:
                yield f"lds {other} listens where {first} does"


def _keep(those: set[T], one: T, *, among: bool) -> None:
    if among:
        those.add(one)
    else:
        those.discard(one)


def _compare(before: Resources, after: Resources) -> set[str]:
    changed = {name for name, resource in after.items() if before.get(name) is not resource}
    changed.update(name for name in before if name not in after)
    return changed


def _shown(name: Name) -> str:
    return f"{pb.SHORT[name[0]]} {name[1]}"


def _read(url: str, name: str, resource: Resource) -> _Read:
    try:
        message = pb.decode(url, resource.body)
    except pb.DecodeError as exc:
        return _Read(resource, fault=f": {exc}")
    own = message.cluster_name if url == pb.ENDPOINT else message.name  # type: ignore[attr-defined]
    refers: set[Name] = set()
    _collect(message, refers, 0)
    return _Read(
        resource,
        refers=frozenset(refers),
        fault="" if own == name == resource.name else f": is called {own} inside",
        place=pb.encode(message.address) if url == pb.LISTENER else b"",  # type: ignore[attr-defined]
    )


def _collect(message: pb.Message, refers: set[Name], depth: int) -> None:
    """Names that a message refers to, at any depth and inside of Anys."""
    if depth > _FAR:
        return
    kind = message.DESCRIPTOR.full_name
    if kind == "google.protobuf.Any":
        found = _KNOWN.get(message.type_url)  # type: ignore[attr-defined]
        if found is not None:
            _collect(found.FromString(message.value), refers, depth + 1)  # type: ignore[attr-defined]
        return
    _note(message, refers)
    leading = _leading(message.DESCRIPTOR)
    for field, value in message.ListFields():
        if field.name not in leading or field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = [v for v in value.values() if isinstance(v, pb.Message)]
        else:
            inner = value if field.is_repeated else [value]
        for part in inner:
            _collect(part, refers, depth + 1)


@cache
def _leading(descriptor: pb.Descriptor) -> frozenset[str]:
    """Fields of a message type that may lead to a reference: most of a configuration never does, and is not read."""
    if descriptor.full_name == _LOAD_ASSIGNMENT:
        return frozenset()  # it refers to nothing, and it is what changes often
    fields = (field for field in descriptor.fields if field.message_type is not None)
    return frozenset(field.name for field in fields if _leads(field.message_type))


@cache
def _leads(descriptor: pb.Descriptor) -> bool:
    """May a message of this type, or one inside of it, refer to something?"""
    seen, rest = {descriptor.full_name}, [descriptor]
    while rest:
        one = rest.pop()
        if one.full_name in _REFERRING:
            return True
        for field in one.fields:
            inner = field.message_type
            if inner is not None and inner.full_name not in seen:
                seen.add(inner.full_name)
                rest.append(inner)
    return False


def _note(message: pb.Message, refers: set[Name]) -> None:
    """The name that this message itself refers to."""
    match message:
        case pb.Cluster(type=pb.Cluster.EDS):
            refers.add((pb.ENDPOINT, message.eds_cluster_config.service_name or message.name))
        case pb.Rds():
            refers.add((pb.ROUTE, message.route_config_name))
        case pb.SdsSecretConfig():
            refers.add((pb.SECRET, message.name))
        case pb.TcpProxy() | pb.RouteAction():
            if message.cluster:
                refers.add((pb.CLUSTER, message.cluster))
        case pb.WeightedCluster.ClusterWeight() | pb.TcpProxy.WeightedCluster.ClusterWeight():
            refers.add((pb.CLUSTER, message.name))
        case pb.RouteAction.RequestMirrorPolicy():
            refers.add((pb.CLUSTER, message.cluster))
        case _:
            pass


_LOAD_ASSIGNMENT = pb.MESSAGE[pb.ENDPOINT].DESCRIPTOR.full_name
_REFERRING = frozenset(
    kind.DESCRIPTOR.full_name
    for kind in (
        pb.AnyMessage, pb.Cluster, pb.Rds, pb.SdsSecretConfig, pb.TcpProxy, pb.RouteAction,
        pb.WeightedCluster.ClusterWeight, pb.TcpProxy.WeightedCluster.ClusterWeight, pb.RouteAction.RequestMirrorPolicy,
    )
)  # fmt: skip
"""Types of message that `_note` reads, and those that may hold one."""
_KNOWN = {
    pb.TYPE_PREFIX + kind.DESCRIPTOR.full_name: kind
    for kind in (pb.HttpConnectionManager, pb.TcpProxy, pb.DownstreamTlsContext, pb.UpstreamTlsContext)
}
