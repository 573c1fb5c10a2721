"""Paths before routing. Source: Envoy's HttpConnectionManager, `normalize_path`, `merge_slashes`,
`path_with_escaped_slashes_action`; each row was seen at Envoy 1.40."""

import pytest

from mesh import pb
from mesh.compile.simulate import Direct, To
from mesh.compile.simulate.paths import merge_slashes, normalize, parameters, split
from tests.sim.traffic.build import ask, config, manager, snapshot, to

INBOUND = snapshot(config(to()), manager(inbound=True))
OUTBOUND = snapshot(config(to()))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/.", "/"), ("/..", "/"), ("/../a", "/a"), ("/a/..", "/"), ("/a/.", "/a/"), ("/a/b/../", "/a/"),
        ("/a/...", "/a/..."), ("/a/..b", "/a/..b"), ("/a//..", "/a/"), ("//..", "/"), ("///..", "//"),
        ("/..//a", "//a"),
        ("/%2e%2E/a", "/a"), ("/a/.%2e/b", "/b"), ("/a\\b", "/a/b"), ("/a\\..\\b", "/b"),
        ("/%41%7e%2d", "/A~-"), ("/%2f%5c%25", "/%2f%5c%25"), ("/%zz%", "/%zz%"), ("/a?/../%41", "/a?/../%41"),
        ('/"<>^`{|}', "/%22%3C%3E%5E%60%7B%7C%7D"), ("/%00", None), ("a", None),
    ],
)  # fmt: skip
def test_normalized(path: str, found: str | None):
    assert normalize(path) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [("//", "//"), ("///", "//"), ("//a", "/a"), ("/a//", "/a/"), ("/a///b//c", "/a/b/c"), ("/a?b=//", "/a?b=//")],
)
def test_merged(path: str, found: str):
    """A path of slashes alone keeps two."""
    assert merge_slashes(path) == found


def test_a_path_ends_at_its_query():
    assert split("/a?b?c") == ("/a", "?b?c")


def test_of_a_parameter_the_first_value_counts_and_nothing_is_decoded():
    assert parameters("/?a=1&a=2&%61=3&b&=x") == {"a": "1", "%61": "3", "b": "", "": "x"}


def test_inbound_has_one_spelling_of_a_path():
    assert ask(INBOUND, "//a/./%62/../c?x=//").path == "/a/c?x=//"


@pytest.mark.parametrize("path", ["/a%2fb", "/a%5Cb", "/%00", "/a#b", "/a?b#c"])
def test_inbound_refuses_what_has_two_readings(path: str):
    found = ask(INBOUND, path)
    assert isinstance(found, Direct)
    assert (found.status, found.body) == (400, "")


@pytest.mark.parametrize("path", ["//a/../b", "/a%2fb", "/%41", "/\\"])
def test_outbound_leaves_paths_as_they_are(path: str):
    found = ask(OUTBOUND, path)
    assert isinstance(found, To)
    assert found.path == path


def test_a_fragment_is_refused_everywhere():
    """`envoy.reloadable_features.http_reject_path_with_fragment`."""
    assert ask(OUTBOUND, "/a#b").status == 400


@pytest.mark.parametrize(
    ("path", "host", "headers"),
    [
        ("a", "h", ()), ("/ a", "h", ()), ("/é", "h", ()), ("/a\x7f", "h", ()), ("http://x/", "h", ()),
        ("/", "a/b", ()), ("/", "a b", ()), ("/", "h", [("a b", "1")]), ("/", "h", [("x", "a\x01")]),
    ],
)  # fmt: skip
def test_what_the_codec_refuses(path: str, host: str, headers: list[tuple[str, str]]):
    found = ask(OUTBOUND, path, headers, host)
    assert (found.status, found.body) == (400, "Bad Request")


def test_a_refused_path_gets_the_routes_headers_only_if_the_caller_told_a_scheme():
    """Without one Envoy finds no route. Seen, not documented."""
    found = snapshot(config(to(), host_response_headers_to_remove=["x"]))
    assert ask(found, "/#").response == ()
    assert ask(found, "/#", [("x-forwarded-proto", "http")]).response[0].remove == ("x",)


def test_underscores_in_names_are_dropped_or_refused():
    """HttpProtocolOptions.headers_with_underscores_action; inbound drops them."""
    assert ask(INBOUND, "/", [("x_a", "1"), ("x-b", "1")]).headers == (("x-b", "1"), ("x-forwarded-proto", "http"))
    refuse = pb.HttpProtocolOptions(headers_with_underscores_action=pb.HttpProtocolOptions.REJECT_REQUEST)
    found = snapshot(config(to()), manager(common_http_protocol_options=refuse))
    assert ask(found, "/", [("x_a", "1")]).status == 400


def test_callers_cannot_say_what_only_proxies_say():
    """Envoy, "HTTP header sanitizing"."""
    said = [
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-original-path", "/"),
        ("x-forwarded-client-cert", "By=me"),
        ("x", "1"),
    ]
    assert ask(OUTBOUND, "/", said).headers == (
        ("x-envoy-original-path", "/"),
        ("x", "1"),
        ("x-forwarded-proto", "http"),
    )
    assert ask(INBOUND, "/", said).headers == (("x", "1"), ("x-forwarded-proto", "http"))


def test_headers_of_which_envoy_keeps_one_value():
    found = ask(OUTBOUND, "/", [("Accept", "a"), ("accept", ""), ("accept", "b"), ("X-A", "1"), ("x-a", "2")])
    assert found.headers[:3] == (("accept", "a,b"), ("x-a", "1"), ("x-a", "2"))


def test_headers_of_the_connection_go_no_further():
    found = ask(OUTBOUND, "/", [("connection", "close"), ("keep-alive", "1"), ("te", "gzip, trailers")])
    assert found.headers == (("te", "trailers"), ("x-forwarded-proto", "http"))
