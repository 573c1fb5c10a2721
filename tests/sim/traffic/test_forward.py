"""What a route does. Source: RouteAction, RedirectAction, HeaderValueOption, "custom request/response headers"."""

from typing import Any

import pytest

from mesh import pb
from mesh.compile.simulate import Change, Direct, Edits, Redirect, Retry, edited
from tests.sim.traffic.build import added, ask, cluster, config, fraction, match, outcomes, snapshot, to, weights

APPEND, IF_ABSENT, OVERWRITE, IF_EXISTS = range(4)
SCHEME = ("x-forwarded-proto", "http")


def rewrite(pattern: str, substitution: str) -> dict[str, Any]:
    return {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": substitution}}


@pytest.mark.parametrize(
    ("matched", "action", "path", "found"),
    [
        ({"prefix": "/a"}, {"prefix_rewrite": "/n"}, "/a/b?q", "/n/b?q"),
        ({"prefix": "/a/"}, {"prefix_rewrite": "/"}, "/a/b", "/b"),
        ({"prefix": "/a"}, {"prefix_rewrite": "/"}, "/a/b", "//b"),
        ({"path": "/a"}, {"prefix_rewrite": "/n"}, "/a?q", "/n?q"),
        ({"path_separated_prefix": "/a"}, {"prefix_rewrite": "/n"}, "/a/b", "/n/b"),
        ({"safe_regex": {"regex": "/a.*"}}, {"prefix_rewrite": "/n"}, "/a/b?q", "/n?q"),
        ({}, rewrite("^/(.*)/(.*)$", r"/\2/\1\\"), "/a/b?/c/d", "/b/a\\?/c/d"),
        ({}, rewrite("^.*$", "/all"), "/a?q", "/all?q"),
        ({}, rewrite("a*", "-"), "/aab", "-/-b-"),
        ({}, rewrite("a", r"\0\0"), "/aba", "/aabaa"),
        ({}, rewrite("(a)|(b)", r"<\1|\2>"), "/ab", "/<a|><|b>"),
        ({}, rewrite("x", "y"), "/a", "/a"),
    ],
)
def test_path_rewritten(matched: Any, action: Any, path: str, found: str):
    """The query stays, whatever the expression says; each match is replaced, an empty one not right behind another."""
    assert ask(snapshot(config(to("one", match(**matched), **action))), path).path == found


def test_host_rewritten_by_the_route_before_the_weighted_cluster():
    found = weights(one=1)
    found["weighted_clusters"]["clusters"][0]["host_rewrite_literal"] = "weight"
    assert ask(snapshot(config(to(**found)))).host == "weight"
    assert ask(snapshot(config(to(**found, host_rewrite_literal="route")))).host == "route"
    assert ask(snapshot(config(to())), host="As:80").host == "As:80"


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [
        (added("x", "1"), [], ["1"]),
        (added("x", "1"), ["0"], ["0", "1"]),
        (added("X", "1", IF_ABSENT), ["0"], ["0"]),
        (added("x", "1", IF_ABSENT), [], ["1"]),
        (added("x", "1", OVERWRITE), ["0", "2"], ["1"]),
        (added("x", "1", OVERWRITE), [], ["1"]),
        (added("x", "1", IF_EXISTS), [], []),
        (added("x", "1", IF_EXISTS), ["0"], ["1"]),
        (added("x", "", OVERWRITE), ["0"], ["0"]),
        (added("x", "", OVERWRITE, keep=True), ["0"], [""]),
        (added("x", "100%%"), [], ["100%"]),
    ],
)
def test_header_added(option: pb.HeaderValueOption, before: list[str], after: list[str]):
    found = snapshot(config(to(route={"request_headers_to_add": [option]})))
    headers = ask(found, "/", [("x", value) for value in before]).headers
    assert [value for name, value in headers if name == "x"] == after


