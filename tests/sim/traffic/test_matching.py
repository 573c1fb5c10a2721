"""Conditions of a route. Source: RouteMatch, HeaderMatcher, QueryParameterMatcher, StringMatcher."""

from typing import Any

import pytest

from mesh import pb
from mesh.compile.simulate import Unsupported
from tests.sim.traffic.build import ask, cluster, config, fraction, match, outcomes, snapshot, to


def holds(matched: pb.RouteMatch, path: str = "/", headers: Any = (), **more: Any) -> bool:
    return cluster(ask(snapshot(config(to("one", matched))), path, headers, **more)) == "one"


def header(name: str = "x-a", **fields: Any) -> pb.RouteMatch:
    return match(headers=[pb.HeaderMatcher(name=name, **fields)])


@pytest.mark.parametrize(
    ("fields", "yes", "no"),
    [
        ({"prefix": "/a"}, ["/a", "/ab", "/a/b", "/a?b"], ["/", "/A", "/b/a"]),
        ({"prefix": "/a?"}, [], ["/a?", "/a"]),
        ({"path": "/a"}, ["/a", "/a?b"], ["/a/", "/A", "/ab"]),
        ({"path_separated_prefix": "/a"}, ["/a", "/a/", "/a/b", "/a?b", "/a//"], ["/ab", "/A", "/"]),
        ({"safe_regex": {"regex": "/a|/bc"}}, ["/a", "/bc", "/a?x"], ["/ab", "/a/", "/b"]),
        ({"safe_regex": {"regex": "/(?i)a\\d"}}, ["/A1", "/a2"], ["/a", "/a12"]),
        ({"path": "/a", "case_sensitive": pb.BoolValue(value=False)}, ["/A", "/a"], ["/b"]),
        ({"path_separated_prefix": "/a", "case_sensitive": pb.BoolValue(value=False)}, ["/A/b"], ["/AB"]),
    ],
)
def test_path(fields: Any, yes: list[str], no: list[str]):
    """Without its query, and as a whole where it is a regular expression."""
    assert [path for path in yes + no if holds(match(**fields), path)] == yes


OR_EMPTY = {"treat_missing_header_as_empty": True}
VALUES: dict[str, list[tuple[str, str]]] = {
    "missing": [],
    "empty": [("x-a", "")],
    "a": [("x-a", "a")],
    "b": [("X-A", "b")],
    "b and a": [("x-a", "b"), ("x-a", "a")],
}


@pytest.mark.parametrize(
    ("fields", "yes"),
    [
        ({}, "empty, a, b, b and a"),
        ({"present_match": True}, "empty, a, b, b and a"),
        ({"present_match": False}, "missing"),
        ({"present_match": True, "invert_match": True}, "missing"),
        ({"present_match": False, **OR_EMPTY}, ""),
        ({"string_match": {"exact": "a"}}, "a, b and a"),
        ({"string_match": {"exact": ""}}, "empty"),
        ({"string_match": {"exact": "a"}, "invert_match": True}, "empty, b"),
        ({"string_match": {"exact": "a"}, "invert_match": True, **OR_EMPTY}, "missing, empty, b"),
        ({"string_match": {"safe_regex": {"regex": ".*"}}, **OR_EMPTY}, "missing, empty, a, b, b and a"),
        ({"string_match": {"contains": ","}}, ""),
    ],
)  # fmt: skip
def test_header(fields: Any, yes: str):
    """A missing header has no value, not even for an inverted match. Any one of several values will do.

    (Envoy joined several values by commas once; 1.40 compares each.)
    """
    assert ", ".join(name for name, headers in VALUES.items() if holds(header(**fields), "/", headers)) == yes


def test_values_that_envoy_keeps_as_one_are_compared_as_one():
    twice = [("accept", "a"), ("accept", "b")]
    assert not holds(header("accept", string_match={"exact": "a"}), "/", twice)
    assert holds(header("accept", string_match={"exact": "a,b"}), "/", twice)


