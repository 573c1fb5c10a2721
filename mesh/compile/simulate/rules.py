"""Rules of access, in RBAC's matcher form: a list of predicates, the first that holds decides, else the default."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mesh import pb
from mesh.compile.simulate.fields import known, unpack
from mesh.compile.simulate.request import Request
from mesh.compile.simulate.text import matches

_MATCHER = "xds.type.matcher.v3.Matcher"


@dataclass(frozen=True, slots=True)
class Ruling:
    rule: str
    allowed: bool
    field: str
    """In the matcher."""


NONE = Ruling("none", allowed=False, field="")
"""What Envoy says where no rule matches and there is no default: no."""


def ruling(matcher: Any, request: Request, field: str) -> Ruling:
    """What the rules say of a request, or of a connection (then only `caller` is known of it)."""
    return _ruling(matcher, lambda packed: _value(packed, request), field) or NONE


def _ruling(matcher: Any, look: Callable[[Any], str | None], field: str) -> Ruling | None:
    known(matcher)
    known(matcher.matcher_list)
    for index, entry in enumerate(matcher.matcher_list.matchers):
        known(entry)
        where = f"{field}.matcher_list.matchers[{index}]"
        # A matcher inside that finds nothing is as if its predicate had not held: the next one is tried.
        if _holds(entry.predicate, look) and (found := _outcome(entry.on_match, look, where)) is not None:
            return found
    return _outcome(matcher.on_no_match, look, f"{field}.on_no_match") if matcher.HasField("on_no_match") else None


def _outcome(outcome: Any, look: Callable[[Any], str | None], field: str) -> Ruling | None:
    known(outcome)
    if outcome.HasField("matcher"):
        return _ruling(outcome.matcher, look, f"{field}.matcher")
    action = unpack(outcome.action.typed_config, pb.RbacAction, where=f"{_MATCHER}.OnMatch.action")
    return Ruling(action.name, action.action != pb.RbacRules.DENY, field)


def _holds(predicate: Any, look: Callable[[Any], str | None]) -> bool:
    known(predicate)
    match predicate.WhichOneof("match_type"):
        case "or_matcher":
            return any(_holds(p, look) for p in predicate.or_matcher.predicate)
        case "and_matcher":
            return all(_holds(p, look) for p in predicate.and_matcher.predicate)
        case "not_matcher":
            return not _holds(predicate.not_matcher, look)
        case _:
            known(predicate.single_predicate)
            value = look(predicate.single_predicate.input.typed_config)
            return value is not None and matches(predicate.single_predicate.value_match, value)


def _value(packed: Any, request: Request) -> str | None:
    """What an input reads; None: there is nothing to read."""
    where = f"{_MATCHER}.MatcherList.Predicate.SinglePredicate.input"
    read = unpack(packed, pb.UriSanInput, pb.HttpRequestHeaderMatchInput, where=where)
    if isinstance(read, pb.UriSanInput):
        return request.caller or None
    return request.header(read.header_name)