def test_headers_are_removed_before_any_is_added():
    route = {"request_headers_to_remove": ["X"], "request_headers_to_add": [added("x", "1", IF_ABSENT)]}
    assert ask(snapshot(config(to(route=route))), "/", [("x", "0")]).headers == (SCHEME, ("x", "1"))


def test_whether_a_header_exists_is_asked_before_the_level_sets_it():
    changes = (
        Change("x", "1", "overwrite"),
        Change("x", "2", "add-if-absent"),
        Change("y", "3", "overwrite-if-exists"),
    )
    assert edited((), [Edits("route", changes=changes)]) == (("x", "1"), ("x", "2"))


@pytest.mark.parametrize(
    ("specific", "order"),
    [(False, "weight route host config"), (True, "weight config host route")],
)
def test_the_last_level_wins(specific: bool, order: str):
    """RouteConfiguration.most_specific_header_mutations_wins; a weighted cluster is first, and so never wins."""
    found = weights(one=1)
    found["weighted_clusters"]["clusters"][0]["request_headers_to_add"] = [added("x", "weight")]
    routes = config(
        to(**found, route={"request_headers_to_add": [added("x", "route")]}),
        host_request_headers_to_add=[added("x", "host")],
        request_headers_to_add=[added("x", "config")],
        most_specific_header_mutations_wins=specific,
    )
    assert [value for name, value in ask(snapshot(routes)).headers if name == "x"] == order.split()


def test_what_is_done_to_the_answer_is_told():
    route = {"response_headers_to_add": [added("X", "1")], "response_headers_to_remove": ["Y"]}
    found = ask(snapshot(config(to(route=route))))
    assert found.response == (Edits("route", ("y",), (Change("x", "1", "append"),)),)
    assert edited((("y", "0"), ("z", "0")), found.response) == (("z", "0"), ("x", "1"))


def test_limits_and_retries_are_told():
    found = ask(snapshot(config(to())))
    assert (found.timeout, found.retry) == (15.0, None)  # RouteAction.timeout: 15 s where nothing is said
    policy = pb.RetryPolicy(retry_on="5xx,reset", num_retries=pb.uint32(3), per_try_timeout=pb.duration(2))
    found = ask(snapshot(config(to(timeout=pb.duration(0)), host_retry_policy=policy)))
    assert (found.timeout, found.retry) == (None, Retry(("5xx", "reset"), 3, 2.0))
    found = ask(snapshot(config(to(retry_policy={"retry_on": "5xx"}), host_retry_policy=policy)))
    assert found.retry == Retry(("5xx",), 1)


def test_what_hosts_are_chosen_by_is_told():
    policies = [
        {"header": {"header_name": "x"}},
        {"cookie": {"name": "c"}},
        {"connection_properties": {"source_ip": True}},
    ]
    assert ask(snapshot(config(to(hash_policy=policies)))).hashed_by == ("header x", "cookie c", "source address")


def test_weights_by_draw_and_by_share():
    found = snapshot(config(to(**weights(one=1, two=3))))
    assert [cluster(ask(found, draw=draw)) for draw in (0, 0.24, 0.25, 0.99)] == ["one", "one", "two", "two"]
    assert [(s.probability * 4, cluster(s.verdict)) for s in outcomes(found)] == [(3, "two"), (1, "one")]
    assert [cluster(s.verdict) for s in outcomes(snapshot(config(to(**weights(one=0, two=5)))))] == ["two"]


def test_copies_are_told():
    """Of the most specific level that has any; none to a cluster that is not there."""
    level = {"request_mirror_policies": [{"cluster": "copy"}, {"cluster": "nowhere"}]}
    assert ask(snapshot(config(to(**level)))).mirrors == ("copy",)
    assert ask(snapshot(config(to(), host_request_mirror_policies=level["request_mirror_policies"]))).mirrors == (
        "copy",
    )
    some = [{"cluster": "copy", "runtime_fraction": fraction(25)}]
    found = outcomes(snapshot(config(to(request_mirror_policies=some))))
    assert [(s.probability * 4, s.verdict.mirrors) for s in found] == [(3, ()), (1, ("copy",))]


