"""HTTP filters. Source: Envoy's docs of RBAC, fault injection, local rate limit, CORS, typed_per_filter_config."""

from typing import Any

import pytest

from mesh import pb
from mesh.compile import access, http
from mesh.compile.simulate import Deny, Direct, Fault, NoRoute, To, Verdict
from mesh.compile.types import Snapshot
from tests.sim.traffic.build import added, ask, config, filter_of, manager, outcomes, percent, snapshot, to, weights

ALLOW, DENY, LOG = pb.RbacRules.ALLOW, pb.RbacRules.DENY, pb.RbacRules.LOG


def action(name: str, verdict: int) -> pb.Matcher.OnMatch:
    typed = pb.any_of(pb.RbacAction(name=name, action=verdict))
    return pb.Matcher.OnMatch(action=pb.XdsExtension(name=name, typed_config=typed))


def if_header(name: str, outcome: pb.Matcher.OnMatch, **value: Any) -> pb.Matcher.MatcherList.FieldMatcher:
    kind = pb.Matcher.MatcherList
    read = pb.XdsExtension(name="x", typed_config=pb.any_of(pb.HttpRequestHeaderMatchInput(header_name=name)))
    single = kind.Predicate.SinglePredicate(input=read, value_match=pb.XdsStringMatcher(**(value or {"exact": "1"})))
    return kind.FieldMatcher(predicate=kind.Predicate(single_predicate=single), on_match=outcome)


def rules(*entries: pb.Matcher.MatcherList.FieldMatcher, default: pb.Matcher.OnMatch | None = None) -> pb.Matcher:
    found = pb.Matcher(on_no_match=default)
    if entries:
        found.matcher_list.matchers.extend(entries)
    return found


def per_route(**configs: pb.Message) -> dict[str, pb.AnyMessage]:
    return {name: pb.any_of(message) for name, message in configs.items()}


def guarded(matcher: pb.Matcher, **level: Any) -> Snapshot:
    return snapshot(config(to(), **level), manager([filter_of("rbac", pb.HttpRbac(matcher=matcher))]))


# --- RBAC ---


def test_the_first_rule_that_holds_decides_and_is_named():
    found = guarded(
        rules(
            if_header("a", action("first", DENY)), if_header("b", action("second", ALLOW)), default=action("last", DENY)
        )
    )
    for headers, rule, allowed in (
        ([("a", "1"), ("b", "1")], "first", False),
        ([("b", "1")], "second", True),
        ([], "last", False),
    ):
        verdict = ask(found, "/", headers)
        assert (verdict.rule, isinstance(verdict, To)) == (rule, allowed)
    assert ask(found).status == 403


def test_logging_lets_pass():
    assert isinstance(ask(guarded(rules(default=action("log", LOG)))), To)


def test_no_rule_and_no_default_denies():
    verdict = ask(guarded(rules(if_header("a", action("first", ALLOW)))))
    assert isinstance(verdict, Deny)
    assert verdict.rule == "none"


def test_a_matcher_inside_that_finds_nothing_lets_the_next_try():
    """xDS matching API: a nested matcher without a match, and without a default, is no match."""
    inner = pb.Matcher.OnMatch(matcher=rules(if_header("b", action("inner", DENY))))
    found = guarded(rules(if_header("a", inner), if_header("a", action("next", ALLOW)), default=action("last", DENY)))
    assert ask(found, "/", [("a", "1")]).rule == "next"
    assert ask(found, "/", [("a", "1"), ("b", "1")]).rule == "inner"


def test_several_values_of_a_header_are_one_text_for_a_rule():
    """Unlike a route's matcher, the input of a rule joins them."""
    assert (
        ask(guarded(rules(if_header("a", action("x", ALLOW), exact="1,2"))), "/", [("a", "1"), ("a", "2")]).rule == "x"
    )


def test_the_most_specific_level_counts_and_an_empty_one_switches_off():
    deny = pb.RBACPerRoute(rbac=pb.HttpRbac(matcher=rules(default=action("host", DENY))))
    allow = pb.RBACPerRoute(rbac=pb.HttpRbac(matcher=rules(default=action("route", ALLOW))))
    base = [filter_of("rbac", pb.HttpRbac(matcher=rules(default=action("base", DENY))))]
    host = per_route(rbac=deny)
    asked: dict[str, Verdict] = {
        "base": ask(snapshot(config(to()), manager(base))),
        "host": ask(snapshot(config(to(), host_typed_per_filter_config=host), manager(base))),
        "route": ask(
            snapshot(
                config(to(route={"typed_per_filter_config": per_route(rbac=allow)}), host_typed_per_filter_config=host),
                manager(base),
            )
        ),
        "": ask(
            snapshot(
                config(
                    to(route={"typed_per_filter_config": per_route(rbac=pb.RBACPerRoute())}),
                    host_typed_per_filter_config=host,
                ),
                manager(base),
            )
        ),
    }
    assert {name: verdict.rule for name, verdict in asked.items()} == {name: name for name in asked}
    assert isinstance(asked[""], To)


