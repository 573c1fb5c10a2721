"""The one door to Envoy's generated protos (xds-protos): explicit names, type URLs, encoding.

All of these together cost some 6 MB and 0.1 s; what few need (JSON, Bootstrap) is loaded when asked for first.
"""

from typing import Any

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, AccessLogFilter
from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import Address, BindConfig, CidrRange, Pipe, SocketAddress
from envoy.config.core.v3.backoff_pb2 import BackoffStrategy
from envoy.config.core.v3.base_pb2 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    Locality,
    Metadata,
    RoutingPriority,
    RuntimeDouble,
    RuntimeFractionalPercent,
    RuntimeUInt32,
    TrafficDirection,
    TransportSocket,
)
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.health_check_pb2 import HealthCheck, HealthStatus
from envoy.config.core.v3.protocol_pb2 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
)
from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC as RbacRules  # noqa: N811 - a message, not a constant
from envoy.config.rbac.v3.rbac_pb2 import Action as RbacAction
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    FilterConfig,
    HeaderMatcher,
    QueryParameterMatcher,
    RateLimit,
    RedirectAction,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from envoy.extensions.clusters.common.dns.v3.dns_pb2 import DnsLookupFamily
from envoy.extensions.clusters.dns.v3.dns_cluster_pb2 import DnsCluster
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import LocalRateLimitDescriptor, RateLimitDescriptor
from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors, CorsPolicy
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault as HttpFault
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac  # noqa: N811 - a message, not a constant
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.connection_limit.v3.connection_limit_pb2 import ConnectionLimit
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    LocalReplyConfig,
    Rds,
    ResponseMapper,
)
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac  # noqa: N811 - a message, not a constant
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import ON_DOWNSTREAM_TLS_HANDSHAKE, TcpProxy
from envoy.extensions.health_check.event_sinks.file.v3.file_pb2 import HealthCheckEventFileSink
from envoy.extensions.matching.common_inputs.ssl.v3.ssl_inputs_pb2 import UriSanInput
from envoy.extensions.rate_limit_descriptors.expr.v3.expr_pb2 import Descriptor as DescriptorExpression
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig as PreviousPriorities,
)
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsCertificate,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig, Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions as UpstreamHttpOptions
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.hash_policy_pb2 import HashPolicy as TcpHashPolicy
from envoy.type.v3.http_pb2 import CodecClientType
from envoy.type.v3.percent_pb2 import FractionalPercent, Percent
from envoy.type.v3.range_pb2 import Int64Range
from envoy.type.v3.token_bucket_pb2 import TokenBucket
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.unknown_fields import UnknownFieldSet
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value
from xds.core.v3.extension_pb2 import TypedExtensionConfig as XdsExtension
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.matcher.v3.string_pb2 import StringMatcher as XdsStringMatcher

TYPE_PREFIX = "type.googleapis.com/"

CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

SHORT = {SECRET: "sds", CLUSTER: "cds", ENDPOINT: "eds", LISTENER: "lds", ROUTE: "rds"}
"""Type URL -> what people call it."""

MESSAGE: dict[str, Any] = {
    CLUSTER: Cluster,
    ENDPOINT: ClusterLoadAssignment,
    LISTENER: Listener,
    ROUTE: RouteConfiguration,
    SECRET: Secret,
}
"""Type URL -> message class."""


def encode(message: Message) -> bytes:
    """The same bytes for the same content, also where it has maps."""
    return message.SerializeToString(deterministic=True)


def any_of(message: Message) -> AnyMessage:
    """The message in an Any, encoded deterministically."""
    return AnyMessage(type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name, value=encode(message))


def decode(type_url: str, body: bytes) -> Message:
    """The message of a resource.

    Raises:
        DecodeError: the bytes are not of this type.

    """
    message: Message = MESSAGE[type_url].FromString(body)
    return message


def to_json(message: Message) -> dict[str, Any]:
    """Protobuf's JSON form, with the fields' own names, as in Envoy's documentation."""
    from google.protobuf import json_format

    tree: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return tree


def bootstrap() -> Any:
    """An empty Bootstrap."""
    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

    return Bootstrap()


def unknown(message: Message) -> bool:
    """Does it carry fields that these protos do not have?"""
    return len(UnknownFieldSet(message)) > 0