def test_a_cluster_that_is_not_there():
    """RouteAction.cluster_not_found_response_code."""
    assert ask(snapshot(config(to("nowhere")))).status == 503
    assert ask(snapshot(config(to("nowhere", cluster_not_found_response_code="NOT_FOUND")))).status == 404


# --- redirects ---


def redirected(path: str = "/a?q", host: str = "h", came: str = "", matched: Any = None, **fields: Any) -> Redirect:
    route = pb.Route(match=match(**(matched or {})), redirect=pb.RedirectAction(**fields))
    found = ask(snapshot(config(route)), path, [("x-forwarded-proto", came)] if came else [], host)
    assert isinstance(found, Redirect)
    return found


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({}, "http://h:80/a?q"),
        ({"https_redirect": True}, "https://h/a?q"),
        ({"scheme_redirect": "ftp"}, "ftp://h/a?q"),
        ({"scheme_redirect": "http"}, "http://h:80/a?q"),
        ({"host_redirect": "n:1", "https_redirect": True}, "https://n:1/a?q"),
        ({"port_redirect": 8443}, "http://h:8443/a?q"),
        ({"host_redirect": "n:1", "port_redirect": 2}, "http://n:1:2/a?q"),
        ({"path_redirect": "/n"}, "http://h:80/n?q"),
        ({"path_redirect": "/n?x"}, "http://h:80/n?x"),
        ({"path_redirect": "/n?x", "strip_query": True}, "http://h:80/n?x"),
        ({"path_redirect": "/n", "strip_query": True}, "http://h:80/n"),
        ({"prefix_rewrite": "/n/"}, "http://h:80/n/a?q"),
        (rewrite("^/a", "n"), "http://h:80/n?q"),
    ],
)
def test_location(fields: Any, location: str):
    """A default port goes with the scheme that it was the default of."""
    assert redirected(host="h:80", **fields).location == location


@pytest.mark.parametrize(
    ("host", "came", "location"),
    [
        ("h:443", "https", "http://h/a?q"), ("h:443", "", "http://h:443/a?q"), ("h:80", "https", "http://h:80/a?q"),
        ("[::1]:443", "https", "http://[::1]/a?q"), ("[::1]", "https", "http://[::1]/a?q"),
    ],
)  # fmt: skip
def test_default_ports_of_https(host: str, came: str, location: str):
    assert redirected(host=host, came=came, scheme_redirect="http").location == location


def test_the_scheme_is_that_of_the_original_request():
    assert redirected(came="https", host_redirect="n").location == "https://n/a?q"
    assert redirected(came="ftp", host_redirect="n").location == "http://n/a?q"


def test_status_of_a_redirect():
    codes = pb.RedirectAction.RedirectResponseCode
    found = {name: redirected(response_code=value).status for name, value in codes.items()}
    assert found == {
        "MOVED_PERMANENTLY": 301, "FOUND": 302, "SEE_OTHER": 303, "TEMPORARY_REDIRECT": 307, "PERMANENT_REDIRECT": 308,
    }  # fmt: skip


def test_direct_response():
    route = pb.Route(match=match(), direct_response={"status": 200, "body": {"inline_string": "hello"}})
    found = ask(snapshot(config(route, host_response_headers_to_remove=["x"])))
    assert isinstance(found, Direct)
    assert (found.status, found.body, found.response) == (200, "hello", (Edits("virtual host", ("x",)),))


@pytest.mark.parametrize(
    ("status", "grpc"), [(200, 2), (400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (503, 14)]
)
def test_a_direct_response_to_grpc(status: int, grpc: int):
    """grpc/doc/http-grpc-status-mapping.md."""
    route = pb.Route(match=match(), direct_response={"status": status})
    assert ask(snapshot(config(route)), "/", [("content-type", "application/grpc")]).grpc_status == grpc
