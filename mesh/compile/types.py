"""What compile takes and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.model import Ref, Revision


@dataclass(frozen=True, slots=True)
class Resource:
    """One encoded xDS resource."""

    name: str
    version: str
    """Content hash of body: never a counter, never a clock."""
    body: bytes = field(repr=False)
    """The serialized message, without its Any."""
    sources: frozenset[Ref] = frozenset()
    """The objects it was made from: who to blame if Envoy refuses it. Endpoints are never in here, and a resource
    made from the host's own definitions alone has none."""


Resources = Mapping[str, Resource]
"""By resource name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole, consistent configuration of one Envoy: type URL -> resources.

    A type's mapping keeps its identity (`is`) between two snapshots in which nothing of that type changed.
    """

    revision: Revision
    digest: bytes
    """Over all versions: equal digest, equal configuration."""
    resources: Mapping[str, Resources]
    problems: tuple["Problem", ...] = ()
    base: bytes = b""
    """Digest of the snapshot that `changed` compares with; empty: no comparison is offered."""
    changed: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    """Type URL -> names added, changed or removed since `base`; a type without change may be missing. It only saves
    the reader a comparison of whole mappings: leaving it out is slower, never wrong."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be compiled as asked, and what was done instead. Never fatal to its neighbours."""

    object: Ref | None
    path: str
    reason: str