def duration(seconds: float) -> Duration:
    """A length of time, exact to the microsecond."""
    micros = round(seconds * 1_000_000)
    return Duration(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def uint32(number: int) -> UInt32Value:
    """A number that can also be absent."""
    return UInt32Value(value=number)


def true() -> BoolValue:
    """`true`, where absent does not mean `false`."""
    return BoolValue(value=True)


__all__ = [
    "CLUSTER",
    "ENDPOINT",
    "LISTENER",
    "MESSAGE",
    "ON_DOWNSTREAM_TLS_HANDSHAKE",
    "ROUTE",
    "SECRET",
    "SHORT",
    "TYPE_PREFIX",
    "AccessLog",
    "AccessLogFilter",
    "AdditionalAddress",
    "Address",
    "AggregatedConfigSource",
    "AnyMessage",
    "ApiVersion",
    "BackoffStrategy",
    "BindConfig",
    "BoolValue",
    "CertificateValidationContext",
    "CidrRange",
    "CircuitBreakers",
    "Cluster",
    "ClusterLoadAssignment",
    "CodecClientType",
    "CommonTlsContext",
    "ConfigSource",
    "ConnectionLimit",
    "Cors",
    "CorsPolicy",
    "DataSource",
    "DecodeError",
    "DeltaDiscoveryRequest",
    "DeltaDiscoveryResponse",
    "Descriptor",
    "DescriptorExpression",
    "DirectResponseAction",
    "DnsCluster",
    "DnsLookupFamily",
    "DownstreamTlsContext",
    "Duration",
    "EncodeError",
    "Endpoint",
    "ExpressionFilter",
    "FaultAbort",
    "FaultDelay",
    "FileAccessLog",
    "Filter",
    "FilterChain",
    "FilterChainMatch",
    "FilterConfig",
    "FractionalPercent",
    "HeaderMatcher",
    "HeaderValue",
    "HeaderValueOption",
    "HealthCheck",
    "HealthCheckEventFileSink",
    "HealthStatus",
    "Http1ProtocolOptions",
    "Http2ProtocolOptions",
    "HttpConnectionManager",
    "HttpFault",
    "HttpFilter",
    "HttpProtocolOptions",
    "HttpRbac",
    "HttpRequestHeaderMatchInput",
    "Int64Range",
    "KeepaliveSettings",
    "LbEndpoint",
    "Listener",
    "ListenerFilter",
    "LocalRateLimit",
    "LocalRateLimitDescriptor",
    "LocalReplyConfig",
    "Locality",
    "LocalityLbEndpoints",
    "Matcher",
    "Message",
    "Metadata",
    "NetworkRbac",
    "OriginalDst",
    "OutlierDetection",
    "Percent",
    "Pipe",
    "PreviousHostsPredicate",
    "PreviousPriorities",
    "QueryParameterMatcher",
    "RBACPerRoute",
    "RateLimit",
    "RateLimitDescriptor",
    "RbacAction",
    "RbacRules",
    "Rds",
    "RedirectAction",
    "RegexMatchAndSubstitute",
    "RegexMatcher",
    "ResponseMapper",
    "RetryPolicy",
    "Route",
    "RouteAction",
    "RouteConfiguration",
    "RouteMatch",
    "Router",
    "RoutingPriority",
    "RuntimeDouble",
    "RuntimeFractionalPercent",
    "RuntimeUInt32",
    "SPIFFECertValidatorConfig",
    "SdsSecretConfig",
    "Secret",
    "SocketAddress",
    "SocketOption",
    "StringMatcher",
    "Struct",
    "SubjectAltNameMatcher",
    "SubstitutionFormatString",
    "TcpHashPolicy",
    "TcpProxy",
    "TlsCertificate",
    "TlsInspector",
    "TlsParameters",
    "TokenBucket",
    "TrafficDirection",
    "TransportSocket",
    "TypedExtensionConfig",
    "UInt32Value",
    "UpstreamHttpOptions",
    "UpstreamTlsContext",
    "UriSanInput",
    "VirtualHost",
    "WeightedCluster",
    "XdsExtension",
    "XdsStringMatcher",
    "any_of",
    "bootstrap",
    "decode",
    "duration",
    "encode",
    "to_json",
    "true",
    "uint32",
    "unknown",
]
