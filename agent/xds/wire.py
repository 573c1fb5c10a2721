"""Delta xDS messages as values, and their bytes.

Resource bodies arrive encoded, so a response is spliced from them: cost is a copy, not a protobuf tree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mesh import pb
from mesh.compile.types import Resource


class BadRequestError(ValueError):
    """Bytes that are no DeltaDiscoveryRequest."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client says of one type: subscriptions, and maybe an answer to the response with this nonce."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None
    """The client's words, if it refused that response."""
    node: str = ""
    """Id of the client's node; on the first request of a stream only."""


@dataclass(frozen=True, slots=True)
class Send:
    """One DeltaDiscoveryResponse."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


def decode(raw: bytes) -> Request:
    """Read a request.

    Raises:
        BadRequestError: it cannot be parsed.

    """
    try:
        message = pb.DeltaDiscoveryRequest.FromString(raw)
    except pb.DecodeError as exc:
        raise BadRequestError(str(exc)) from exc
    return Request(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message or "refused" if message.HasField("error_detail") else None,
        node=message.node.id,
    )


def encode(send: Send) -> bytes:
    """The bytes of DeltaDiscoveryResponse (envoy/service/discovery/v3/discovery.proto: numbers of its fields below)."""
    kind = _text(0x0A, send.type_url)
    return b"".join(_response(send, kind))


def _response(send: Send, any_type: bytes) -> Iterator[bytes]:
    for resource in send.resources:
        # Resource: version = 1, resource (an Any: type_url = 1, value = 2) = 2, name = 3.
        value = b"\x12" + _varint(len(resource.body))
        any_length = len(any_type) + len(value) + len(resource.body)
        head = _text(0x0A, resource.version) + b"\x12" + _varint(any_length) + any_type + value
        name = _text(0x1A, resource.name)
        yield b"\x12" + _varint(len(head) + len(resource.body) + len(name))  # resources = 2
        yield head
        yield resource.body
        yield name
    yield _text(0x22, send.type_url)  # type_url = 4
    yield _text(0x2A, send.nonce)  # nonce = 5
    for name_gone in send.removed:
        yield _text(0x32, name_gone)  # removed_resources = 6


def _text(tag: int, text: str) -> bytes:
    raw = text.encode()
    return bytes((tag,)) + _varint(len(raw)) + raw


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
