"""Random pieces of configurations: conditions, shares, and what filters are configured with."""

import random
from collections.abc import Callable
from typing import Any

from mesh import pb

CLUSTERS = ("one", "two", "three")
MIRRORS = ("copy-one", "copy-two")
MISSING = "missing"
"""A cluster that is not there."""

SEGMENTS = ("a", "b", "api", "API", "v1", "a.b", "%41", "x%20y", "")
HEADERS = ("x-a", "x-b", "X-C", "accept", "cookie", "content-type", "user-agent", "x-forwarded-host")
VALUES = ("1", "2", "a", "A", "abc", "abcabc", "a,b", "", "é", "application/grpc", "application/grpc+proto", "a=1; b=2")
QUERY = ("q", "r", "Q", "%71")
DOMAINS = (
    "api.shop", "api.shop:80", "API.shop:8080", "*.shop", "*.api.shop", "*-x.shop", "*shop", "api.*", "api.s*", "a*",
    "web", "[::1]", "[::1]:80", "*.shop:80",
)  # fmt: skip
REGEXES = ("/a.*", "/(a|b)/[a-z0-9]+", "/api(/.*)?", ".*1", "/[^/]*", "(?i)/API/.*", "/a|/b", "/\\w+(/\\w+)*/?")
VALUE_REGEXES = ("a+b?c*", "[0-9]", ".*", "(?i)abc", "a,b|1,2|1", "", "a(bc)+", "\\pL")
REWRITES = (
    ("^/a(/.*)?$", "/A\\1"), ("/", "_"), ("a", "\\0\\0"), ("x*", "-"), ("^(/[^/]*)(.*)$", "\\2\\1"), ("b$", "\\\\"),
    ("[a-z]+", ""), ("^.*$", "/all"), ("(a)|(b)", "<\\1|\\2>"), ("^", "/p"),
)  # fmt: skip

RBAC, SHADOW, FAULT, CORS, LIMIT = "test.rbac", "test.shadow", "test.fault", "test.cors", "test.limit"
RULE = "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%"
FAULT_RULE = "%DYNAMIC_METADATA(test.fault:rule)%"


