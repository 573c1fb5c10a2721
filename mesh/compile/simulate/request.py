"""A request as it arrives, and what the connection manager makes of it before it looks for a route."""

import re
from dataclasses import dataclass, replace
from typing import Any

from mesh import pb
from mesh.compile.simulate import paths
from mesh.compile.simulate.fields import known
from mesh.compile.simulate.headers import REQUEST_SINGLE, joined, value_of
from mesh.compile.simulate.text import lower, words
from mesh.compile.simulate.verdict import PROXY_MADE, Headers, Unsupported

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

_METHODS = words(
    """GET HEAD POST PUT DELETE OPTIONS TRACE PATCH COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND
    UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK UNLINK
    SOURCE"""
)
"""That Envoy's HTTP/1 codec takes. CONNECT is another matter."""

_TARGET = re.compile(r"/[!-~]*\Z")
_HOST = re.compile(r"[A-Za-z0-9!$%&'()*+,\-.:;=@\[\]_~]*\Z")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+\Z")
_PORT = re.compile(r"[0-9]{1,9}\Z")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f]")

_OF_THE_CONNECTION = frozenset({"connection", "keep-alive", "proxy-connection"})
_NOT_SIMULATED = frozenset({"upgrade", "expect", "transfer-encoding", "http2-settings"})

# Nobody outside may tell Envoy how to treat a request (its "HTTP header sanitizing").
_INTERNAL = words(
    """x-envoy-expected-rq-timeout-ms x-envoy-force-trace x-envoy-hedge-on-per-try-timeout x-envoy-internal
    x-envoy-ip-tags x-envoy-max-retries x-envoy-original-url x-envoy-retriable-header-names
    x-envoy-retriable-status-codes x-envoy-retry-grpc-on x-envoy-retry-on x-envoy-upstream-alt-stat-name
    x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-alt-response x-envoy-upstream-rq-timeout-ms
    x-envoy-upstream-stream-duration-ms"""
)
_EDGE = words(
    """x-envoy-decorator-operation x-envoy-downstream-service-cluster x-envoy-downstream-service-node
    x-envoy-external-address x-envoy-original-host x-envoy-original-path x-forwarded-proto"""
)
"""Besides, where the address of the connection is the caller's."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """With its query."""
    host: str
    headers: Headers = ()
    scheme: str = "http"
    caller: str = ""
    """SPIFFE id in the certificate; empty: no certificate."""
    made: frozenset[str] = frozenset()
    """Headers that it has by now with values that are not foretold."""

    def header(self, name: str) -> str | None:
        """All values joined by commas; None: there is none."""
        found = self.values(name)
        return ",".join(found) if found else None

    def values(self, name: str) -> tuple[str, ...]:
        """One by one, as far as Envoy keeps them so."""
        name = lower(name)
        if name in self.made:
            raise Unsupported("envoy.config.route.v3.HeaderMatcher.name", f"the proxy makes {name}")
        match name:
            case ":method":
                return (self.method,)
            case ":path":
                return (self.path,)
            case ":authority" | "host":
                return (self.host,)
            case ":scheme":
                return (self.scheme,)
            case _:
                return tuple(value for other, value in self.headers if other == name)

    @property
    def grpc(self) -> bool:
        """application/grpc, or with a +suffix."""
        found = value_of(self.headers, "content-type") or ""
        return found == "application/grpc" or found.startswith("application/grpc+")


@dataclass(frozen=True, slots=True)
class Refused:
    """Answered with 400 before any filter saw it."""

    body: str = ""
    grpc: bool = False
    looked: Request | None = None
    """As a route is looked for nevertheless, for the answer's headers; None: not even that."""


def received(hcm: Any, request: Request) -> Request | Refused:
    """What routes and filters see of it."""
    if not _well_formed(request):
        return _MALFORMED
    headers = joined(((lower(name), value.strip(" \t")) for name, value in request.headers), REQUEST_SINGLE)
    _check_simulated(headers)
    kept = _underscores(hcm.common_http_protocol_options, headers)
    if kept is None:
        return _MALFORMED
    path, refused = _path(hcm, request.path)
    looked = replace(request, path=path, headers=kept)
    if refused:
        # Without a scheme Envoy finds no route, and this early only the caller can have told one.
        told = value_of(kept, "x-forwarded-proto")
        return Refused(grpc=looked.grpc, looked=looked if told else None)
    host = _without_port(request.host) if hcm.strip_any_host_port else request.host
    return _sanitized(hcm, replace(looked, host=host))


_MALFORMED = Refused("Bad Request")


def _well_formed(request: Request) -> bool:
    """For Envoy's HTTP/1 codec."""
    if request.method not in _METHODS:
        raise Unsupported("method", request.method)
    if request.path == "*":
        raise Unsupported("path", "*")
    for name, _ in request.headers:
        if name.startswith(":") or lower(name) == "host":
            raise Unsupported("header", f"{name} has an argument of its own")
    return (
        _TARGET.match(request.path) is not None
        and _HOST.match(request.host) is not None
        and all(_NAME.match(name) and not _BAD_VALUE.search(value) for name, value in request.headers)
    )


