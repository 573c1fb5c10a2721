"""Delta xDS messages as values, and their bytes."""

from collections.abc import Mapping
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
    """The bytes of the response. Bodies are copied, never parsed: 3 us for one resource, 1.4 ms for a thousand.

    (Splicing the bytes by hand was measured: slower up to some kB a body, faster beyond.)
    """
    message = pb.DeltaDiscoveryResponse(type_url=send.type_url, nonce=send.nonce, removed_resources=send.removed)
    for resource in send.resources:
        wrapped = message.resources.add(name=resource.name, version=resource.version)
        wrapped.resource.type_url = send.type_url
        wrapped.resource.value = resource.body
    encoded: bytes = message.SerializeToString()
    return encoded