def test_without_a_route_the_filters_own_configuration_counts():
    routes = config(to("one", pb.RouteMatch(path="/a")), host_typed_per_filter_config=per_route(rbac=pb.RBACPerRoute()))
    found = snapshot(routes, manager([filter_of("rbac", pb.HttpRbac(matcher=rules(default=action("base", DENY))))]))
    assert isinstance(ask(found, "/a"), To)
    assert ask(found, "/b").rule == "base"
    assert isinstance(ask(snapshot(routes), "/b"), NoRoute)


@pytest.mark.parametrize("level", ["route", "host"])
def test_a_filter_can_be_disabled_and_enabled_by_level(level: str):
    """config.route.v3.FilterConfig.disabled, HttpFilter.disabled."""
    deny = pb.HttpRbac(matcher=rules(default=action("base", DENY)))

    def with_level(message: pb.Message, *, disabled: bool) -> Verdict:
        configs = {"typed_per_filter_config": per_route(rbac=message)}
        routes = (
            config(to(route=configs))
            if level == "route"
            else config(to(), host_typed_per_filter_config=configs["typed_per_filter_config"])
        )
        return ask(snapshot(routes, manager([filter_of("rbac", deny, disabled=disabled)])))

    assert isinstance(with_level(pb.FilterConfig(disabled=True), disabled=False), To)
    own = pb.RBACPerRoute(rbac=deny)
    assert isinstance(with_level(own, disabled=True), Deny)
    assert isinstance(with_level(pb.FilterConfig(config=pb.any_of(own)), disabled=True), Deny)
    assert isinstance(ask(snapshot(config(to()), manager([filter_of("rbac", deny, disabled=True)]))), To)


def test_a_refusal_of_ours_names_its_rule_in_a_header():
    """As `mesh.compile.http` has it: shadow rules before the rules, and a local reply that reads them."""
    matcher = access.deny_all("shop/never/0")
    found = snapshot(
        config(to()),
        manager(http.rbac_filters(matcher), inbound=True, local_reply_config={"mappers": [http.denial_reply()]}),
    )
    verdict = ask(found)
    assert verdict.rule == "shop/never/0"
    assert [(c.name, c.value) for c in verdict.response[0].changes] == [("x-holdfast-denied-by", "shop/never/0")]


def test_grpc_is_denied_in_its_own_words():
    assert ask(guarded(access.deny_all()), "/", [("content-type", "application/grpc")]).grpc_status == 7


# --- local replies ---


def test_a_mapper_changes_status_and_body():
    """LocalReplyConfig: the first whose filter holds; headers see the old status, the body the new one."""
    condition = {
        "status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "none"}}}
    }
    mapper = pb.ResponseMapper(
        filter=pb.AccessLogFilter(**condition),
        status_code=pb.uint32(500),
        body_format_override={"text_format_source": {"inline_string": "%RESPONSE_CODE% %LOCAL_REPLY_BODY%"}},
        headers_to_add=[added("x", "%RESPONSE_CODE%")],
    )
    direct = pb.Route(
        match=pb.RouteMatch(prefix="/"), direct_response={"status": 418, "body": {"inline_string": "tea"}}
    )
    verdict = ask(snapshot(config(direct), manager(local_reply_config={"mappers": [mapper]})))
    assert isinstance(verdict, Direct)
    assert (verdict.status, verdict.body, verdict.response[0].changes[0].value) == (500, "500 tea", "418")


# --- faults ---


def faulty(fault: pb.HttpFault, **action_: Any) -> Snapshot:
    return snapshot(config(to(**action_)), manager([filter_of("fault", fault)]))


def abort(status: int = 503, numerator: int = 100, **fields: Any) -> pb.HttpFault:
    return pb.HttpFault(abort=pb.FaultAbort(http_status=status, percentage=percent(numerator)), **fields)


def test_an_abort_and_a_delay():
    delayed = pb.FaultDelay(fixed_delay=pb.duration(1.5), percentage=percent(100))
    verdict = ask(faulty(abort(delay=delayed)))
    assert isinstance(verdict, Fault)
    assert (verdict.status, verdict.delay) == (503, 1.5)
    assert ask(faulty(pb.HttpFault(delay=delayed))).delay == 1.5


