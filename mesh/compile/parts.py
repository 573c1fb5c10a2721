"""Pieces that most resources are built from: where to listen, where configuration comes from, sockets, access logs."""

import math
from typing import Literal

from mesh import pb
from mesh.compile import names
from mesh.model.duration import seconds
from mesh.model.policyspec import CircuitBreaking, RetryBudget, TcpKeepalive

ADS = pb.ConfigSource(
    ads=pb.AggregatedConfigSource(),
    resource_api_version=pb.ApiVersion.V3,
    # Wait for it, however long: what goes in force half informed has no endpoints, no routes or no certificate.
    initial_fetch_timeout=pb.duration(0),
)

CONNECT_SECONDS = 1.0
_KEEPALIVE = TcpKeepalive()

# Linux numbers (asm-generic/socket.h, netinet/tcp.h), since Envoy takes numbers only. A peer that vanished without a
# word is noticed within idle + count * interval seconds.
_SOL_SOCKET, _IPPROTO_TCP = 1, 6


def socket_options(keepalive: TcpKeepalive = _KEEPALIVE) -> list[pb.SocketOption]:
    """For sockets that face other hosts. The kernel counts whole seconds: a part of one is one more."""
    idle, interval = math.ceil(seconds(keepalive.idle)), math.ceil(seconds(keepalive.interval))
    options = (
        (_SOL_SOCKET, 9, 1),
        (_IPPROTO_TCP, 4, idle),
        (_IPPROTO_TCP, 5, interval),
        (_IPPROTO_TCP, 6, keepalive.probes),
        # TCP_USER_TIMEOUT, in ms: the same for a peer that vanishes while something is on its way to it.
        (_IPPROTO_TCP, 18, interval * keepalive.probes * 1000),
    )
    return [
        pb.SocketOption(level=level, name=name, int_value=value, state=pb.SocketOption.STATE_PREBIND)
        for level, name, value in options
    ]


def tcp_address(address: str, port: int) -> pb.Address:
    return pb.Address(socket_address=pb.SocketAddress(address=address, port_value=port))


def host_address(address: str, port: int) -> pb.Address:
    """Where other hosts reach this one: `::` is for both families."""
    found = tcp_address(address, port)
    found.socket_address.ipv4_compat = address == "::"
    return found


def listen_address(listen: str, mode: int = 0o660) -> pb.Address:
    """From `<address>:<port>` or `unix:<path>`, checked before."""
    if listen.startswith("unix:"):
        # By default for owner and group only: the directory belongs to whom it is meant for.
        return pb.Address(pipe=pb.Pipe(path=listen.removeprefix("unix:"), mode=mode))
    host, _, port = listen.rpartition(":")
    return tcp_address(host.removeprefix("[").removesuffix("]"), int(port))


def network_filter(name: str, config: pb.Message) -> pb.Filter:
    return pb.Filter(name=name, typed_config=pb.any_of(config))


def http_filter(name: str, config: pb.Message) -> pb.HttpFilter:
    return pb.HttpFilter(name=name, typed_config=pb.any_of(config))


def tls_inspector() -> pb.ListenerFilter:
    """Reads the SNI, by which filter chains are chosen."""
    return pb.ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pb.any_of(pb.TlsInspector()))


def static_cluster(name: str, places: list[tuple[str, int]]) -> pb.Cluster:
    """A cluster of fixed addresses, with the limits that all our clusters have."""
    endpoints = [pb.LbEndpoint(endpoint=pb.Endpoint(address=tcp_address(*place))) for place in places]
    return pb.Cluster(
        name=name,
        type=pb.Cluster.STATIC,
        connect_timeout=pb.duration(CONNECT_SECONDS),
        circuit_breakers=limits(),
        load_assignment=pb.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[pb.LocalityLbEndpoints(lb_endpoints=endpoints)] if endpoints else [],
        ),
    )


def limits(breaking: CircuitBreaking | None = None, budget: RetryBudget | None = None) -> pb.CircuitBreakers:
    """Bounded, yet out of the way: with Envoy's own 3 retries, calls of a busy host fail when a peer of it dies.

    A budget counts instead of `max_retries`.
    """
    said = breaking or CircuitBreaking()
    found = pb.CircuitBreakers.Thresholds(
        max_connections=pb.uint32(said.max_connections or 16_384),
        max_pending_requests=pb.uint32(said.max_pending_requests or 16_384),
        max_requests=pb.uint32(said.max_requests or 65_536),
        max_retries=pb.uint32(said.max_retries or 4_096),
    )
    if budget is not None:
        found.retry_budget.budget_percent.value = budget.percent
        found.retry_budget.min_retry_concurrency.value = budget.min_concurrent
    return pb.CircuitBreakers(thresholds=[found])


