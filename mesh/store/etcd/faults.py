"""gRPC's errors -> the store's. Two tables: by etcd's words, then by status code."""

from typing import Literal, NamedTuple

from grpc import StatusCode
from grpc.aio import AioRpcError

from mesh.store.errors import Compacted, Refused, StoreError, Unavailable

Next = Literal["stop", "elsewhere", "maybe"]
"""What may follow. stop: the same request will fail again. elsewhere: it was not carried out, ask another member.
maybe: it may have been carried out, so only a request that may run twice may be sent again."""


class Fault(NamedTuple):
    error: type[StoreError]
    next: Next


# etcd's texts: api/v3/v3rpc/rpctypes/error.go. Only those whose code alone would mislead.
_BY_WORDS: tuple[tuple[str, Fault], ...] = (
    ("etcdserver: no leader", Fault(Unavailable, "elsewhere")),
    ("etcdserver: not leader", Fault(Unavailable, "elsewhere")),
    ("etcdserver: too many requests", Fault(Unavailable, "elsewhere")),
    ("etcdserver: rpc not supported for learner", Fault(Unavailable, "elsewhere")),
    # The users changed while the request was under way; it is refused before it is carried out.
    ("revision of auth store is old", Fault(Unavailable, "elsewhere")),
    # Full, until an operator makes room: not the request's fault.
    ("database space exceeded", Fault(Unavailable, "stop")),
    # A learner or a member that has fallen behind a restore: the revision does not exist there.
    ("required revision is a future revision", Fault(Compacted, "stop")),
    ("failed to connect to all addresses", Fault(Unavailable, "elsewhere")),
)

_BY_CODE: dict[StatusCode, Fault] = {
    StatusCode.UNAVAILABLE: Fault(Unavailable, "maybe"),
    StatusCode.DEADLINE_EXCEEDED: Fault(Unavailable, "maybe"),
    StatusCode.CANCELLED: Fault(Unavailable, "maybe"),
    StatusCode.ABORTED: Fault(Unavailable, "maybe"),
    StatusCode.UNKNOWN: Fault(Unavailable, "maybe"),
    StatusCode.INTERNAL: Fault(Unavailable, "maybe"),
    StatusCode.DATA_LOSS: Fault(Unavailable, "maybe"),
    StatusCode.OUT_OF_RANGE: Fault(Compacted, "stop"),
    StatusCode.RESOURCE_EXHAUSTED: Fault(Refused, "stop"),
    StatusCode.INVALID_ARGUMENT: Fault(Refused, "stop"),
    StatusCode.PERMISSION_DENIED: Fault(Refused, "stop"),
    StatusCode.UNAUTHENTICATED: Fault(Refused, "stop"),
    StatusCode.FAILED_PRECONDITION: Fault(Refused, "stop"),
    StatusCode.NOT_FOUND: Fault(Refused, "stop"),
    StatusCode.ALREADY_EXISTS: Fault(Refused, "stop"),
    StatusCode.UNIMPLEMENTED: Fault(Refused, "stop"),
}


def classify(error: AioRpcError) -> Fault:
    """What an error means, and what may follow."""
    words = details(error)
    for known, fault in _BY_WORDS:
        if known in words:
            return fault
    return _BY_CODE.get(error.code(), Fault(Unavailable, "maybe"))


def details(error: AioRpcError) -> str:
    """The server's or the library's words."""
    return error.details() or error.code().name


def too_large_for_us(error: AioRpcError) -> bool:
    """Did our own limit of what we receive stop the answer?"""
    return error.code() is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details(error)


def cancelled_watch(reason: str) -> StoreError:
    """A watch that etcd itself ended, other than by compaction."""
    return Refused(reason) if "permission denied" in reason else Unavailable(reason or "the watch was ended by etcd")
