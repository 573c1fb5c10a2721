"""What calls into this host: one listener, one filter chain per (Service, port), chosen by SNI.

HTTP policies are in the chain's route, so that a change of them takes effect on the next request of open connections,
and closes none. TCP has no requests: there a change replaces the chain, which closes what it let in.

Known limit: Envoy's network RBAC decides on the first byte from the caller (envoyproxy/envoy issue 9023). A caller with
a certificate of the mesh that no rule allows, and that says nothing, sees what an application says of its own accord.
"""

from mesh import pb
from mesh.compile import access, http, names, tls
from mesh.compile.parts import (
    access_log,
    http1_upstream,
    http2_upstream,
    log_fields,
    network_filter,
    set_http,
    socket_options,
    static_cluster,
    tcp_address,
    tls_inspector,
)
from mesh.compile.view import Frame, Inbound

HANDSHAKE_SECONDS = 10.0
TCP_IDLE_SECONDS = 4 * 3600.0

# An application that closes an idle connection just as we send on it fails a call. Most wait 2 s or longer; a new
# connection on this host costs next to nothing. HTTP/2 says goodbye first, so there is no hurry.
_HTTP1_IDLE_SECONDS = 1.0
_HTTP2_IDLE_SECONDS = 300.0

_TCP_RULE = "%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_effective_policy_id)%"


def listener(frame: Frame, ports: tuple[Inbound, ...]) -> pb.Listener:
    """All chains whose certificate is held. Never without a chain: Envoy refuses such a listener."""
    return pb.Listener(
        name=names.INBOUND_LISTENER,
        address=tcp_address(frame.address, frame.mtls_port),
        traffic_direction=pb.TrafficDirection.INBOUND,
        listener_filters=[tls_inspector()],
        listener_filters_timeout=pb.duration(HANDSHAKE_SECONDS),
        filter_chains=[_chain(frame, port) for port in ports],
        per_connection_buffer_limit_bytes=pb.uint32(1024 * 1024),
        socket_options=socket_options(),
    )


def _chain(frame: Frame, port: Inbound) -> pb.FilterChain:
    server_name = names.sni(port.service, port.port, frame.cluster)
    tcp = port.protocol == "tcp"
    return pb.FilterChain(
        name=server_name,
        filter_chain_match=pb.FilterChainMatch(server_names=[server_name], transport_protocol="tls"),
        transport_socket=tls.server(port.identity, () if tcp else ("h2", "http/1.1")),
        transport_socket_connect_timeout=pb.duration(HANDSHAKE_SECONDS),
        filters=_tcp_filters(frame, port) if tcp else [_http_manager(frame, port)],
    )


def _http_manager(frame: Frame, port: Inbound) -> pb.Filter:
    return http.manager(
        http.Manager(
            stat_prefix=f"inbound_{port.port}_{port.service}",
            route=names.inbound_route(port.service, port.port),
            log=_log(frame, port, http.RULE),
            filters=http.rbac_filters(),
            replies=(http.denial_reply(), http.unreached_reply()),
            grpc=port.protocol == "grpc",
        )
    )


def _tcp_filters(frame: Frame, port: Inbound) -> list[pb.Filter]:
    stat_prefix = f"inbound_{port.port}_{port.service}"
    matcher = access.matcher(port.access)
    # The same rules as shadow ones: only these leave the name of the rule for the log, also of one that allowed.
    rules = pb.NetworkRbac(stat_prefix=f"{stat_prefix}.", matcher=matcher, shadow_matcher=matcher)
    proxy = pb.TcpProxy(
        stat_prefix=stat_prefix,
        cluster=names.local_cluster(port.service, port.port),
        idle_timeout=pb.duration(TCP_IDLE_SECONDS),
        access_log=[_log(frame, port, _TCP_RULE)],
        # Nobody without a certificate of the mesh gets as far as a connection to the application.
        upstream_connect_mode=pb.ON_DOWNSTREAM_TLS_HANDSHAKE,
        max_early_data_bytes=pb.uint32(64 * 1024),
    )
    return [
        network_filter("envoy.filters.network.rbac", rules),
        network_filter("envoy.filters.network.tcp_proxy", proxy),
    ]


def _log(frame: Frame, port: Inbound, rule: str) -> pb.AccessLog:
    fields = log_fields(
        direction="inbound",
        service=f"{port.service}:{port.port}",
        http=port.protocol != "tcp",
        source="%DOWNSTREAM_PEER_URI_SAN%",
        destination="%DOWNSTREAM_LOCAL_URI_SAN%",
        rule=rule,
    )
    return access_log(frame.access_log, fields)


def route(port: Inbound) -> pb.RouteConfiguration:
    """Who may call, and on to the application."""
    retry = pb.RetryPolicy(retry_on="reset-before-request", num_retries=pb.uint32(1))
    return http.route_config(
        names.inbound_route(port.service, port.port),
        http.to_cluster(names.local_cluster(port.service, port.port), retry),
        rules=access.matcher(port.access),
        # Ours alone: an application that says so would have its callers repeat what it has done.
        response_headers_to_remove=[names.UNREACHED, names.DENIED_BY],
    )


def cluster(port: Inbound) -> pb.Cluster:
    """The application."""
    found = static_cluster(names.local_cluster(port.service, port.port), [(port.address, port.target)])
    if port.protocol == "tcp":
        return found
    if port.local_protocol in {"http2", "grpc"}:
        return set_http(found, http2_upstream(idle_seconds=_HTTP2_IDLE_SECONDS, keepalive=None))
    return set_http(found, http1_upstream(idle_seconds=_HTTP1_IDLE_SECONDS))