@pytest.mark.parametrize(
    ("name", "value"),
    [(":method", "GET"), (":path", "/x?y"), (":authority", "Api:80"), ("host", "Api:80"), (":scheme", "http")],
)
def test_pseudo_headers(name: str, value: str):
    assert holds(header(name, string_match={"exact": value}), "/x?y", host="Api:80")


@pytest.mark.parametrize(
    ("fields", "yes"),
    [
        ({"exact": "aBc"}, ["aBc"]),
        ({"exact": "aBc", "ignore_case": True}, ["aBc", "AbC"]),
        ({"prefix": "aB"}, ["aBc", "aBÉ"]),
        ({"suffix": "c", "ignore_case": True}, ["aBc", "AbC"]),
        ({"contains": "é"}, ["xéx"]),
        ({"contains": "É", "ignore_case": True}, ["aBÉ"]),
        ({"safe_regex": {"regex": "a.c"}, "ignore_case": True}, ["aBc"]),
        ({"safe_regex": {"regex": "x..x"}}, ["xéx"]),
    ],
)
def test_string(fields: Any, yes: list[str]):
    """ASCII's letters alone have two cases; a regular expression ignores `ignore_case`, its characters are bytes."""
    values = ["aBc", "AbC", "xéx", "aBÉ"]
    matched = header(string_match=fields)
    assert [value for value in values if holds(matched, "/", [("x-a", value)])] == yes


@pytest.mark.parametrize(
    ("fields", "yes"),
    [
        ({}, ["/?q", "/?q=1", "/?q=2&q=1", "/?x&q="]),
        ({"present_match": True}, ["/?q", "/?q=1", "/?q=2&q=1", "/?x&q="]),
        ({"present_match": False}, ["/", "/?Q=1", "/?%71=1"]),
        ({"string_match": {"exact": "1"}}, ["/?q=1"]),
        ({"string_match": {"exact": ""}}, ["/?q", "/?x&q="]),
    ],
)
def test_query_parameter(fields: Any, yes: list[str]):
    """The first value counts, as it is spelled."""
    paths = ["/", "/?q", "/?q=1", "/?q=2&q=1", "/?x&q=", "/?Q=1", "/?%71=1"]
    matched = match(query_parameters=[pb.QueryParameterMatcher(name="q", **fields)])
    assert [path for path in paths if holds(matched, path)] == yes


@pytest.mark.parametrize(
    ("content_type", "yes"),
    [("application/grpc", True), ("application/grpc+proto", True), ("application/grpc-web", False),
     ("application/grpc;x", False), ("Application/grpc", False), ("text/plain", False)],
)  # fmt: skip
def test_grpc(content_type: str, yes: bool):
    assert holds(match(grpc={}), "/", [("content-type", content_type)]) is yes


def test_a_fraction_of_requests_goes_on_to_the_next_route():
    found = outcomes(snapshot(config(to("one", match(runtime_fraction=fraction(30))), to("two"))))
    assert [(share.probability * 100, cluster(share.verdict)) for share in found] == [(70, "two"), (30, "one")]


def test_the_first_route_that_matches_counts():
    assert cluster(ask(snapshot(config(to("one", match(prefix="/")), to("two", match(path="/a")))), "/a")) == "one"


def test_a_header_that_the_proxy_makes_cannot_be_compared():
    with pytest.raises(Unsupported, match="x-request-id"):
        holds(header("x-request-id"))


def test_the_trace_tells_the_condition_that_decided_and_those_that_did_not():
    routes = config(
        to("one", match(path="/a")), to("one", match(prefix="/", headers=[pb.HeaderMatcher(name="x")])), to("two")
    )
    steps = [(s.field, s.decided) for s in ask(snapshot(routes)).trace if s.kind == "route"]
    assert steps == [
        ("virtual_hosts[0].routes[0].match.path", False),
        ("virtual_hosts[0].routes[1].match.headers[0]", False),
        ("virtual_hosts[0].routes[2].match", True),
    ]
    assert {s.resource for s in ask(snapshot(routes)).trace if s.kind == "route"} == {"rds routes"}
