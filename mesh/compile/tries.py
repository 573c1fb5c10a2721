"""How long a request may take and what is tried again: the mesh's own, and what a policy says instead.

Whatever may have been seen by an application is repeated only if that does no harm: methods that are safe to repeat,
or a gRPC status that was named, since gRPC has no such methods and a status is an answer that was meant.
"""

from mesh import pb
from mesh.compile import http
from mesh.compile.view import Handling
from mesh.model import Protocol
from mesh.model.duration import seconds
from mesh.model.policyspec import Retries

UNSEEN = ("connect-failure", "refused-stream", "reset-before-request", "retriable-headers")
"""Each of them means: no application has seen the request."""

IDEMPOTENT = (*UNSEEN, "reset")
"""Also when a host dies between the request and its answer: whether it was seen does not matter for these."""

_GRPC = frozenset({"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"})
"""Envoy reads these from a gRPC status, which nothing else has in its answers."""

_RETRIES = 2
"""Each at a host that was not tried yet: two may be dead at once before anybody says so."""


def tries(handling: Handling, protocol: Protocol | None, *, spans: bool = False) -> http.Tries:
    """`spans`: what is called is in several clusters."""
    retries = handling.retries or Retries(attempts=_RETRIES)
    grpc = tuple(sorted(_GRPC.intersection(retries.retry_on)))
    if protocol == "grpc" and "unavailable" in grpc:
        # To a gRPC caller, a connection that broke before the answer is this very status; only nobody sent it.
        grpc += ("reset",)
    idempotent = tuple(dict.fromkeys((*IDEMPOTENT, *sorted(retries.retry_on))))
    return http.Tries(
        idempotent=_policy(retries, idempotent, retries.statuses, spans=spans),
        other=_policy(retries, (*UNSEEN, *grpc), (), spans=spans),
        seconds=seconds(handling.timeout),
    )


def _policy(retries: Retries, conditions: tuple[str, ...], statuses: tuple[int, ...], *, spans: bool) -> pb.RetryPolicy:
    found = http.retry_elsewhere(conditions, retries=retries.attempts, spans=spans)
    if statuses:
        retry_statuses(found, statuses)
    if retries.per_try:
        found.per_try_timeout.CopyFrom(pb.duration(seconds(retries.per_try)))
    if retries.backoff:
        back_off(found, retries.backoff)
    return found


def retry_statuses(policy: pb.RetryPolicy, statuses: tuple[int, ...]) -> None:
    """On these and no others."""
    if not policy.retriable_status_codes:
        policy.retry_on += ",retriable-status-codes"
    del policy.retriable_status_codes[:]
    policy.retriable_status_codes.extend(sorted(set(statuses)))


def back_off(policy: pb.RetryPolicy, base: str) -> None:
    """A pause between tries: it doubles, up to ten times itself."""
    policy.retry_back_off.base_interval.CopyFrom(pb.duration(seconds(base)))
    policy.retry_back_off.max_interval.CopyFrom(pb.duration(10 * seconds(base)))
