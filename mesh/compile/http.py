"""HTTP connection managers, filters and replies, as all our listeners have them."""

from dataclasses import dataclass

from mesh import pb
from mesh.compile import access, names
from mesh.compile.parts import ADS, CONNECTION_WINDOW, STREAM_WINDOW, http_filter, network_filter, ping

RBAC_FILTER = "holdfast.rbac"
RULE_FILTER = "holdfast.rule"
CORS_FILTER = "envoy.filters.http.cors"
FAULT_FILTER = "envoy.filters.http.fault"

FAULT = f"%DYNAMIC_METADATA({FAULT_FILTER}:{names.RULE_KEY})%"
"""The fault that was injected, if one was."""

RULE = "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%"
"""The rule that decided; also of an allowed request."""

FORBIDDEN = 403
_NOBODY = pb.CidrRange(address_prefix="255.255.255.255", prefix_len=pb.uint32(32))  # an empty list means: private ones
STREAM_IDLE_SECONDS = 3600.0
"""A stream on which nothing moves for so long is ended: long enough for quiet gRPC and WebSocket streams."""


@dataclass(frozen=True, slots=True)
class Manager:
    """What differs between our connection managers."""

    stat_prefix: str
    route: str
    log: pb.AccessLog
    filters: tuple[pb.HttpFilter, ...] = ()
    replies: tuple[pb.ResponseMapper, ...] = ()
    inbound: bool = True
    grpc: bool = False
    http2_only: bool = False
    stream_idle_seconds: float = STREAM_IDLE_SECONDS
    idle_seconds: float = 3600.0
    """How long a connection without a stream is kept."""
    max_streams: int = 1024


