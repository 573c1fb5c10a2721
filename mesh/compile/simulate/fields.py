"""Which fields are understood. Whatever else is set makes the answer a guess, so there is none.

A field is read (it decides), or passed over (it has no part in where a request goes and what it carries there).
"""

import functools
from typing import Any

from mesh import pb
from mesh.compile.simulate.verdict import Unsupported

_READ = {
    # --- connections ---
    pb.Listener: "name address additional_addresses filter_chains default_filter_chain listener_filters",
    pb.AdditionalAddress: "address",
    pb.FilterChain: "filter_chain_match filters transport_socket name metadata",
    pb.FilterChainMatch: "server_names transport_protocol destination_port prefix_ranges source_prefix_ranges",
    pb.CidrRange: "address_prefix prefix_len",
    pb.DownstreamTlsContext: "common_tls_context require_client_certificate",
    pb.CommonTlsContext: """tls_certificate_sds_secret_configs validation_context_sds_secret_config
        combined_validation_context""",
    pb.CommonTlsContext.CombinedCertificateValidationContext: """default_validation_context
        validation_context_sds_secret_config""",
    pb.CertificateValidationContext: "match_typed_subject_alt_names custom_validator_config",
    pb.SubjectAltNameMatcher: "san_type matcher",
    pb.SPIFFECertValidatorConfig: "trust_domains",
    pb.NetworkRbac: "matcher shadow_matcher",
    pb.TcpProxy: "cluster weighted_clusters hash_policy",
    pb.TcpHashPolicy: "source_ip",
    pb.TcpProxy.WeightedCluster: "clusters",
    pb.TcpProxy.WeightedCluster.ClusterWeight: "name weight",
    pb.ConnectionLimit: "max_connections",
    # --- HTTP ---
    pb.HttpConnectionManager: """rds http_filters common_http_protocol_options use_remote_address skip_xff_append
        internal_address_config preserve_external_request_id forward_client_cert_details upgrade_configs normalize_path
        merge_slashes path_with_escaped_slashes_action local_reply_config strip_any_host_port""",
    pb.Rds: "route_config_name",
    pb.HttpConnectionManager.UpgradeConfig: "upgrade_type",
    pb.HttpConnectionManager.InternalAddressConfig: "cidr_ranges",
    pb.HttpProtocolOptions: "headers_with_underscores_action",
    pb.HttpFilter: "name typed_config disabled",
    pb.Router: "suppress_envoy_headers",
    pb.FilterConfig: "config disabled is_optional",
    pb.HttpRbac: "matcher shadow_matcher",
    pb.RBACPerRoute: "rbac",
    pb.LocalRateLimit: """token_bucket filter_enabled filter_enforced descriptors rate_limits
        always_consume_default_token_bucket""",
    pb.LocalRateLimitDescriptor: "entries token_bucket",
    pb.TokenBucket: "max_tokens tokens_per_fill fill_interval",
    pb.RateLimit: "actions",
    pb.RateLimit.Action: "generic_key request_headers header_value_match extension",
    pb.RateLimit.Action.GenericKey: "descriptor_key descriptor_value",
    pb.RateLimit.Action.RequestHeaders: "header_name descriptor_key skip_if_absent",
    pb.RateLimit.Action.HeaderValueMatch: "descriptor_key descriptor_value expect_match headers",
    pb.DescriptorExpression: "descriptor_key text",
    pb.HttpFault: "delay abort upstream_cluster headers filter_metadata",
    pb.FaultDelay: "fixed_delay percentage",
    pb.FaultAbort: "http_status grpc_status percentage",
    pb.Cors: "",
    pb.CorsPolicy: """allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials
        filter_enabled forward_not_matching_preflights""",
    pb.LocalReplyConfig: "mappers",
    pb.ResponseMapper: "filter status_code body body_format_override headers_to_add",
    pb.AccessLogFilter: "status_code_filter response_flag_filter",
    pb.SubstitutionFormatString: "text_format_source",
    # --- routes ---
    pb.RouteConfiguration: """name virtual_hosts response_headers_to_add response_headers_to_remove
        request_headers_to_add request_headers_to_remove most_specific_header_mutations_wins request_mirror_policies
        ignore_port_in_host_matching typed_per_filter_config""",
    pb.VirtualHost: """name domains routes request_headers_to_add request_headers_to_remove response_headers_to_add
        response_headers_to_remove typed_per_filter_config include_request_attempt_count retry_policy
        request_mirror_policies""",
    pb.Route: """name match route redirect direct_response typed_per_filter_config request_headers_to_add
        request_headers_to_remove response_headers_to_add response_headers_to_remove""",
    pb.RouteMatch: """prefix path safe_regex path_separated_prefix case_sensitive runtime_fraction headers
        query_parameters grpc""",
    pb.HeaderMatcher: "name present_match string_match invert_match treat_missing_header_as_empty",
    pb.QueryParameterMatcher: "name string_match present_match",
    pb.RouteAction: """cluster weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite
        host_rewrite_literal append_x_forwarded_host timeout retry_policy request_mirror_policies
        max_stream_duration hash_policy""",
    pb.RouteAction.HashPolicy: "header cookie connection_properties",
    pb.RouteAction.HashPolicy.Header: "header_name",
    pb.RouteAction.HashPolicy.Cookie: "name",
    pb.RouteAction.HashPolicy.ConnectionProperties: "source_ip",
    pb.RouteAction.MaxStreamDuration: "max_stream_duration",
    pb.RouteAction.RequestMirrorPolicy: "cluster runtime_fraction",
    pb.WeightedCluster: "clusters",
    pb.WeightedCluster.ClusterWeight: """name weight request_headers_to_add request_headers_to_remove
        response_headers_to_add response_headers_to_remove typed_per_filter_config host_rewrite_literal""",
    pb.RedirectAction: """https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite
        regex_rewrite response_code strip_query""",
    pb.DirectResponseAction: "status body",
    pb.RetryPolicy: "retry_on num_retries per_try_timeout",
    pb.HeaderValueOption: "header append_action keep_empty_value",
    pb.HeaderValue: "key value",
    pb.DataSource: "inline_string inline_bytes",
    # --- conditions ---
    pb.StringMatcher: "exact prefix suffix safe_regex contains ignore_case",
    pb.XdsStringMatcher: "exact prefix suffix safe_regex contains ignore_case",
    pb.RegexMatcher: "regex",
    pb.RegexMatchAndSubstitute: "pattern substitution",
    pb.RuntimeFractionalPercent: "default_value",
    pb.Matcher: "matcher_list on_no_match",
    pb.Matcher.OnMatch: "matcher action",
    pb.Matcher.MatcherList: "matchers",
    pb.Matcher.MatcherList.FieldMatcher: "predicate on_match",
    pb.Matcher.MatcherList.Predicate: "single_predicate or_matcher and_matcher not_matcher",
    pb.Matcher.MatcherList.Predicate.SinglePredicate: "input value_match",
    pb.HttpRequestHeaderMatchInput: "header_name",
    pb.UriSanInput: "",
    pb.RbacAction: "name action",
}

