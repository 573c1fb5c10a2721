"""The frame that every resource has: apiVersion, kind, metadata, spec, status."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, NewType

import msgspec

Revision = NewType("Revision", int)
"""A revision of the store. 0 means "none seen yet"; etcd's first is 1."""


class Frozen(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of all data that crosses a process boundary: tuples, strings, numbers and str-keyed dicts inside."""


class Ref(NamedTuple):
    """Names one object of the mesh. Cluster-scoped kinds have namespace ''."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class ServiceRef(NamedTuple):
    """Names a Service, wherever only a Service can stand. Of another cluster's, the name is `<service>.<peer>`."""

    namespace: str
    name: str

    @property
    def peer(self) -> str:
        """The peer whose Service it is; empty: it is of this cluster."""
        return self.name.partition(".")[2]

    @property
    def short(self) -> str:
        """Its name in its own cluster."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.short}.{self.namespace}.{self.peer}" if self.peer else f"{self.name}.{self.namespace}"


class Metadata(Frozen, frozen=True, kw_only=True):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    resource_version: str = ""
    """Decimal mod-revision of the store; set by readers, never stored in the value."""
    generation: int = 0
    creation_timestamp: str = ""
    """RFC 3339, UTC; set by the API at creation."""


class Violation(Frozen, frozen=True, kw_only=True):
    """One fault of an input: where, and what is wrong with it, in words that tell what to do."""

    path: str
    """From the object's root, such as spec.ports[0].port."""
    reason: str
    object: str = ""
    """str(Ref) of the object, where several were sent."""


class Object(Frozen, frozen=True, kw_only=True, omit_defaults=False):
    """Common to all kinds. Each kind fixes api_version and kind, and types its spec."""

    api_version: str
    kind: str
    metadata: Metadata

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.metadata.namespace, self.metadata.name)

    def name_fault(self) -> str:
        """What is wrong with the name, or "". A DNS label, unless the kind says otherwise."""
        from mesh.model.checks import label_fault  # it needs Violation of this file

        return label_fault(self.metadata.name)

    def looks_at(self) -> Iterator[Ref]:
        """Other objects that `check` wants to see, wherever they may be among the mesh's. Of a sound object only."""
        yield from ()

    def check(self, existing: Mapping[Ref, "Object"]) -> Iterator[Violation]:
        """All faults of the spec that types cannot express. `existing`: the objects of the mesh, as far as known.

        Each kind writes its own beside its fields. What all kinds share (names, labels, sizes) is in mesh.validate.
        """
        del existing
        yield from ()