def manager(spec: Manager) -> pb.Filter:
    hcm = pb.HttpConnectionManager(
        codec_type=pb.HttpConnectionManager.HTTP2 if spec.http2_only else pb.HttpConnectionManager.AUTO,
        stat_prefix=spec.stat_prefix,
        rds=pb.Rds(config_source=ADS, route_config_name=spec.route),
        http_filters=[*spec.filters, _router()],
        access_log=[spec.log],
        common_http_protocol_options=pb.HttpProtocolOptions(
            idle_timeout=pb.duration(spec.idle_seconds),
            max_headers_count=pb.uint32(128),
            headers_with_underscores_action=_underscores(spec),
        ),
        http2_protocol_options=pb.Http2ProtocolOptions(
            max_concurrent_streams=pb.uint32(spec.max_streams),
            initial_stream_window_size=pb.uint32(STREAM_WINDOW),
            initial_connection_window_size=pb.uint32(CONNECTION_WINDOW),
            allow_connect=not spec.http2_only,
            connection_keepalive=ping(30, 10),
        ),
        max_request_headers_kb=pb.uint32(64),
        request_headers_timeout=pb.duration(15),
        stream_idle_timeout=pb.duration(spec.stream_idle_seconds),
        server_header_transformation=pb.HttpConnectionManager.PASS_THROUGH,
        local_reply_config=pb.LocalReplyConfig(mappers=spec.replies),
    )
    if not spec.http2_only:
        hcm.upgrade_configs.append(pb.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket"))
    if spec.inbound:
        _guard(hcm)
    return network_filter("envoy.filters.network.http_connection_manager", hcm)


def _guard(hcm: pb.HttpConnectionManager) -> None:
    """What a caller of the mesh may say of itself: only what its certificate says."""
    hcm.forward_client_cert_details = pb.HttpConnectionManager.SANITIZE_SET
    hcm.set_current_client_cert_details.CopyFrom(pb.HttpConnectionManager.SetCurrentClientCertDetails(uri=True))
    # Nobody is internal, so nobody's x-envoy-* headers set our retries and timeouts.
    hcm.use_remote_address.CopyFrom(pb.true())
    hcm.skip_xff_append = True
    hcm.internal_address_config.CopyFrom(pb.HttpConnectionManager.InternalAddressConfig(cidr_ranges=[_NOBODY]))
    hcm.preserve_external_request_id = True
    # One spelling of a path for rules and application; an escaped slash has two readings, so it is refused.
    hcm.normalize_path.CopyFrom(pb.true())
    hcm.merge_slashes = True
    hcm.path_with_escaped_slashes_action = pb.HttpConnectionManager.REJECT_REQUEST


def _underscores(spec: Manager) -> int:
    """Applications in the CGI tradition read x_forwarded_client_cert as x-forwarded-client-cert.

    gRPC's keys may have underscores, and nobody reads those so.
    """
    if spec.inbound and not spec.grpc:
        return int(pb.HttpProtocolOptions.DROP_HEADER)
    return int(pb.HttpProtocolOptions.ALLOW)


def _router() -> pb.HttpFilter:
    return http_filter("envoy.filters.http.router", pb.Router(suppress_envoy_headers=True))


def rbac_filters(matcher: pb.Matcher | None = None) -> tuple[pb.HttpFilter, ...]:
    """They deny everything, unless the route says otherwise.

    Envoy's filter leaves the name of the rule only after it has written its refusal. So one before it looks the rules
    up and decides nothing (shadow rules), and the refusal can name the rule.
    """
    rules = matcher or access.deny_all()
    return tuple(http_filter(name, config) for name, config in _rbac(rules).items())


def _rbac(rules: pb.Matcher) -> dict[str, pb.HttpRbac]:
    return {RULE_FILTER: pb.HttpRbac(shadow_matcher=rules), RBAC_FILTER: pb.HttpRbac(matcher=rules)}


def denial_reply() -> pb.ResponseMapper:
    """A refusal names its rule, in the body and in a header."""
    return pb.ResponseMapper(
        # A local reply of 403 is RBAC's; Envoy sets no flag for it.
        filter=_status(FORBIDDEN),
        body_format_override=_text(f"holdfast: denied by {RULE}\n"),
        headers_to_add=[set_header(names.DENIED_BY, RULE)],
    )


def unanswered_replies() -> tuple[pb.ResponseMapper, ...]:
    """The calling proxy may try elsewhere: whatever it is if no application saw it, else what may be repeated.

    Without the second, who calls an application that dies with a request in its hands is told so by a proxy that
    lives, and a reset is something else than an answer.
    """
    return (_flagged(names.UNREACHED, "UF"), _flagged(names.BROKEN, "UC", "UR"))


def _flagged(header: str, *flags: str) -> pb.ResponseMapper:
    return pb.ResponseMapper(
        filter=pb.AccessLogFilter(response_flag_filter={"flags": flags}), headers_to_add=[set_header(header, "true")]
    )


def fault_reply() -> pb.ResponseMapper:
    """An injected failure says that it is one, and which."""
    return pb.ResponseMapper(
        filter=pb.AccessLogFilter(response_flag_filter={"flags": ["FI"]}),
        body_format_override=_text(f"holdfast: fault {FAULT}\n"),
        headers_to_add=[set_header(names.FAULT, FAULT)],
    )


def _status(code: int) -> pb.AccessLogFilter:
    value = pb.RuntimeUInt32(default_value=code, runtime_key="holdfast.no_such_key")
    return pb.AccessLogFilter(status_code_filter={"comparison": {"op": "EQ", "value": value}})


def _text(inline: str) -> pb.SubstitutionFormatString:
    return pb.SubstitutionFormatString(text_format_source=pb.DataSource(inline_string=inline))


def set_header(name: str, value: str) -> pb.HeaderValueOption:
    return pb.HeaderValueOption(
        header=pb.HeaderValue(key=name, value=value),
        append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def route_config(
    name: str, *routes: pb.Route, rules: pb.Matcher | None = None, **host: object
) -> pb.RouteConfiguration:
    """One virtual host for all names; the first route that matches counts."""
    virtual = pb.VirtualHost(name="all", domains=["*"], routes=routes, **host)
    if rules is not None:
        for filter_name, config in _rbac(rules).items():
            virtual.typed_per_filter_config[filter_name].CopyFrom(pb.any_of(pb.RBACPerRoute(rbac=config)))
    return pb.RouteConfiguration(name=name, virtual_hosts=[virtual])


def to_cluster(cluster: str, retry: pb.RetryPolicy | None = None, *, seconds: float = 0) -> pb.Route:
    """Everything. How long an answer may take, only the application knows, unless somebody says so; 0: no limit."""
    action = pb.RouteAction(cluster=cluster, timeout=pb.duration(seconds))
    if retry is not None:
        action.retry_policy.CopyFrom(retry)
    return pb.Route(match=pb.RouteMatch(prefix="/"), route=action)


IDEMPOTENT = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"
"""Requests that may be repeated without harm (RFC 9110, 9.2.2)."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What is tried again, of requests that may be repeated without harm, and of all others."""

    idempotent: pb.RetryPolicy
    other: pb.RetryPolicy
    seconds: float = 0.0
    """For the whole request, with all tries; 0: without limit."""


def idempotent(route: pb.Route) -> pb.Route:
    """The same for requests that may be repeated without harm alone."""
    methods = pb.StringMatcher(safe_regex=pb.RegexMatcher(regex=IDEMPOTENT))
    route.match.headers.append(pb.HeaderMatcher(name=":method", string_match=methods))
    return route


def answer(status: int, reason: str) -> pb.Route:
    """Said by the proxy itself, with a reason for people."""
    body = pb.DataSource(inline_string=f"holdfast: {reason}\n")
    return pb.Route(match=pb.RouteMatch(prefix="/"), direct_response=pb.DirectResponseAction(status=status, body=body))


def calling_filters() -> tuple[pb.HttpFilter, ...]:
    """Of listeners for applications. They do nothing but where a route says so: a listener never changes for that."""
    return (http_filter(CORS_FILTER, pb.Cors()), http_filter(FAULT_FILTER, pb.HttpFault()))


def retry_elsewhere(conditions: tuple[str, ...], *, retries: int, spans: bool = False) -> pb.RetryPolicy:
    """Try another host, on these conditions. `spans`: of another priority, while there is one that was not tried."""
    policy = pb.RetryPolicy(
        retry_on=",".join(conditions),
        num_retries=pb.uint32(retries),
        host_selection_retry_max_attempts=3,
        retry_host_predicate=[
            pb.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=pb.any_of(pb.PreviousHostsPredicate()),
            )
        ],
        # At once: the next host has done nothing to deserve a pause.
        retry_back_off=pb.RetryPolicy.RetryBackOff(base_interval=pb.duration(0.001), max_interval=pb.duration(0.005)),
    )
    if "retriable-headers" in conditions:
        said = names.RETRIED_FOR if "reset" in conditions else (names.UNREACHED,)
        policy.retriable_headers.extend(pb.HeaderMatcher(name=name, present_match=True) for name in said)
    if spans:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        policy.retry_priority.typed_config.CopyFrom(pb.any_of(pb.PreviousPriorities(update_frequency=1)))
    return policy