_PASSED_OVER = {
    pb.Listener: """traffic_direction listener_filters_timeout access_log per_connection_buffer_limit_bytes
        socket_options metadata stat_prefix""",
    pb.FilterChain: "transport_socket_connect_timeout",
    # A session that is resumed was let in before; sizes and versions are the handshake's own.
    pb.DownstreamTlsContext: "disable_stateless_session_resumption disable_stateful_session_resumption",
    pb.CommonTlsContext: "tls_params alpn_protocols",
    pb.NetworkRbac: "stat_prefix",
    pb.TcpProxy: """stat_prefix idle_timeout access_log max_connect_attempts backoff_options upstream_connect_mode
        max_early_data_bytes""",
    pb.ConnectionLimit: "stat_prefix",
    pb.HttpConnectionManager: """codec_type stat_prefix access_log http_protocol_options http2_protocol_options
        max_request_headers_kb request_headers_timeout stream_idle_timeout server_header_transformation
        set_current_client_cert_details drain_timeout delayed_close_timeout request_timeout tracing
        generate_request_id""",
    pb.Rds: "config_source",
    pb.HttpProtocolOptions: """idle_timeout max_connection_duration max_headers_count max_stream_duration
        max_requests_per_connection""",
    pb.Router: "upstream_log dynamic_stats",
    pb.HttpFault: "disable_downstream_cluster_stats",
    pb.HttpRbac: "rules_stat_prefix shadow_rules_stat_prefix track_per_rule_stats",
    # What a limited request is told, and for whom is counted.
    pb.LocalRateLimit: """stat_prefix status response_headers_to_add local_rate_limit_per_downstream_connection
        rate_limited_as_resource_exhausted enable_x_ratelimit_headers max_dynamic_descriptors""",
    pb.RouteConfiguration: "validate_clusters metadata max_direct_response_body_size_bytes",
    pb.VirtualHost: "metadata request_body_buffer_limit per_request_buffer_limit_bytes",
    pb.Route: "metadata decorator tracing stat_prefix request_body_buffer_limit per_request_buffer_limit_bytes",
    pb.RouteAction: "idle_timeout hedge_policy priority flush_timeout",
    pb.RouteAction.HashPolicy.Cookie: "ttl path",
    pb.RouteAction.RequestMirrorPolicy: "trace_sampled disable_shadow_host_suffix_append",
    pb.RetryPolicy: """per_try_idle_timeout retry_host_predicate host_selection_retry_max_attempts
        retriable_status_codes retry_back_off rate_limited_retry_back_off retriable_headers
        retriable_request_headers retry_priority retry_options_predicates""",
    pb.RegexMatcher: "google_re2",
    # The key is for operators who override it by hand.
    pb.RuntimeFractionalPercent: "runtime_key",
}