class Pieces:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def maybe(self, probability: float) -> bool:
        return self.rng.random() < probability

    def some(self, most: int, make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(self.rng.randint(0, most))]

    # --- conditions ---

    def header(self) -> pb.HeaderMatcher:
        name = self.rng.choice([*HEADERS, *HEADERS, ":method", ":authority", "host", ":path", ":scheme"])
        found = pb.HeaderMatcher(name=name, invert_match=self.maybe(0.25))
        found.treat_missing_header_as_empty = self.maybe(0.2)
        choice = self.rng.random()
        if choice < 0.7:
            found.string_match.CopyFrom(self.string(pb.StringMatcher, name))
        elif choice < 0.9:
            found.present_match = self.maybe(0.6)
        return found

    def string(self, kind: Any, name: str) -> Any:
        values = {
            ":method": ("GET", "get", "POST"),
            ":authority": ("api.shop", "api.shop:80", "web"),
            "host": ("api.shop", "web"),
            ":path": ("/a", "/a?q=1", "/api"),
            ":scheme": ("http", "https"),
            "content-type": ("application/grpc", "application/grpc+proto", "text/plain"),
        }.get(name, VALUES)
        pattern = self.rng.choice(["exact", "exact", "prefix", "suffix", "contains", "safe_regex"])
        value = self.rng.choice(values)
        if pattern == "safe_regex":
            found = kind()
            found.safe_regex.regex = self.rng.choice([*VALUE_REGEXES, "GET|POST", "/a.*"]) or "|b"
            found.safe_regex.google_re2.SetInParent()  # xDS's own still demands it
            return found
        return kind(**{pattern: value or ("a" if pattern != "exact" else "")}, ignore_case=self.maybe(0.3))

    def parameter(self) -> pb.QueryParameterMatcher:
        found = pb.QueryParameterMatcher(name=self.rng.choice(QUERY))
        choice = self.rng.random()
        if choice < 0.6:
            found.string_match.CopyFrom(self.string(pb.StringMatcher, ""))
        elif choice < 0.9:
            found.present_match = self.maybe(0.6)
        return found

    # --- filters, by route ---

    def per_filter(self, level: Any, *, probability: float = 0.08) -> None:
        makers: dict[str, Callable[[], pb.Message]] = {
            RBAC: self.rbac, SHADOW: self.rbac, FAULT: self.fault, CORS: self.cors, LIMIT: self.limit,
        }  # fmt: skip
        for name, make in makers.items():
            if not self.maybe(probability):
                continue
            config: pb.Message = make()
            if self.maybe(0.3):
                wrapper = pb.FilterConfig(disabled=self.maybe(0.3))
                if not wrapper.disabled or self.maybe(0.5):
                    wrapper.config.CopyFrom(pb.any_of(config))
                config = wrapper
            level.typed_per_filter_config[name].CopyFrom(pb.any_of(config))

    def rbac(self) -> pb.RBACPerRoute:
        if self.maybe(0.2):
            return pb.RBACPerRoute()
        found = pb.RBACPerRoute(rbac=pb.HttpRbac())
        if self.maybe(0.8):
            found.rbac.matcher.CopyFrom(self.matcher())
        if self.maybe(0.5):
            found.rbac.shadow_matcher.CopyFrom(self.matcher())
        return found

    def matcher(self, depth: int = 0) -> pb.Matcher:
        rng, found = self.rng, pb.Matcher()
        if depth or self.maybe(0.9):
            for _ in range(rng.randint(1, 3)):
                entry = found.matcher_list.matchers.add(predicate=self.predicate())
                self.outcome(entry.on_match, depth)
        if not found.HasField("matcher_list") or self.maybe(0.8):
            self.outcome(found.on_no_match, depth)
        return found

    def outcome(self, outcome: Any, depth: int) -> None:
        if depth < 1 and self.maybe(0.15):
            outcome.matcher.CopyFrom(self.matcher(depth + 1))
            return
        action = self.rng.choice([pb.RbacRules.ALLOW, pb.RbacRules.ALLOW, pb.RbacRules.DENY, pb.RbacRules.LOG])
        outcome.CopyFrom(verdict_of(f"rule-{self.rng.randint(1, 9)}", action).on_no_match)

    def predicate(self, depth: int = 0) -> Any:
        kind = pb.Matcher.MatcherList.Predicate
        choice = self.rng.random() if depth < 2 else 1.0
        if choice < 0.3:
            parts = kind.PredicateList(predicate=[self.predicate(depth + 1) for _ in range(2)])
            return kind(or_matcher=parts) if choice < 0.15 else kind(and_matcher=parts)
        if choice < 0.4:
            return kind(not_matcher=self.predicate(depth + 1))
        name = self.rng.choice([*HEADERS, ":path", ":method", ":authority", "host"]).lower()
        return kind(
            single_predicate=kind.SinglePredicate(
                input=pb.XdsExtension(
                    name="input", typed_config=pb.any_of(pb.HttpRequestHeaderMatchInput(header_name=name))
                ),
                value_match=self.string(pb.XdsStringMatcher, name),
            )
        )

    def fault(self) -> pb.HttpFault:
        rng, found = self.rng, pb.HttpFault()
        if self.maybe(0.3):
            found.delay.fixed_delay.CopyFrom(pb.duration(rng.choice([0.001, 0.02])))
            found.delay.percentage.CopyFrom(self.percent())
        if self.maybe(0.7) or not found.HasField("delay"):
            if self.maybe(0.8):
                found.abort.http_status = rng.choice([418, 403, 503])
            else:
                found.abort.grpc_status = rng.choice([3, 14])
            found.abort.percentage.CopyFrom(self.percent())
        if self.maybe(0.3):
            found.filter_metadata.update({"rule": rng.choice(["fault-1", "fault-2"])})
        found.headers.extend(self.some(1, self.header))
        if self.maybe(0.2):
            found.upstream_cluster = rng.choice(CLUSTERS)
        return found

    def limit(self) -> pb.LocalRateLimit:
        """Of so many that no test reaches it."""
        found = pb.LocalRateLimit(stat_prefix="route")
        found.token_bucket.max_tokens = 1_000_000
        found.token_bucket.fill_interval.CopyFrom(pb.duration(1))
        for share in (found.filter_enabled, found.filter_enforced):
            if self.maybe(0.8):
                share.default_value.CopyFrom(self.percent())
        return found

    def cors(self) -> pb.CorsPolicy:
        rng, found = self.rng, pb.CorsPolicy()
        for origin in rng.sample(["http://a", "http://b", "*"], rng.randint(0, 2)):
            found.allow_origin_string_match.add(exact=origin)
        for name in ("allow_methods", "allow_headers", "expose_headers", "max_age"):
            if self.maybe(0.4):
                setattr(found, name, rng.choice(["10", "GET", "x-a"]))
        if self.maybe(0.4):
            found.allow_credentials.value = self.maybe(0.5)
        if self.maybe(0.3):
            found.forward_not_matching_preflights.value = self.maybe(0.5)
        if self.maybe(0.3):
            found.filter_enabled.default_value.CopyFrom(self.percent())
        return found

    def percent(self) -> pb.FractionalPercent:
        """All or nothing."""
        denominator = self.rng.choice(["HUNDRED", "TEN_THOUSAND", "MILLION"])
        most = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}[denominator]
        return pb.FractionalPercent(numerator=most if self.maybe(0.6) else 0, denominator=denominator)

    def fraction(self) -> pb.RuntimeFractionalPercent:
        return pb.RuntimeFractionalPercent(default_value=self.percent())


def verdict_of(name: str, action: int) -> pb.Matcher:
    rule = pb.XdsExtension(name=name, typed_config=pb.any_of(pb.RbacAction(name=name, action=action)))
    return pb.Matcher(on_no_match=pb.Matcher.OnMatch(action=rule))