def test_a_fault_is_for_a_cluster_and_for_headers():
    some = faulty(abort(upstream_cluster="one", headers=[pb.HeaderMatcher(name="x")]), **weights(one=1, two=1))
    assert isinstance(ask(some, "/", [("x", "")], draw=0.0), Fault)
    assert isinstance(ask(some, "/", [("x", "")], draw=0.9), To)
    assert isinstance(ask(some, "/", draw=0.0), To)


def test_faults_draw_on_their_own():
    """Independent of the weights: each half has its quarter."""
    found = outcomes(faulty(abort(numerator=50), **weights(one=1, two=1)))
    assert {getattr(s.verdict, "cluster", "fault"): s.probability * 4 for s in found} == {
        "fault": 2,
        "one": 1,
        "two": 1,
    }


def test_an_abort_by_grpc_status():
    """FaultAbort.grpc_status: to others than gRPC it is an empty word, with status 200."""
    fault = pb.HttpFault(abort=pb.FaultAbort(grpc_status=3, percentage=percent(100)))
    assert (ask(faulty(fault)).status, ask(faulty(fault)).grpc_status) == (200, None)
    assert ask(faulty(fault), "/", [("content-type", "application/grpc")]).grpc_status == 3


# --- local rate limits ---


def limit(**fields: Any) -> pb.LocalRateLimit:
    bucket = {"max_tokens": 5, "tokens_per_fill": pb.uint32(2), "fill_interval": pb.duration(1)}
    return pb.LocalRateLimit(stat_prefix="x", token_bucket=bucket, **fields)


def test_a_rate_limit_is_told_where_it_is_enabled_and_enforced():
    """filter_enabled, filter_enforced: 0 % where they are not set."""
    whole = pb.RuntimeFractionalPercent(default_value=percent(100))
    found = {
        "both": limit(filter_enabled=whole, filter_enforced=whole),
        "not enforced": limit(filter_enabled=whole),
        "not enabled": limit(filter_enforced=whole),
        "no bucket": pb.LocalRateLimit(stat_prefix="x", filter_enabled=whole, filter_enforced=whole),
    }
    told = {name: ask(snapshot(config(to()), manager([filter_of("limit", one)]))).limits for name, one in found.items()}
    assert told == {"both": ("2 each 1 s, 5 at once",), "not enforced": (), "not enabled": (), "no bucket": ()}


def per(*actions: Any, **entries: str) -> pb.LocalRateLimit:
    """A limit of its own for what these actions say, 1 each 2 s; and one for all else, without bound."""
    whole = pb.RuntimeFractionalPercent(default_value=percent(100))
    found = limit(
        filter_enabled=whole, filter_enforced=whole, always_consume_default_token_bucket=pb.BoolValue(value=False)
    )
    found.token_bucket.max_tokens = 2**32 - 1
    found.rate_limits.add(actions=actions)
    bucket = {"max_tokens": 1, "tokens_per_fill": pb.uint32(1), "fill_interval": pb.duration(2)}
    pairs = [{"key": name, "value": value} for name, value in entries.items()]
    found.descriptors.add(entries=pairs, token_bucket=bucket)
    return found


BY_HEADER = {"request_headers": {"header_name": "x-a", "descriptor_key": "a"}}
IF_HEADER = {"header_value_match": {"descriptor_key": "m", "descriptor_value": "yes", "headers": [{"name": "x-b"}]}}


@pytest.mark.parametrize(
    ("one", "headers", "told"),
    [
        (per(BY_HEADER, a="1"), [("x-a", "1")], "a 1"),
        (per(BY_HEADER, a="1"), [("x-a", "2")], ""),
        (per(BY_HEADER, a=""), [("x-a", "2")], "each a"),
        (per(BY_HEADER, a=""), [], ""),
        (per(BY_HEADER, IF_HEADER, a="", m="yes"), [("x-a", "2")], ""),
        (per(BY_HEADER, IF_HEADER, a="", m="yes"), [("x-a", "2"), ("x-b", "")], "each a, m yes"),
        (per({"generic_key": {"descriptor_value": "v"}}, generic_key="v"), [], "generic_key v"),
    ],
)
def test_a_bucket_for_some_requests(one: pb.LocalRateLimit, headers: list[tuple[str, str]], told: str):
    """LocalRateLimit.descriptors: all actions must find something, and all entries must fit."""
    limits = ask(snapshot(config(to()), manager([filter_of("limit", one)])), "/", headers).limits
    assert limits == ((f"1 each 2 s, 1 at once, for {told}",) if told else ())