_UNDERSTOOD = {
    kind.DESCRIPTOR.full_name: frozenset(f"{read} {_PASSED_OVER.get(kind, '')}".split()) for kind, read in _READ.items()
}
_UNDERSTOOD["xds.type.matcher.v3.RegexMatcher"] = _UNDERSTOOD["envoy.type.matcher.v3.RegexMatcher"]
_BY_URL = {pb.TYPE_PREFIX + kind.DESCRIPTOR.full_name: kind for kind in _READ}


def known(message: Any) -> None:
    """Refuse a message with a field that is not understood.

    Raises:
        Unsupported: with the first such field.

    """
    name = message.DESCRIPTOR.full_name
    understood = _UNDERSTOOD.get(name)
    if understood is None:
        raise Unsupported(name)
    for field, _ in message.ListFields():
        if field.name not in understood:
            raise Unsupported(f"{name}.{field.name}")
    if pb.unknown(message):
        raise Unsupported(name, "it has fields that this version's protos do not have")


def unpack(packed: Any, *kinds: Any, where: str) -> Any:
    """The message in an Any, if it is one of these kinds; it is not to be changed."""
    found = _BY_URL.get(packed.type_url)
    if found not in kinds:
        raise Unsupported(where, packed.type_url.removeprefix(pb.TYPE_PREFIX))
    message = _decoded(packed.type_url, packed.value)
    known(message)
    return message


@functools.lru_cache(maxsize=512)
def _decoded(url: str, value: bytes) -> Any:
    return _BY_URL[url].FromString(value)


@functools.lru_cache(maxsize=128)
def resource(url: str, body: bytes) -> Any:
    """The message of a resource; it is not to be changed."""
    message = pb.decode(url, body)
    if url in {pb.LISTENER, pb.ROUTE}:
        known(message)
    return message