def http2_upstream(*, idle_seconds: float, keepalive: tuple[float, float] | None) -> pb.UpstreamHttpOptions:
    """HTTP/2 to the other side. `keepalive`: interval and timeout of pings, in seconds."""
    http2 = pb.Http2ProtocolOptions(
        initial_stream_window_size=pb.uint32(STREAM_WINDOW),
        initial_connection_window_size=pb.uint32(CONNECTION_WINDOW),
        allow_connect=True,
    )
    if keepalive:
        http2.connection_keepalive.CopyFrom(ping(*keepalive))
    return pb.UpstreamHttpOptions(
        common_http_protocol_options=pb.HttpProtocolOptions(idle_timeout=pb.duration(idle_seconds)),
        explicit_http_config=pb.UpstreamHttpOptions.ExplicitHttpConfig(http2_protocol_options=http2),
    )


def http1_upstream(*, idle_seconds: float) -> pb.UpstreamHttpOptions:
    return pb.UpstreamHttpOptions(
        common_http_protocol_options=pb.HttpProtocolOptions(idle_timeout=pb.duration(idle_seconds)),
        explicit_http_config=pb.UpstreamHttpOptions.ExplicitHttpConfig(http_protocol_options=pb.Http1ProtocolOptions()),
    )


def set_http(cluster: pb.Cluster, options: pb.UpstreamHttpOptions) -> pb.Cluster:
    cluster.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].CopyFrom(
        pb.any_of(options)
    )
    return cluster


# Room for some 80 ms * 100 Mbit/s on one stream; a connection carries many.
STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024


def ping(interval: float, timeout: float) -> pb.KeepaliveSettings:
    return pb.KeepaliveSettings(interval=pb.duration(interval), timeout=pb.duration(timeout))


def access_log(path: str, fields: dict[str, str], *, only: str = "") -> pb.AccessLog:
    """One JSON object a line; what does not apply is null. `only`: a condition in CEL."""
    json_format = pb.Struct()
    json_format.update(fields)
    config = pb.FileAccessLog(path=path, log_format=pb.SubstitutionFormatString(json_format=json_format))
    found = pb.AccessLog(name="envoy.access_loggers.file", typed_config=pb.any_of(config))
    if only:
        found.filter.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
        found.filter.extension_filter.typed_config.CopyFrom(pb.any_of(pb.ExpressionFilter(expression=only)))
    return found


_ANY_LOG = {
    "time": "%START_TIME%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "peer_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "connection_id": "%CONNECTION_ID%",
}

_HTTP_LOG = {
    "method": "%REQ(:METHOD)%",
    # Without the query: it may hold what must not be in a log.
    "path": "%PATH(NQ)%",
    "authority": "%REQ(:AUTHORITY):256%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "request_id": "%REQ(X-REQUEST-ID):64%",
}

_TCP_LOG = {"protocol": "tcp", "details": "%CONNECTION_TERMINATION_DETAILS%"}


_SAID = {
    "gate": {"denied_by": names.DENIED_BY},
    "inbound": {"denied_by": names.DENIED_BY, "limited_by": names.LIMITED_BY},
    "outbound": {"denied_by": names.DENIED_BY, "limited_by": names.LIMITED_BY, "fault": names.FAULT},
}
"""Fields that are headers of the answer."""


def log_fields(
    *,
    direction: Literal["gate", "inbound", "outbound"],
    service: str,
    http: bool,
    source: str,
    destination: str,
    rule: str = "",
) -> dict[str, str]:
    """The fields of one kind of line. Values are Envoy's format strings.

    `rule` decided, whichever way; `denied_by` is there only where it denied (TCP: `details` says so).
    """
    return {
        **_ANY_LOG,
        **(_HTTP_LOG if http else _TCP_LOG),
        "direction": direction,
        "service": service,
        "source": source,
        "destination": destination,
        **({"rule": rule} if rule else {}),
        **({"route": "%ROUTE_NAME%"} if http and direction == "outbound" else {}),
        **({f: f"%RESP({h}):256%" for f, h in _SAID[direction].items()} if http else {}),
    }


def handshake_fields() -> dict[str, str]:
    """Of a connection to the inbound listener that got no further than TLS."""
    return {
        "time": "%START_TIME%",
        "direction": "inbound",
        "protocol": "tls",
        "sni": "%REQUESTED_SERVER_NAME%",
        "source": "%DOWNSTREAM_PEER_URI_SAN%",
        "details": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
        "peer_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        "duration_ms": "%DURATION%",
        "connection_id": "%CONNECTION_ID%",
    }
