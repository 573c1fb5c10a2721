"""Route kinds and TrafficPolicy: what of a manifest is taken, and what is refused where."""

import pytest
import re2
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mesh import codec, validate
from mesh.model import GRPCRoute, HTTPRoute, Object, ReferenceGrant, TCPRoute, TrafficPolicy, Violation
from mesh.model.duration import duration_fault, seconds
from mesh.model.regex import MAX_PROGRAM, literal, regex_fault

PARENT = "parentRefs: [{group: '', kind: Service, name: api, port: 80}]"


def read(text: str) -> Object | tuple[Violation, ...]:
    return codec.decode_strict(yaml.safe_load(text))


def http(rules: str, head: str = PARENT) -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: shop}}
spec:
  {head}
  rules: {rules}
"""


def faults(text: str) -> dict[str, str]:
    """Path -> reason, of the decoder or of the checks."""
    found = read(text)
    violations = found if isinstance(found, tuple) else validate.validate(found)
    return {v.path: v.reason for v in violations}


def test_a_manifest_from_a_cluster_is_taken_verbatim():
    found = read("""
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata:
  name: split.v1
  namespace: shop
  uid: 0b3f
  generation: 3
  creationTimestamp: "2024-01-01T00:00:00Z"
  managedFields: [{manager: kubectl}]
spec:
  parentRefs:
  - {group: "", kind: Service, name: api}
  rules:
  - name: canary
    matches:
    - path: {type: PathPrefix, value: /v2}
      headers: [{name: Version, value: two}, {name: X, type: RegularExpression, value: "a+"}]
      queryParams: [{name: q, value: "1"}]
      method: GET
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: A, value: b}], add: [{name: C, value: d}], remove: [E]}
    - type: RequestMirror
      requestMirror: {backendRef: {name: shadow, port: 80}, percent: 10}
    - type: URLRewrite
      urlRewrite: {hostname: x.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs:
    - {name: api-v1, port: 80, weight: 90}
    - name: api-v2
      port: 80
      weight: 10
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Y]}}]
    timeouts: {request: 1h30m, backendRequest: 500ms}
    retry: {attempts: 3, codes: [500, 503], backoff: 100ms}
status: {parents: []}
""")
    assert isinstance(found, HTTPRoute), found
    assert validate.validate(found) == ()
    assert found.api_version == "gateway.networking.k8s.io/v1"
    rule = found.spec.rules[0]
    assert [b.weight for b in rule.backend_refs] == [90, 10]
    assert rule.matches[0].headers[0].type == "Exact"
    again = codec.decode("HTTPRoute", codec.encode(found))
    assert codec.encode(again) == codec.encode(found)


def test_the_other_kinds_are_taken():
    found = [
        read("""
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: g, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api, port: 7070}]
  rules: [{matches: [{method: {service: a.B, method: C}}], backendRefs: [{name: api, port: 7070}]}]
"""),
        read("""
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: t, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: db}]
  rules: [{backendRefs: [{name: db-1, port: 5432, weight: 3}, {name: db-2, port: 5432}]}]
"""),
        read("""
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}]
  to: [{group: "", kind: Service, name: api}]
"""),
        read("""
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {name: p, namespace: shop}
spec:
  target: {service: api, port: 80}
  loadBalancing: {algorithm: RingHash, hash: [{header: x-user}, {cookie: {name: s, ttl: 0s}}], panicPercent: 50}
  locality: {failover: [eu/a, us], weights: [{locality: eu, weight: 3}]}
  circuitBreaking: {maxConnections: 10}
  outlierDetection: {consecutiveErrors: 5}
  timeouts: {connect: 1s, request: 0s}
  retries: {attempts: 3, retryOn: [gateway-error], budget: {percent: 10}}
  healthCheck: {type: http, path: /healthz}
  subsets: [{name: v2, labels: {version: v2}}]
  rateLimits: [{name: all, requests: 100, window: 1s, by: Caller, match: {pathPrefix: /x, methods: [GET]}}]
  faults: [{name: slow, delay: {duration: 1s, percent: 0.5}, callers: [shop/web]}]
