"""Limits of requests that policies set, counted by the proxy in front of the instance.

Every HTTP chain has a place for each limit that a policy may have, off until the route says what it is: a listener
never changes for that, and whoever is refused is told by which limit. A request goes through them in a row and takes a
token from each that lets it through. So the narrow ones come first: a caller over its own limit takes nothing from
what all have together.

Buckets are of one Envoy, so during a hot restart there are two; and they are full again after a change of the route,
by a policy for access for example.
"""

import math

from mesh import pb
from mesh.compile import matching, names, ratelimit
from mesh.compile.http import set_header
from mesh.compile.view import Limit
from mesh.model.duration import seconds
from mesh.model.policyspec import MAX_LIMITS, RateLimit

_MATCH, _MATCHED = "match", "true"
_ALL_32_BITS = 2**32 - 1

MOST_CALLERS = 10_000
"""Identities with a bucket of their own; see ratelimit."""


def filters() -> tuple[pb.HttpFilter, ...]:
    """The places."""
    nothing = pb.any_of(pb.LocalRateLimit(stat_prefix="limits"))
    return tuple(pb.HttpFilter(name=_place(i), disabled=True, typed_config=nothing) for i in range(MAX_LIMITS))


def configs(limits: tuple[Limit, ...]) -> dict[str, pb.AnyMessage]:
    """What the route says of these places."""
    ordered = sorted(limits, key=lambda found: (found.limit.by == "Instance", not matching.request(found.limit.match)))
    return {_place(index): pb.any_of(_filter(found)) for index, found in enumerate(ordered)}


def _place(index: int) -> str:
    return f"holdfast.limit.{index}"


def _filter(found: Limit) -> pb.LocalRateLimit:
    limit = found.limit
    bucket = _tokens(limit)
    config = pb.LocalRateLimit(
        stat_prefix=f"limits.{found.id}",
        token_bucket=bucket,
        always_consume_default_token_bucket={"value": False},
        filter_enabled=ratelimit.ALWAYS,
        filter_enforced=ratelimit.ALWAYS,
        rate_limited_as_resource_exhausted=True,
        response_headers_to_add=[set_header(name, value) for name, value in _said(found).items()],
    )
    actions, entries = _descriptor(limit)
    if actions:
        config.descriptors.append(pb.LocalRateLimitDescriptor(entries=entries, token_bucket=bucket))
        config.rate_limits.append(pb.RateLimit(actions=actions))
        config.max_dynamic_descriptors.value = MOST_CALLERS
        # For requests that it does not concern, without bound. Fills go in step, as Envoy wants it.
        config.token_bucket.max_tokens = config.token_bucket.tokens_per_fill.value = _ALL_32_BITS
    return config


def _descriptor(limit: RateLimit) -> tuple[list[pb.RateLimit.Action], list[pb.RateLimitDescriptor.Entry]]:
    """What of a request is looked at; nothing, if all count together."""
    actions: list[pb.RateLimit.Action] = []
    entries: list[pb.RateLimitDescriptor.Entry] = []
    if limit.by == "Caller":
        actions.append(ratelimit.by_caller())
        entries.append(ratelimit.EACH_CALLER)
    if matchers := matching.request(limit.match):
        value = pb.RateLimit.Action.HeaderValueMatch(descriptor_key=_MATCH, descriptor_value=_MATCHED, headers=matchers)
        actions.append(pb.RateLimit.Action(header_value_match=value))
        entries.append(pb.RateLimitDescriptor.Entry(key=_MATCH, value=_MATCHED))
    return actions, entries


def _tokens(limit: RateLimit) -> pb.TokenBucket:
    return pb.TokenBucket(
        max_tokens=limit.burst or limit.requests,
        tokens_per_fill=pb.uint32(limit.requests),
        fill_interval=pb.duration(seconds(limit.window)),
    )


def _said(found: Limit) -> dict[str, str]:
    """To whoever is refused: by what, and when there is room for one more (draft-ietf-httpapi-ratelimit-headers-03).

    Envoy's own headers would be there once for each limit that let the request through.
    """
    limit = found.limit
    again = str(math.ceil(seconds(limit.window) / limit.requests))
    return {
        names.LIMITED_BY: found.id,
        "retry-after": again,
        "x-ratelimit-limit": str(limit.requests),
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": again,
    }