def _check_simulated(headers: Headers) -> None:
    for name, value in headers:
        if name in _NOT_SIMULATED:
            raise Unsupported("header", name)
        if name == "connection" and not {lower(t.strip()) for t in value.split(",")} <= {"keep-alive", "close"}:
            raise Unsupported("header", f"connection: {value}")


def _underscores(options: Any, headers: Headers) -> Headers | None:
    """None: such a request is refused."""
    known(options)
    action = options.headers_with_underscores_action
    if action == pb.HttpProtocolOptions.ALLOW:
        return headers
    kept = tuple(pair for pair in headers if "_" not in pair[0])
    return None if action == pb.HttpProtocolOptions.REJECT_REQUEST and kept != headers else kept


def _path(hcm: Any, target: str) -> tuple[str, bool]:
    """As far as it was normalized, and whether it is refused."""
    action = hcm.path_with_escaped_slashes_action
    if action not in _SLASHES:
        raise Unsupported(f"{_HCM}.path_with_escaped_slashes_action", str(action))
    if "#" in target:
        return target, True
    if action in _UNESCAPING and paths.has_escaped_slash(target):
        target = paths.unescape_slashes(target)
        if action == pb.HttpConnectionManager.REJECT_REQUEST:
            return target, True
    found = paths.normalize(target) if hcm.normalize_path.value else target
    if found is None:
        return target, True
    return (paths.merge_slashes(found) if hcm.merge_slashes else found), False


_UNESCAPING = {pb.HttpConnectionManager.REJECT_REQUEST, pb.HttpConnectionManager.UNESCAPE_AND_FORWARD}
_SLASHES = {
    pb.HttpConnectionManager.IMPLEMENTATION_SPECIFIC_DEFAULT,  # it is: keep them
    pb.HttpConnectionManager.KEEP_UNCHANGED,
    *_UNESCAPING,
}


def port_start(host: str) -> int:
    """Where the port's colon is; -1: there is none."""
    place = host.rfind(":")
    return place if place > host.rfind("]") else -1


def _without_port(host: str) -> str:
    place = port_start(host)
    return host[:place] if place >= 0 and _PORT.match(host, place + 1) else host


def _sanitized(hcm: Any, request: Request) -> Request:
    """Without what the caller may not say, and with what the proxy says."""
    edge = _edge(hcm)
    gone = _OF_THE_CONNECTION | _INTERNAL | (_EDGE if edge else frozenset()) | {"x-forwarded-client-cert"}
    headers = tuple(pair for pair in request.headers if pair[0] not in gone)
    if (te := value_of(headers, "te")) is not None:
        headers = tuple(pair for pair in headers if pair[0] != "te")
        headers += (("te", "trailers"),) if "trailers" in {token.strip() for token in te.split(",")} else ()
    made = set()
    if edge:
        made.add("x-envoy-external-address")
    if _shows_certificate(hcm) and request.caller:
        made.add("x-forwarded-client-cert")
    if value_of(headers, "x-request-id") is None or (edge and not hcm.preserve_external_request_id):
        headers = tuple(pair for pair in headers if pair[0] != "x-request-id")
        made.add("x-request-id")
    transport = "https" if request.caller else "http"
    said = value_of(headers, "x-forwarded-proto")
    if said is None:
        headers = (*headers, ("x-forwarded-proto", transport))
    scheme = said if said in {"http", "https"} else transport
    assert made <= PROXY_MADE
    return replace(request, headers=headers, scheme=scheme, made=frozenset(made))


def _edge(hcm: Any) -> bool:
    """Is the caller's address the connection's? Then nobody is internal, where the configuration says so."""
    if hcm.HasField("internal_address_config"):
        known(hcm.internal_address_config)
        if [(r.address_prefix, r.prefix_len.value) for r in hcm.internal_address_config.cidr_ranges] != _NOBODY:
            raise Unsupported(f"{_HCM}.internal_address_config", "callers' addresses are not known here")
    if hcm.use_remote_address.value and not hcm.skip_xff_append:
        raise Unsupported(f"{_HCM}.skip_xff_append", "callers' addresses are not known here")
    return bool(hcm.use_remote_address.value)


_NOBODY = [("255.255.255.255", 32)]


def _shows_certificate(hcm: Any) -> bool:
    action = hcm.forward_client_cert_details
    if action not in {pb.HttpConnectionManager.SANITIZE, pb.HttpConnectionManager.SANITIZE_SET}:
        raise Unsupported(f"{_HCM}.forward_client_cert_details", str(action))
    return bool(action == pb.HttpConnectionManager.SANITIZE_SET)
