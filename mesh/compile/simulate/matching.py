"""Does a route match? Its conditions one by one, as RouteMatch has them; all must hold."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mesh.compile.simulate import paths
from mesh.compile.simulate.fields import known
from mesh.compile.simulate.request import Request
from mesh.compile.simulate.run import Run
from mesh.compile.simulate.text import full_match, lower, matches
from mesh.compile.simulate.verdict import Unsupported


class Condition(NamedTuple):
    """One, and whether it holds."""

    field: str
    said: str
    holds: bool


def conditions(run: Run, match: Any, request: Request) -> Iterator[Condition]:
    """In an order that leaves the random one to the end: it is asked only if all others hold."""
    known(match)
    yield _path(match, request)
    for index, header in enumerate(match.headers):
        yield Condition(f"headers[{index}]", header.name, header_holds(header, request))
    asked = paths.parameters(request.path) if match.query_parameters else {}
    for index, parameter in enumerate(match.query_parameters):
        yield Condition(f"query_parameters[{index}]", parameter.name, _parameter_holds(parameter, asked))
    if match.HasField("grpc"):
        yield Condition("grpc", "content-type", request.grpc)
    if match.HasField("runtime_fraction"):
        yield Condition("runtime_fraction", "by chance", run.met(match.runtime_fraction, stable=True))


def _path(match: Any, request: Request) -> Condition:
    path, _ = paths.split(request.path)
    kind = match.WhichOneof("path_specifier")
    if kind == "safe_regex":
        return Condition(kind, match.safe_regex.regex, full_match(match.safe_regex, path))
    if kind is None:
        raise Unsupported("envoy.config.route.v3.RouteMatch.path_specifier", "none is set")
    said = wanted = getattr(match, kind)
    if match.HasField("case_sensitive") and not match.case_sensitive.value:
        path, wanted = lower(path), lower(wanted)
    if kind == "path":
        return Condition(kind, said, path == wanted)
    begins = path.startswith(wanted)
    if kind == "path_separated_prefix":
        begins = begins and path[len(wanted) :][:1] in {"", "/"}
    return Condition(kind, said, begins)


def matched(match: Any, request: Request) -> str:
    """The part of the path that a prefix_rewrite replaces."""
    kind = match.WhichOneof("path_specifier")
    return getattr(match, kind) if kind in {"prefix", "path_separated_prefix"} else paths.split(request.path)[0]


def header_holds(matcher: Any, request: Request) -> bool:
    """A HeaderMatcher: any one value will do, and its inverse needs that there is none such.

    Of a header that is not there, nothing is said but that: not even the inverse of a value.
    """
    known(matcher)
    values = request.values(matcher.name)
    if not values and matcher.treat_missing_header_as_empty:
        values = ("",)
    kind = matcher.WhichOneof("header_match_specifier")
    if kind == "string_match":
        found = any(matches(matcher.string_match, value) for value in values)
        return bool(values) and found != matcher.invert_match
    wanted = matcher.present_match if kind == "present_match" else True
    return bool((bool(values) == wanted) != matcher.invert_match)


def _parameter_holds(matcher: Any, asked: dict[str, str]) -> bool:
    known(matcher)
    value = asked.get(matcher.name)
    if matcher.WhichOneof("query_parameter_match_specifier") == "string_match":
        return value is not None and matches(matcher.string_match, value)
    wanted = matcher.present_match if matcher.HasField("present_match") else True
    return bool((value is not None) == wanted)
