"""What is stored and sent: JSON, lenient to read.

A reader ignores fields it does not know, so that versions N-1 and N+1 live together. A value that cannot be read at
all is a value too, with a reason: it never stops its neighbours.
"""

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from mesh import keys
from mesh.codec.strict import convert_strict
from mesh.model import KINDS, Endpoint, Object, Ref, Revision
from mesh.model import world as w
from mesh.model.checks import shown

T = TypeVar("T")

_json = msgspec.json.Encoder(order="deterministic")
_decoders = {name: msgspec.json.Decoder(kind.struct) for name, kind in KINDS.items()}


class Undecodable(ValueError):  # noqa: N818 - a state of data, named as World names it
    """Bytes that no reader understands; the text says why."""


class StoredEvent(Protocol):
    """What is needed of a store's Event: this module knows no store."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def revision(self) -> Revision: ...


def encode(obj: Object) -> bytes:
    """The value to store: equal objects give equal bytes. The resource version is left out, being the store's."""
    return _json.encode(_with_version(obj, ""))


def decode(kind: str, raw: bytes, revision: int = 0) -> Object:
    """The object in a stored value.

    Raises:
        Undecodable: it is not one of this kind.

    """
    decoder = _decoders.get(kind)
    if decoder is None:
        raise Undecodable(f"this version knows no kind {shown(kind)}")
    found = _with_version(_read(decoder, raw), str(revision) if revision else "")
    if KINDS[kind].strict_readers:
        _check_spec(KINDS[kind].struct, raw)
    return found


def _check_spec(struct: type[Object], raw: bytes) -> None:
    """Refuse what a newer writer put into the spec. Metadata and status stay lenient."""
    spec = next(field.type for field in msgspec.structs.fields(struct) if field.name == "spec")
    outcome = convert_strict(spec, msgspec.json.decode(raw).get("spec", {}), "spec")
    if isinstance(outcome, tuple):
        raise Undecodable(f"{outcome[0].path}: {outcome[0].reason}")


def encode_struct(value: msgspec.Struct | str) -> bytes:
    """Anything that is not a resource: messages, records."""
    return _json.encode(value)


def decode_struct(struct: type[T], raw: bytes | str) -> T:
    """The Struct in these bytes.

    Raises:
        Undecodable: they hold none.

    """
    return _read(msgspec.json.Decoder(struct), raw)


def to_document(obj: Object, revision: int = 0) -> dict[str, Any]:
    """A plain tree for people and programs, with the resource version."""
    if revision:
        obj = _with_version(obj, str(revision))
    document: dict[str, Any] = msgspec.to_builtins(obj)
    return document


def changes(events: Iterable[StoredEvent]) -> tuple[w.Change, ...]:
    """What these events of the store mean for a World. Bad data becomes a change that says so; nothing is raised."""
    return tuple(change for event in events if (change := _change(event)) is not None)


def epoch(raw: bytes) -> str:
    """A JSON string; any other text serves as well, since epochs are only compared."""
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.MsgspecError:
        return raw.decode("utf-8", "replace")


def _change(event: StoredEvent) -> w.Change | None:
    if event.key == keys.EPOCH:
        return w.EpochChanged(epoch(event.value)) if event.value else None
    match keys.parse(event.key):
        case keys.EndpointKey(service, instance) as place:
            if event.value is None:
                return w.EndpointRemoved(service, instance, key=event.key)
            return _upserted("Endpoint", place, event, event.value)
        case Ref() as ref:
            if event.value is None:
                return w.Removed(ref, key=event.key)
            return _upserted(ref.kind, ref, event, event.value)
    return None


def _upserted(kind: str, place: Ref | keys.EndpointKey, event: StoredEvent, value: bytes) -> w.Change:
    try:
        obj = decode(kind, value, event.revision)
    except Undecodable as exc:
        return w.Undecodable(event.key, str(exc))
    if _place(obj) != place:
        # Believed, it would stand in for another object, which its own key then could neither change nor delete.
        return w.Undecodable(event.key, f"the value names {shown(str(obj.ref))}, which is not what its key names")
    return w.Upserted(obj, event.revision, key=event.key)


def _place(obj: Object) -> Ref | keys.EndpointKey:
    if isinstance(obj, Endpoint):
        return keys.EndpointKey(obj.service, obj.metadata.name)
    return obj.ref


def _with_version(obj: Object, version: str) -> Object:
    if obj.metadata.resource_version == version:
        return obj
    meta = msgspec.structs.replace(obj.metadata, resource_version=version)
    return msgspec.structs.replace(obj, metadata=meta)


def _read(decoder: "msgspec.json.Decoder[T]", raw: bytes | str) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise Undecodable(str(exc)[:400]) from exc
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as exc:
        raise Undecodable(f"not JSON: {str(exc)[:200]}") from exc
