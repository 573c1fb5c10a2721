"""What requests look like, as Envoy's matchers of headers: methods and paths are headers, too."""

from collections.abc import Iterable, Iterator

from mesh import pb
from mesh.model.policyspec import RequestMatch
from mesh.model.regex import prefix_expression
from mesh.model.routing import HeaderMatch


def text(value: str, *, regex: bool = False) -> pb.StringMatcher:
    """Exactly this, or an expression for the whole."""
    return pb.StringMatcher(safe_regex=pb.RegexMatcher(regex=value)) if regex else pb.StringMatcher(exact=value)


def headers(wanted: Iterable[HeaderMatch]) -> Iterator[pb.HeaderMatcher]:
    """Of several with one name the first counts."""
    seen: set[str] = set()
    for header in wanted:
        name = header.name.lower()
        if name not in seen:
            seen.add(name)
            value = text(header.value, regex=header.type == "RegularExpression")
            yield pb.HeaderMatcher(name=":authority" if name == "host" else name, string_match=value)


def request(wanted: RequestMatch) -> list[pb.HeaderMatcher]:
    """All of a policy's match; an empty list is every request."""
    found = []
    if wanted.path_prefix.rstrip("/"):
        found.append(_header(":path", prefix_expression(wanted.path_prefix)))  # has the query, too
    if wanted.methods:
        found.append(_header(":method", "|".join(wanted.methods)))
    return [*found, *headers(wanted.headers)]


def _header(name: str, regex: str) -> pb.HeaderMatcher:
    return pb.HeaderMatcher(name=name, string_match=text(regex, regex=True))