"""),
    ]
    assert [type(obj) for obj in found] == [GRPCRoute, TCPRoute, ReferenceGrant, TrafficPolicy], found
    assert [validate.validate(obj) for obj in found if isinstance(obj, Object)] == [()] * 4
    grant = found[2]
    assert isinstance(grant, ReferenceGrant)
    assert grant.allows("HTTPRoute", "web", ("", "Service"), "api")
    assert not grant.allows("HTTPRoute", "web", ("", "Service"), "db")
    assert not grant.allows("TCPRoute", "web", ("", "Service"), "api")
    assert not grant.allows("HTTPRoute", "other", ("", "Service"), "api")


@pytest.mark.parametrize(
    ("rules", "path", "reason"),
    [
        ("[{backendRefs: [{name: api}]}]", "spec.rules[0].backendRefs[0].port", "is missing"),
        (
            "[{backendRefs: [{group: holdfast.dev, kind: ServiceSubset, name: api, port: 80}]}]",
            "spec.rules[0].backendRefs[0].name",
            "is not <service>.<subset>",
        ),
        (
            "[{backendRefs: [{group: holdfast.dev, kind: ServiceSubset, name: api.v1}]}]",
            "spec.rules[0].backendRefs[0].port",
            "is missing",
        ),
        ("[{backendRefs: [{name: api, port: 80, weight: -1}]}]", "spec.rules[0].backendRefs[0].weight", "not within"),
        ("[{matches: [{path: {value: a}}]}]", "spec.rules[0].matches[0].path.value", "not an absolute path"),
        ("[{matches: [{path: {value: /a//b}}]}]", "spec.rules[0].matches[0].path.value", "contains '//'"),
        ("[{matches: [{path: {value: /a/%2F}}]}]", "spec.rules[0].matches[0].path.value", "contains '%2F'"),
        ("[{matches: [{path: {type: RegularExpression, value: '(a'}}]}]", "spec.rules[0].matches[0].path.value", "RE2"),
        (
            "[{matches: [{path: {type: RegularExpression, value: '(?=a)'}}]}]",
            "spec.rules[0].matches[0].path.value",
            "RE2",
        ),
        (
            "[{matches: [{path: {type: RegularExpression, value: '((a{1,9}){1,9}){1,9}x{900}'}}]}]",
            "spec.rules[0].matches[0].path.value",
            "too complex",
        ),
        ("[{matches: [{headers: [{name: 'a b', value: c}]}]}]", "spec.rules[0].matches[0].headers[0].name", "header"),
        (
            "[{matches: [{headers: [{name: a, value: '', type: RegularExpression}]}]}]",
            "spec.rules[0].matches[0].headers[0].value",
            "",
        ),
        (
            "[{filters: [{type: CORS, cors: {allowCredentials: true, allowHeaders: ['*']}}]}]",
            "spec.rules[0].filters[0].cors.allowHeaders",
            "credentials",
        ),
        ("[{filters: [{type: CORS}]}]", "spec.rules[0].filters[0].cors", "is missing"),
        (
            "[{filters: [{type: URLRewrite, urlRewrite: {hostname: x}, cors: {}}]}]",
            "spec.rules[0].filters[0].cors",
            "belongs to a filter of type CORS",
        ),
        (
            "[{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}]",
            "spec.rules[0].filters[0].urlRewrite.path",
            "exactly one match",
        ),
        (
            "[{filters: [{type: RequestRedirect, requestRedirect: {port: 99999}}]}]",
            "spec.rules[0].filters[0].requestRedirect.port",
            "not a port",
        ),
        (
            "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Envoy-A]}}]}]",
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
            "proxies' own",
        ),
        (
            "[{filters: [{type: ExtensionRef, extensionRef: {name: x}}]}]",
            "spec.rules[0].filters[0].type",
            "cannot be honoured",
        ),
        (
            "[{backendRefs: [{name: a, port: 1, filters: [{type: RequestMirror}]}]}]",
            "spec.rules[0].backendRefs[0].filters[0].type",
            "put it into the rule's filters",
        ),
        (
            "[{backendRefs: [{name: a, port: 1, filters: [{type: ExtensionRef, extensionRef: {}}]}]}]",
            "spec.rules[0].backendRefs[0].filters[0].type",
            "ExtensionRef cannot be honoured",
        ),
        ("[{matches: [{method: CONNECT}]}]", "spec.rules[0].matches[0].method", "cannot be honoured"),
        ("[{timeouts: {request: 1s, backendRequest: 2s}}]", "spec.rules[0].timeouts.backendRequest", "longer"),
        ("[{timeouts: {request: '10'}}]", "spec.rules[0].timeouts.request", "not a duration"),
        ("[{retry: {attempts: 1000}}]", "spec.rules[0].retry.attempts", "not within"),
        ("[{sessionPersistence: {type: Cookie}}]", "spec.rules[0].sessionPersistence", "cannot be honoured"),
        ("[{name: a}, {name: a}]", "spec.rules[1].name", "twice"),
        ("[]", "spec.rules", "at least 1"),
        ("[{surprise: 1}]", "spec.rules[0].surprise", "unknown field"),
    ],
)
def test_what_a_rule_cannot_have(rules: str, path: str, reason: str):
    found = faults(http(rules))
    assert path in found, found
    assert reason in found[path]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (r"type: RegularExpression, service: '\Qfoo'", "RE2"),
        ("type: RegularExpression, service: '[a-z]{900}', method: '[a-z]{900}'", "too complex"),
        (f"method: {'m' * 1024}", "1024"),
    ],
)
def test_service_and_method_must_be_sound_together(method: str, reason: str):
    found = faults(http(f"[{{matches: [{{method: {{{method}}}}}]}}]").replace("HTTPRoute", "GRPCRoute"))
    assert reason in found.get("spec.rules[0].matches[0].method", ""), found


@pytest.mark.parametrize(
    ("head", "path"),
    [
        ("parentRefs: [{name: gw}]", "spec.parentRefs[0].kind"),
        ("parentRefs: [{group: '', kind: Service, name: a.b}]", "spec.parentRefs[0].name"),
        ("parentRefs: []", "spec.parentRefs"),
        (
            "parentRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a, port: 80}]",
            "spec.parentRefs[0]",
        ),
        (f"{PARENT}\n  hostnames: [a.test]", "spec.hostnames"),
        (f"{PARENT}\n  useDefaultGateways: All", "spec.useDefaultGateways"),
    ],
)
def test_what_a_route_cannot_hang_on(head: str, path: str):
    assert path in faults(http("[{}]", head))


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("loadBalancing: {algorithm: Maglev}", "spec.loadBalancing.hash"),
        ("loadBalancing: {hash: [{header: x}]}", "spec.loadBalancing.hash"),
        ("loadBalancing: {algorithm: Maglev, hash: [{}]}", "spec.loadBalancing.hash[0]"),
        ("loadBalancing: {algorithm: Random, slowStart: {window: 1s}}", "spec.loadBalancing.slowStart"),
        ("loadBalancing: {panicPercent: 101}", "spec.loadBalancing.panicPercent"),
        ("circuitBreaking: {maxConnections: -1}", "spec.circuitBreaking.maxConnections"),
        ("outlierDetection: {maxEjection: 1s}", "spec.outlierDetection.maxEjection"),
        ("locality: {failover: [a//b]}", "spec.locality.failover[0]"),
        ("timeouts: {connect: 0s}", "spec.timeouts.connect"),
        ("retries: {retryOn: [everything]}", "spec.retries.retryOn[0]"),
        ("retries: {attempts: 99999999999}", "spec.retries.attempts"),
        ("subsets: [{name: v1, labels: {}}]", "spec.subsets[0].labels"),
        ("rateLimits: [{name: a, requests: 0}]", "spec.rateLimits[0].requests"),
        ("faults: [{name: a}]", "spec.faults[0]"),
        ("faults: [{name: a, abort: {status: 500, grpcStatus: 3}}]", "spec.faults[0].abort"),
        ("faults: [{name: a, delay: {duration: 1s, percent: -5}}]", "spec.faults[0].delay.percent"),
        ("target: {service: ../x}", "spec.target.service"),
        (
            f"faults: [{{name: a, abort: {{status: 500}}, match: {{pathPrefix: '/{'a' * 1020}'}}}}]",
            "spec.faults[0].match.pathPrefix",
        ),
    ],
)
def test_what_a_policy_cannot_say(spec: str, path: str):
    target = "" if spec.startswith("target") else "target: {service: api}\n  "
    found = faults(f"""
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: p, namespace: shop}}
spec:
  {target}{spec}
""")
    assert path in found, found


def test_durations():
    assert [seconds(text) for text in ("0s", "500ms", "1h30m", "1m1s1ms")] == [0.0, 0.5, 5400.0, 61.001]
    for bad in ("", "1", "1d", "s", "-1s", "1.5s", "1s1s1s1s1s", "999999s"):
        assert "not a duration" in duration_fault(bad)
    assert "longer" in duration_fault("2s", 0, 1)
    assert "shorter" in duration_fault("1ms", 1)


def test_regular_expressions_are_those_of_envoy():
    assert regex_fault("/v[0-9]+/.*") == ""
    assert "RE2" in regex_fault(r"(a)\1")
    assert "RE2" in regex_fault(r"\x{100}")  # a character is a byte
    assert regex_fault(r"[\x{80}-\x{ff}]é") == ""
    assert "UTF-8" in regex_fault("\ud800")
    assert "1024" in regex_fault("a" * 2000)
    assert str(MAX_PROGRAM) in regex_fault("a{1000}b{1000}")


@given(st.text(max_size=20))
def test_a_text_as_an_expression_is_written_as_the_library_writes_it(text: str):
    assert literal(text) == re2.escape(text)