def test_a_bucket_for_exactly_this_comes_before_one_for_each():
    one = per(BY_HEADER, a="1")
    one.descriptors.add(entries=[{"key": "a"}], token_bucket={"max_tokens": 9, "fill_interval": pb.duration(2)})
    found = snapshot(config(to()), manager([filter_of("limit", one)]))
    said = [ask(found, "/", [("x-a", value)]).limits for value in "12"]
    assert said == [("1 each 2 s, 1 at once, for a 1",), ("1 each 2 s, 9 at once, for each a",)]


def test_the_default_bucket_counts_besides_unless_told_otherwise():
    """LocalRateLimit.always_consume_default_token_bucket."""
    one = per(BY_HEADER, a="")
    one.ClearField("always_consume_default_token_bucket")
    one.token_bucket.max_tokens = 5
    found = snapshot(config(to()), manager([filter_of("limit", one)]))
    assert len(ask(found, "/", [("x-a", "2")]).limits) == 2
    assert ask(found).limits == ("2 each 1 s, 5 at once",)


# --- CORS ---


def cors(**fields: Any) -> Snapshot:
    policy = pb.CorsPolicy(**fields)
    routes = config(to(route={"typed_per_filter_config": per_route(cors=policy)}))
    return snapshot(routes, manager([filter_of("cors", pb.Cors())]))


ORIGIN = ("origin", "http://a")
PREFLIGHT = [ORIGIN, ("access-control-request-method", "PUT")]


def test_a_preflight_is_answered_by_the_filter():
    found = cors(
        allow_origin_string_match=[{"exact": "http://a"}],
        allow_methods="PUT",
        allow_credentials=pb.true(),
        max_age="5",
        expose_headers="x",
    )
    verdict = ask(found, "/", PREFLIGHT, method="OPTIONS")
    assert isinstance(verdict, Direct)
    assert (verdict.status, dict(verdict.headers)) == (
        200,
        {
            "access-control-allow-origin": "http://a",
            "access-control-allow-credentials": "true",
            "access-control-allow-methods": "PUT",
            "access-control-max-age": "5",
            "access-control-expose-headers": "x",
        },
    )


def test_nothing_is_done_to_the_answer_to_a_preflight():
    """Unlike to other answers of filters: no headers of the route, no local reply configuration, no words of gRPC."""
    policy = per_route(cors=pb.CorsPolicy(allow_origin_string_match=[{"exact": "*"}]))
    routes = config(to(route={"typed_per_filter_config": policy, "response_headers_to_add": [added("x", "1")]}))
    found = snapshot(routes, manager([filter_of("cors", pb.Cors())]))
    verdict = ask(found, "/", [*PREFLIGHT, ("content-type", "application/grpc")], method="OPTIONS")
    assert isinstance(verdict, Direct)
    assert (verdict.response, verdict.grpc_status) == ((), None)


@pytest.mark.parametrize(("forward", "goes_on"), [(None, True), (True, True), (False, False)])
def test_a_preflight_of_another_origin(forward: bool | None, goes_on: bool):
    """CorsPolicy.forward_not_matching_preflights."""
    fields = {} if forward is None else {"forward_not_matching_preflights": pb.BoolValue(value=forward)}
    found = cors(allow_origin_string_match=[{"exact": "http://b"}], allow_methods="PUT", expose_headers="x", **fields)
    verdict = ask(found, "/", PREFLIGHT, method="OPTIONS")
    assert isinstance(verdict, To) is goes_on
    if isinstance(verdict, Direct):
        assert verdict.headers == (("access-control-allow-methods", "PUT"),)


def test_an_answer_for_a_page_of_an_allowed_origin():
    found = cors(allow_origin_string_match=[{"exact": "*"}], expose_headers="x")
    assert ask(found, "/", [ORIGIN]).cors == (
        ("access-control-allow-origin", "http://a"),
        ("access-control-expose-headers", "x"),
    )
    assert ask(found).cors == ()


def test_of_several_cors_policies_the_most_specific_says_whether_and_others_what_it_leaves_open():
    off, everybody = {"filter_enabled": {"default_value": percent(0)}}, {"allow_origin_string_match": [{"exact": "*"}]}

    def asked(route: dict[str, Any], host: dict[str, Any]) -> bool:
        levels = [{"typed_per_filter_config": per_route(cors=pb.CorsPolicy(**one))} for one in (route, host)]
        routes = config(to(route=levels[0]), host_typed_per_filter_config=levels[1]["typed_per_filter_config"])
        return bool(ask(snapshot(routes, manager([filter_of("cors", pb.Cors())])), "/", [ORIGIN]).cors)

    assert asked(everybody, off)
    assert not asked(off, everybody)
    assert asked({}, everybody)
    assert not asked({}, {})
