"""Random requests for a configuration: mostly such that a route of it is for them."""

import random
from typing import Any, NamedTuple

from mesh import pb
from tests.integration.traffic.differential.pieces import HEADERS, QUERY, SEGMENTS, VALUES

METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH")
HOSTS = (
    "api.shop", "API.shop", "api.shop:80", "api.shop:8080", "web.shop", "a-x.shop", "x.api.shop", "api.other", "web",
    "nobody", "shop", ".shop", "[::1]", "[::1]:80", "api.shop:443", "api.shop:", "a", "api.sh", "",
)  # fmt: skip
ODD_PATHS = (
    "//", "///", "/.", "/..", "/a/../b", "/a/./b", "/%2e%2E/a", "/a\\b", "/a%2fb", "/a%5Cb", "/a%00", "/%", "/%zz",
    "/a;x=1/b", "/a#f", "/a?b#f", '/"<>^`{|}', "/a//b/", "/?", "/a?", "/a??q=1", "/~-._", "/a%2", "/*", "/a?x=%2f",
)  # fmt: skip
OTHERS = (
    ("x-forwarded-proto", "https"), ("x-forwarded-proto", "http"), ("x-forwarded-proto", "ftp"),
    ("x-forwarded-for", "10.0.0.1"), ("x-request-id", "mine"), ("x-forwarded-client-cert", "By=me"),
    ("x-envoy-retry-on", "5xx"), ("x-envoy-original-path", "/o"), ("x-envoy-external-address", "1.2.3.4"),
    ("x-envoy-attempt-count", "9"), ("te", "trailers"), ("te", "gzip"), ("connection", "keep-alive"),
    ("x_under_score", "1"), ("origin", "http://a"), ("origin", "http://c"), ("access-control-request-method", "GET"),
    ("content-type", "application/grpc"), ("content-type", "application/grpc+proto"), ("content-length", "0"),
    ("keep-alive", "1"), ("x-envoy-decorator-operation", "o"), ("forwarded", "for=1"), ("date", "now"),
)  # fmt: skip


class Ask(NamedTuple):
    method: str
    path: str
    host: str
    headers: tuple[tuple[str, str], ...]


def request_for(routes: pb.RouteConfiguration, rng: random.Random) -> Ask:
    host = rng.choice(HOSTS)
    method, path, headers = rng.choice(METHODS), _path(rng), []
    if rng.random() < 0.8:
        virtual = rng.choice(routes.virtual_hosts)
        if rng.random() < 0.8:
            host = _host(rng.choice(virtual.domains), rng)
        match = rng.choice(virtual.routes).match
        path = _path_for(match, rng)
        method, host, headers = _for_headers(match, method, host, rng)
        path = _with_query(path, match, rng)
    elif rng.random() < 0.5:
        path = _with_query(path, pb.RouteMatch(), rng)
    if rng.random() < 0.1:
        path = rng.choice(ODD_PATHS)
    for _ in range(rng.randint(0, 3)):
        headers.append((rng.choice(HEADERS), rng.choice(VALUES)))
    headers += rng.sample(OTHERS, rng.choice([0, 0, 1, 2]))
    if method == "OPTIONS" and rng.random() < 0.5:
        headers += [("origin", rng.choice(["http://a", "http://c", ""])), ("access-control-request-method", "PUT")]
    rng.shuffle(headers)
    return Ask(method, path, host, tuple(headers))


def _host(domain: str, rng: random.Random) -> str:
    if domain == "*":
        return rng.choice(HOSTS)
    found = domain.replace("*", rng.choice(["x", "api", "a.b", ""]))
    found = found.upper() if rng.random() < 0.2 else found
    return found + rng.choice([":80", ":9", ":x"]) if rng.random() < 0.2 else found


def _path(rng: random.Random) -> str:
    return "/" + "/".join(rng.choice(SEGMENTS) for _ in range(rng.randint(0, 4)))


def _path_for(match: pb.RouteMatch, rng: random.Random) -> str:
    kind = match.WhichOneof("path_specifier")
    if kind == "safe_regex":
        return rng.choice(["/a", "/b", "/a/b", "/api/v1", "/API/x", "/a/1", "/api", "/b/v1", _path(rng)])
    found = getattr(match, kind)
    if rng.random() < 0.2:
        found = found.swapcase()
    if kind == "path" and rng.random() < 0.8:
        return found
    return found + rng.choice(["", "", "/", "/b", "x", "/a/b/", "/../b"])


def _for_headers(match: Any, method: str, host: str, rng: random.Random) -> tuple[str, str, list[tuple[str, str]]]:
    headers: list[tuple[str, str]] = []
    for matcher in match.headers:
        if rng.random() < 0.2:
            continue
        value = _value_for(matcher.string_match, rng) if matcher.HasField("string_match") else rng.choice(VALUES)
        match matcher.name:
            case ":method":
                method = value if value in METHODS else method
            case ":authority" | "host":
                host = value if value.isascii() and " " not in value else host
            case ":path" | ":scheme":
                pass
            case name:
                headers += [(name, value)] if rng.random() < 0.8 else [(name, value), (name, rng.choice(VALUES))]
    if match.HasField("grpc"):
        headers.append(("content-type", "application/grpc"))
    return method, host, headers


def _value_for(matcher: Any, rng: random.Random) -> str:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        return rng.choice(["abc", "1", "aabcc", "ABC", "abcbc", ""])
    found = str(getattr(matcher, kind))
    found = found.swapcase() if rng.random() < 0.3 else found
    before = rng.choice(["", "x"]) if kind in {"suffix", "contains"} else ""
    return before + found + (rng.choice(["", "x"]) if kind in {"prefix", "contains"} else "")


def _with_query(path: str, match: Any, rng: random.Random) -> str:
    pairs = [
        f"{p.name}={_value_for(p.string_match, rng)}" if p.HasField("string_match") else p.name
        for p in match.query_parameters
        if rng.random() < 0.8
    ]
    pairs += [f"{rng.choice(QUERY)}={rng.choice(['1', 'a', '', '%41'])}" for _ in range(rng.choice([0, 0, 1, 2]))]
    rng.shuffle(pairs)
    pairs = [pair for pair in pairs if pair.isascii() and " " not in pair]
    return path + "?" + "&".join(pairs) + rng.choice(["", "&"]) if pairs else path
