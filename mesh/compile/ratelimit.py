"""Local rate limits with a bucket for each caller, told apart by the name in its verified certificate.

A caller has one bucket however many connections it opens, and cannot name itself: the descriptor is read from the TLS
connection, so no header is involved. Envoy makes a bucket when it first sees a caller, and keeps `most` of them: who
comes beyond that takes the place of the one that was silent longest, whose bucket is full again when it returns. So
`most` is meant to be more than there can be callers, and only those should reach the filter who may call at all.

Buckets are of one Envoy; during a hot restart there are two.
"""

from dataclasses import dataclass

from mesh import pb

FILTER = "envoy.filters.http.local_ratelimit"

_CALLER = "caller"
_PATH = "path"
_IDENTITY = "connection.uri_san_peer_certificate"
_ANY = ""  # in a descriptor's entry: a bucket for each value

EACH_CALLER = pb.RateLimitDescriptor.Entry(key=_CALLER, value=_ANY)
ALWAYS = pb.RuntimeFractionalPercent(
    default_value=pb.FractionalPercent(numerator=100, denominator=pb.FractionalPercent.HUNDRED)
)


@dataclass(frozen=True, slots=True)
class Bucket:
    burst: int
    per_second: int
    path: str = ""
    """Only requests for exactly this path; empty: all."""


def per_caller(stat_prefix: str, *buckets: Bucket, most: int) -> pb.LocalRateLimit:
    """Each caller has these buckets; a request is let through if all that it concerns have a token left.

    The refusal is 429, for gRPC RESOURCE_EXHAUSTED. Who has no certificate is not limited: nobody gets so far.
    """
    return pb.LocalRateLimit(
        stat_prefix=stat_prefix,
        # Envoy insists on a bucket for what no descriptor fits.
        token_bucket=_tokens(buckets[0]),
        always_consume_default_token_bucket={"value": False},
        descriptors=[_descriptor(bucket) for bucket in buckets],
        rate_limits=[_limit(bucket) for bucket in buckets],
        max_dynamic_descriptors=pb.uint32(most),
        filter_enabled=ALWAYS,
        filter_enforced=ALWAYS,
        rate_limited_as_resource_exhausted=True,
    )


def _tokens(bucket: Bucket) -> pb.TokenBucket:
    return pb.TokenBucket(
        max_tokens=bucket.burst, tokens_per_fill=pb.uint32(bucket.per_second), fill_interval=pb.duration(1)
    )


def _descriptor(bucket: Bucket) -> pb.LocalRateLimitDescriptor:
    entries = [EACH_CALLER]
    if bucket.path:
        entries.append(pb.RateLimitDescriptor.Entry(key=_PATH, value=bucket.path))
    return pb.LocalRateLimitDescriptor(entries=entries, token_bucket=_tokens(bucket))


def _limit(bucket: Bucket) -> pb.RateLimit:
    """What of a request is compared with the descriptor. Without an action's value there is no descriptor, no limit."""
    actions = [by_caller()]
    if bucket.path:
        header = pb.RateLimit.Action.RequestHeaders(header_name=":path", descriptor_key=_PATH)
        actions.append(pb.RateLimit.Action(request_headers=header))
    return pb.RateLimit(actions=actions)


def by_caller() -> pb.RateLimit.Action:
    """The caller's name, from its certificate."""
    expression = pb.DescriptorExpression(descriptor_key=_CALLER, text=_IDENTITY)
    name = "envoy.rate_limit_descriptors.expr"
    return pb.RateLimit.Action(extension=pb.TypedExtensionConfig(name=name, typed_config=pb.any_of(expression)))
