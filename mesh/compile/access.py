"""Authorization as Envoy's RBAC: a list of named rules, first match wins, the default at its end.

RBAC's matcher form is used: there every decision carries the name of its rule, the default included. (With the classic
form a request that no allow rule matches is denied by "none".)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mesh import pb
from mesh.compile.view import Access, Rule
from mesh.model import DEFAULT_DENY
from mesh.model.authorization import SEVERAL_NAMES

_ALLOW, _DENY = pb.RbacRules.ALLOW, pb.RbacRules.DENY
_ANY_SPIFFE_ID = "spiffe://"
_BETWEEN_NAMES = ","
"""Envoy joins the URI names of a certificate by it; no SPIFFE id has one."""


def matcher(access: Access) -> pb.Matcher:
    """Who has several names, deny rules, then allow rules, then the default."""
    entries = [_several(), *_entries(access.deny, _DENY), *_entries(access.allow, _ALLOW)]
    default = _action(DEFAULT_DENY, _DENY)
    return pb.Matcher(matcher_list=pb.Matcher.MatcherList(matchers=entries), on_no_match=default)


def _several() -> pb.Matcher.MatcherList.FieldMatcher:
    """A certificate names one identity (X.509-SVID, section 2). Envoy verifies the first, and hands over all."""
    return pb.Matcher.MatcherList.FieldMatcher(
        predicate=_uri(pb.XdsStringMatcher(contains=_BETWEEN_NAMES)), on_match=_action(SEVERAL_NAMES, _DENY)
    )


@dataclass(frozen=True, slots=True)
class Admission:
    """Who gets as far as RBAC, where a handshake already refuses the others. Both empty: nobody."""

    ids: tuple[str, ...]
    prefixes: tuple[str, ...]
    """Beginnings of SPIFFE ids."""
    refusers: tuple[str, ...]
    """The rules that may have refused whoever is not among these, in the order in which they are tried."""


def admission(access: Access) -> Admission | None:
    """What a certificate's name alone decides; None: any name of the mesh may get in.

    It never refuses whom `matcher` allows. It lets in some whom `matcher` denies: a list of names and beginnings of
    names cannot leave out one name of a namespace that is let in, or of everybody.
    """
    denied = list(_until_anyone(access.deny))
    if any(rule.anyone for rule in denied):
        return Admission((), (), tuple(rule.id for rule in denied))
    if any(rule.anyone for rule in access.allow):
        return None
    denied_ids = {principal for rule in denied for principal in rule.principals}
    denied_prefixes = {namespace for rule in denied for namespace in rule.namespaces}
    prefixes = {namespace for rule in access.allow for namespace in rule.namespaces} - denied_prefixes
    wanted = {principal for rule in access.allow for principal in rule.principals} - denied_ids
    ids = {spiffe_id for spiffe_id in wanted if not _begins(spiffe_id, denied_prefixes | prefixes)}
    refusers = [rule.id for rule in denied if rule.namespaces or any(not _begins(p, prefixes) for p in rule.principals)]
    return Admission(tuple(sorted(ids)), tuple(sorted(prefixes)), (*refusers, DEFAULT_DENY))


def _until_anyone(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Those that can match: none after one that matches everybody, and none that names nobody."""
    for rule in rules:
        if rule.anyone or rule.principals or rule.namespaces:
            yield rule
        if rule.anyone:
            return


def _begins(spiffe_id: str, prefixes: set[str]) -> bool:
    return any(spiffe_id.startswith(prefix) for prefix in prefixes)


def deny_all(name: str = DEFAULT_DENY) -> pb.Matcher:
    return pb.Matcher(on_no_match=_action(name, _DENY))


def grpc_calls(name: str, paths: tuple[str, ...], id_prefixes: tuple[str, ...], denied: str) -> pb.Matcher:
    """Only POST to these paths, only by identities that begin so; everything else is denied."""
    both = [
        _any([_header(":path", _exact(path)) for path in paths]),
        _header(":method", _exact("POST")),
        _any([_uri(pb.XdsStringMatcher(prefix=prefix)) for prefix in id_prefixes]),
    ]
    predicate = pb.Matcher.MatcherList.Predicate(and_matcher=_list(both))
    entry = pb.Matcher.MatcherList.FieldMatcher(predicate=predicate, on_match=_action(name, _ALLOW))
    return pb.Matcher(
        matcher_list=pb.Matcher.MatcherList(matchers=[entry]),
        on_no_match=_action(denied, _DENY),
    )


def _entries(rules: tuple[Rule, ...], action: int) -> Iterator[pb.Matcher.MatcherList.FieldMatcher]:
    for rule in rules:
        callers = list(_callers(rule))
        if callers:
            yield pb.Matcher.MatcherList.FieldMatcher(predicate=_any(callers), on_match=_action(rule.id, action))


def _callers(rule: Rule) -> Iterator[pb.Matcher.MatcherList.Predicate]:
    if rule.anyone:
        yield _uri(pb.XdsStringMatcher(prefix=_ANY_SPIFFE_ID))
        return
    for principal in rule.principals:
        yield _uri(_exact(principal))
    for namespace in rule.namespaces:
        yield _uri(pb.XdsStringMatcher(prefix=namespace))


def _exact(text: str) -> pb.XdsStringMatcher:
    return pb.XdsStringMatcher(exact=text)


def _uri(value: pb.XdsStringMatcher) -> pb.Matcher.MatcherList.Predicate:
    """The caller's SPIFFE id: the URI name of its certificate."""
    return _single("uri_san", pb.UriSanInput(), value)


def _header(name: str, value: pb.XdsStringMatcher) -> pb.Matcher.MatcherList.Predicate:
    return _single("request_headers", pb.HttpRequestHeaderMatchInput(header_name=name), value)


def _single(name: str, config: pb.Message, value: pb.XdsStringMatcher) -> pb.Matcher.MatcherList.Predicate:
    return pb.Matcher.MatcherList.Predicate(
        single_predicate=pb.Matcher.MatcherList.Predicate.SinglePredicate(
            input=pb.XdsExtension(name=f"envoy.matching.inputs.{name}", typed_config=pb.any_of(config)),
            value_match=value,
        )
    )


def _any(predicates: list[pb.Matcher.MatcherList.Predicate]) -> pb.Matcher.MatcherList.Predicate:
    if len(predicates) == 1:  # Envoy wants two at least in a list
        return predicates[0]
    return pb.Matcher.MatcherList.Predicate(or_matcher=_list(predicates))


def _list(predicates: list[pb.Matcher.MatcherList.Predicate]) -> pb.Matcher.MatcherList.Predicate.PredicateList:
    return pb.Matcher.MatcherList.Predicate.PredicateList(predicate=predicates)


def _action(name: str, action: int) -> pb.Matcher.OnMatch:
    return pb.Matcher.OnMatch(
        action=pb.XdsExtension(name=name, typed_config=pb.any_of(pb.RbacAction(name=name, action=action)))
    )
