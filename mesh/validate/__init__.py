"""All violations of an object, each with its path.

    validate    a resource: what all kinds share here, the rest in the kind's own `check`
    definition  a host's own service definition

The single checks (labels, ports, principals) are in mesh.model.checks, beside the kinds that use them. All pure.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from mesh import codec
from mesh.model import KINDS, Object, Ref, ServiceDefinition, Violation
from mesh.model.checks import at, entry, label_fault, labels_faults, qualified_fault, shown

MAX_OBJECT = 256 * 1024
"""Bytes of one stored object. Agents read all objects; etcd takes no request above 1.5 MiB."""

MAX_NAMES = 253
"""Labels, and annotations, of one object."""


def validate(obj: Object, existing: Mapping[Ref, Object] | None = None) -> tuple[Violation, ...]:
    """Everything that is wrong with an object; nothing if it may be stored.

    `existing` is what is known of the mesh: some kinds check themselves against what they would replace.
    """
    return tuple(msgspec.structs.replace(v, object=_name(obj)) for v in _faults(obj, existing or {}))


def validate_all(objects: Iterable[Object], existing: Mapping[Ref, Object] | None = None) -> tuple[Violation, ...]:
    """Of a whole call: also an object that is there twice."""
    found: list[Violation] = []
    seen: set[Ref] = set()
    for obj in objects:
        found.extend(validate(obj, existing))
        if obj.ref in seen:
            found.append(Violation(object=_name(obj), path="metadata.name", reason="the object is there twice"))
        seen.add(obj.ref)
    return tuple(found)


def definition(local: ServiceDefinition) -> tuple[Violation, ...]:
    """Everything that is wrong with a host's service definition."""
    return tuple(local.check())


def _faults(obj: Object, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
    meta = obj.metadata
    yield from at("metadata.name", obj.name_fault())
    yield from _namespace(obj)
    yield from labels_faults("metadata.labels", meta.labels)
    for key in meta.annotations:
        yield from at(entry("metadata.annotations", key), qualified_fault(key))
    for field, names in (("labels", meta.labels), ("annotations", meta.annotations)):
        if len(names) > MAX_NAMES:
            yield Violation(path=f"metadata.{field}", reason=f"more than {MAX_NAMES}")
    if meta.resource_version and not (meta.resource_version.isascii() and meta.resource_version.isdigit()):
        yield Violation(path="metadata.resourceVersion", reason=f"{shown(meta.resource_version)} is not one of ours")
    yield from obj.check(existing)
    if len(codec.encode(obj)) > MAX_OBJECT:
        yield Violation(path="", reason=f"the object is larger than {MAX_OBJECT // 1024} KiB")


def _namespace(obj: Object) -> Iterator[Violation]:
    if KINDS[obj.kind].namespaced:
        yield from at("metadata.namespace", label_fault(obj.metadata.namespace))
    elif obj.metadata.namespace:
        yield Violation(path="metadata.namespace", reason=f"a {obj.kind} belongs to no namespace: leave it out")


def _name(obj: Object) -> str:
    """The object in words, short even if its name is not."""
    text = str(obj.ref)
    return text if len(text) <= 160 and text.isprintable() else shown(text)
