"""Local rate limits: from which buckets a request takes a token. Whether one is left is not counted here."""

from collections.abc import Iterator
from typing import Any

from mesh import pb
from mesh.compile.simulate.fields import known, unpack
from mesh.compile.simulate.matching import header_holds
from mesh.compile.simulate.request import Request
from mesh.compile.simulate.verdict import Unsupported

_ACTION = "envoy.config.route.v3.RateLimit.Action"
_CALLER = "connection.uri_san_peer_certificate"
_WITHOUT_BOUND = 2**32 - 1

Entries = tuple[tuple[str, str], ...]
"""Keys and values that describe a request; a bucket is for some of them."""


def buckets(config: Any, request: Request) -> Iterator[str]:
    """In words, of a LocalRateLimit. Without all of these fields, Envoy limits nothing."""
    shares = [config.filter_enabled, config.filter_enforced]
    for share in shares:
        known(share)
    if not config.HasField("token_bucket") or not all(share.default_value.numerator for share in shares):
        return
    described = [entries for limit in config.rate_limits if (entries := _described(limit, request)) is not None]
    found = {said for entries in described if (said := _own(config.descriptors, entries))}
    yield from sorted(found)
    always = config.always_consume_default_token_bucket
    default = not found or always.value or not config.HasField("always_consume_default_token_bucket")
    if default and config.token_bucket.max_tokens < _WITHOUT_BOUND:
        yield _bucket(config.token_bucket)


def _own(descriptors: Any, entries: Entries) -> str:
    """The bucket for what is described so: for exactly this, else one for each; empty: there is none."""
    fitting = sorted((one for one in descriptors if _fits(one, entries)), key=_open)
    if not fitting:
        return ""
    each = ", ".join(f"{e.key} {e.value}" if e.value else f"each {e.key}" for e in fitting[0].entries)
    return f"{_bucket(fitting[0].token_bucket)}, for {each}"


def _open(descriptor: Any) -> int:
    return sum(not entry.value for entry in descriptor.entries)


def _bucket(bucket: Any) -> str:
    known(bucket)
    seconds = bucket.fill_interval.ToTimedelta().total_seconds()
    return f"{bucket.tokens_per_fill.value or 1} each {seconds:g} s, {bucket.max_tokens} at once"


def _fits(descriptor: Any, entries: Entries) -> bool:
    """An entry without a value is for any, with a bucket for each."""
    known(descriptor)
    return len(descriptor.entries) == len(entries) and all(
        wanted.key == key and wanted.value in {"", value}
        for wanted, (key, value) in zip(descriptor.entries, entries, strict=True)
    )


def _described(limit: Any, request: Request) -> Entries | None:
    """None: one of its actions finds nothing, so there is no description."""
    known(limit)
    entries = [_entry(action, request) for action in limit.actions]
    return tuple(entry for entry in entries if entry) if None not in entries else None


def _entry(action: Any, request: Request) -> tuple[str, str] | tuple[()] | None:
    """None: nothing was found; empty: that does not matter."""
    known(action)
    kind = action.WhichOneof("action_specifier")
    said = getattr(action, kind)
    match kind:
        case "generic_key":
            known(said)
            return (said.descriptor_key or kind, said.descriptor_value)
        case "request_headers":
            known(said)
            value = request.header(said.header_name)
            return (said.descriptor_key, value) if value is not None else () if said.skip_if_absent else None
        case "header_value_match":
            known(said)
            expected = said.expect_match.value if said.HasField("expect_match") else True
            holds = all(header_holds(header, request) for header in said.headers) == expected
            return (said.descriptor_key or "header_match", said.descriptor_value) if holds else None
        case _:
            expression = unpack(said.typed_config, pb.DescriptorExpression, where=f"{_ACTION}.extension")
            if expression.text != _CALLER:
                raise Unsupported(f"{_ACTION}.extension", expression.text)
            return (expression.descriptor_key, request.caller) if request.caller else None
