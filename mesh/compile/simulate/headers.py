"""Lists of headers, and what a configuration does to them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mesh.compile.simulate.fields import known
from mesh.compile.simulate.formats import Metadata, formatted
from mesh.compile.simulate.text import lower, words
from mesh.compile.simulate.verdict import Action, Change, Edits, Headers

REQUEST_SINGLE = words(
    """accept accept-encoding access-control-request-headers access-control-request-method
    access-control-request-private-network authentication authorization cache-control content-encoding content-length
    content-type grpc-accept-encoding grpc-timeout if-match if-modified-since if-none-match if-range
    if-unmodified-since origin pragma referer user-agent via x-client-trace-id x-envoy-attempt-count
    x-envoy-decorator-operation x-envoy-downstream-service-cluster x-envoy-downstream-service-node
    x-envoy-external-address x-envoy-is-timeout-retry x-envoy-original-host x-envoy-original-path x-forwarded-for
    x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id"""
)
"""Envoy keeps one value of these: more are joined by a comma."""

ANSWER_SINGLE = words(
    """access-control-allow-origin access-control-allow-headers access-control-allow-methods
    access-control-allow-credentials access-control-expose-headers access-control-max-age
    access-control-allow-private-network age cache-control content-encoding content-length content-type date etag
    expires grpc-message grpc-status last-modified location proxy-status server vary via x-envoy-attempt-count
    x-envoy-decorator-operation x-envoy-degraded x-envoy-immediate-health-check-fail x-envoy-ratelimited
    x-envoy-upstream-canary x-envoy-upstream-healthchecked-cluster x-envoy-upstream-service-time
    x-request-id"""
)
"""The same, of answers."""

_ACTIONS: tuple[Action, ...] = ("append", "add-if-absent", "overwrite", "overwrite-if-exists")
"""By HeaderValueOption.append_action."""


def joined(pairs: Iterable[tuple[str, str]], single: frozenset[str]) -> Headers:
    """As Envoy keeps them."""
    found: list[tuple[str, str]] = []
    for name, value in pairs:
        _add(found, name, value, single)
    return tuple(found)


def _add(headers: list[tuple[str, str]], name: str, value: str, single: frozenset[str]) -> None:
    if name in single:
        for index, (other, before) in enumerate(headers):
            if other == name:
                headers[index] = (name, f"{before},{value}" if before and value else before or value)
                return
    headers.append((name, value))


def value_of(headers: Headers, name: str) -> str | None:
    """All values joined by commas, as matchers see them; None: it is not there."""
    values = [value for other, value in headers if other == name]
    return ",".join(values) if values else None


def edits(level: Any, direction: str, where: str, metadata: Metadata) -> Edits | None:
    """What a level (a message) does to headers of the `request` or the `response`."""
    remove = tuple(lower(name) for name in getattr(level, f"{direction}_headers_to_remove"))
    options = getattr(level, f"{direction}_headers_to_add")
    changes = tuple(changes_of(options, lambda text: formatted(text, metadata)))
    return Edits(where, remove, changes) if remove or changes else None


def changes_of(options: Iterable[Any], value_of_text: Callable[[str], str]) -> Iterator[Change]:
    """HeaderValueOptions; an empty value changes nothing, unless it is asked for."""
    for option in options:
        known(option)
        known(option.header)
        value = value_of_text(option.header.value)
        if value or option.keep_empty_value:
            yield Change(lower(option.header.key), value, _ACTIONS[option.append_action])


def edited(headers: Headers, levels: Iterable[Edits], single: frozenset[str] = ANSWER_SINGLE) -> Headers:
    """After these edits, level by level. Whether a header exists is asked before the level sets any."""
    found = list(headers)
    for level in levels:
        found = [pair for pair in found if pair[0] not in level.remove]
        there = {name for name, _ in found}
        changes = [
            change
            for change in level.changes
            if not (change.action == "add-if-absent" and change.name in there)
            and not (change.action == "overwrite-if-exists" and change.name not in there)
        ]
        for change in changes:
            if change.action.startswith("overwrite"):
                found = [pair for pair in found if pair[0] != change.name]
                found.append((change.name, change.value))
        for change in changes:
            if not change.action.startswith("overwrite"):
                _add(found, change.name, change.value, single)
    return tuple(found)
