"""What calls into this host: one listener, one filter chain per (Service, port), chosen by SNI.

HTTP policies are in the chain's route, so that a change of them takes effect on the next request of open connections,
and closes none. TCP has no requests: there a change replaces the chain, which closes what it let in.

Envoy's network RBAC decides on the first byte from the caller (envoyproxy/envoy issue 9023): too late for applications
that speak first. So for TCP the handshake refuses whoever no rule lets in, by the name in the certificate. RBAC stays
behind it: it names the rule that decided, and sees rules that a handshake cannot.

Known limit: a handshake can tell names and namespaces that are let in, and nothing else. A deny rule that takes one
identity out of a namespace that an allow rule lets in, or out of everybody, is RBAC's alone. That one identity sees
what an application says before it was said anything to, as long as it is silent itself.
"""

from collections.abc import Iterator

from mesh import pb
from mesh.compile import access, http, limits, names, tls
from mesh.compile.parts import (
    access_log,
    handshake_fields,
    host_address,
    http1_upstream,
    http2_upstream,
    log_fields,
    network_filter,
    set_http,
    socket_options,
    static_cluster,
    tls_inspector,
)
from mesh.compile.view import Frame, Inbound

HANDSHAKE_SECONDS = 10.0
TCP_IDLE_SECONDS = 4 * 3600.0

# An application that closes an idle connection just as we send on it fails a call. Most wait 2 s or longer; a new
# connection on this host costs next to nothing. HTTP/2 says goodbye first, so there is no hurry.
_HTTP1_IDLE_SECONDS = 1.0
_HTTP2_IDLE_SECONDS = 300.0

_METADATA = "holdfast"

# TLS failures, by what Envoy says of them: a certificate that is good, and has a name that is not let in; all else.
_FAILED = "has(connection.transport_failure_reason)"
_NOT_LET_IN = f"{_FAILED} && connection.transport_failure_reason.contains('SAN match')"
_NOT_VALID = f"{_FAILED} && !connection.transport_failure_reason.contains('SAN match')"

_TCP_RULE = "%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_effective_policy_id)%"


def listener(frame: Frame, ports: tuple[Inbound, ...]) -> pb.Listener:
    """All chains whose certificate is held. Never without a chain: Envoy refuses such a listener."""
    return pb.Listener(
        name=names.INBOUND_LISTENER,
        address=host_address(frame.address, frame.mtls_port),
        traffic_direction=pb.TrafficDirection.INBOUND,
        listener_filters=[tls_inspector()],
        listener_filters_timeout=pb.duration(HANDSHAKE_SECONDS),
        filter_chains=[_chain(frame, port) for port in ports],
        access_log=_handshake_logs(frame),
        per_connection_buffer_limit_bytes=pb.uint32(1024 * 1024),
        socket_options=socket_options(),
    )


def _chain(frame: Frame, port: Inbound) -> pb.FilterChain:
    server_name = names.sni(port.service, port.port, frame.cluster)
    tcp = port.protocol == "tcp"
    callers = access.admission(port.access) if tcp else None
    return pb.FilterChain(
        name=server_name,
        filter_chain_match=pb.FilterChainMatch(server_names=[server_name], transport_protocol="tls"),
        transport_socket=tls.server(
            port.identity,
            () if tcp else ("h2", "http/1.1"),
            callers=callers,
            bundle=names.bundle(domains) if (domains := verifying(frame, port)) else names.BUNDLE,
        ),
        metadata=_metadata(port, callers),
        transport_socket_connect_timeout=pb.duration(HANDSHAKE_SECONDS),
        filters=_tcp_filters(frame, port) if tcp else [_http_manager(frame, port)],
    )


def verifying(frame: Frame, port: Inbound) -> tuple[str, ...]:
    """Trust domains by whose bundles callers are verified; none: any that is known.

    With HTTP any: RBAC looks at each request, and refuses who has several names. With TCP the handshake lets in by
    names, and any name of a certificate will do; so whoever has nobody who is let in, signs nothing there.
    """
    callers = access.admission(port.access) if port.protocol == "tcp" else None
    if callers is None:
        return ()
    known = {frame.trust_domain, *(other.name for other in frame.others)}
    named = {tls.domain_of(beginning) for beginning in (*callers.ids, *callers.prefixes)} & known
    return tuple(sorted(named or {frame.trust_domain}))


def bundles(frame: Frame) -> set[tuple[str, ...]]:
    """Trust domains by whose bundles somebody is verified here, as they are verified together; always the own."""
    parts = [part for backend in frame.backends for part in backend.assignment.named]
    accounts = (*(backend.accounts for backend in frame.backends), *(part.accounts for part in parts))
    found = {tuple(sorted({tls.domain_of(one) for one in those})) for those in accounts if those}
    return found | {verifying(frame, port) for port in frame.inbound} - {()} | {(frame.trust_domain,)}


def _metadata(port: Inbound, callers: access.Admission | None) -> pb.Metadata:
    """For the listener's log, which must not change with a policy: then all connections would be closed."""
    said = {"service": f"{port.service}:{port.port}"}
    if callers is not None:
        said["refusers"] = " or ".join(callers.refusers)
    found = pb.Metadata()
    found.filter_metadata[_METADATA].update(said)
    return found


def _said(key: str) -> str:
    return f"%METADATA(LISTENER_FILTER_CHAIN:{_METADATA}:{key})%"


def _handshake_logs(frame: Frame) -> Iterator[pb.AccessLog]:
    """Connections that failed before any filter of ours saw them.

    Which of several rules refused a name, Envoy cannot say: all that may have are named.
    """
    fields = handshake_fields() | {"service": _said("service")}
    yield access_log(frame.access_log, fields | {"denied_by": _said("refusers")}, only=_NOT_LET_IN)
    yield access_log(frame.access_log, fields, only=_NOT_VALID)


def _http_manager(frame: Frame, port: Inbound) -> pb.Filter:
    return http.manager(
        http.Manager(
            stat_prefix=f"inbound_{port.port}_{port.service}",
            route=names.inbound_route(port.service, port.port),
            log=_log(frame, port, http.RULE),
            filters=(*http.rbac_filters(), *limits.filters()),
            replies=(http.denial_reply(), *http.unanswered_replies()),
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
    # A connection that fails in its handshake is the listener's to log.
    return access_log(frame.access_log, fields, only="" if port.protocol != "tcp" else f"!({_FAILED})")


def route(port: Inbound) -> pb.RouteConfiguration:
    """Who may call and how often, and on to the application."""
    retry = pb.RetryPolicy(retry_on="reset-before-request", num_retries=pb.uint32(1))
    return http.route_config(
        names.inbound_route(port.service, port.port),
        http.to_cluster(names.local_cluster(port.service, port.port), retry),
        rules=access.matcher(port.access),
        # Ours alone: an application that says so would have its callers repeat what it has done.
        response_headers_to_remove=[*names.RETRIED_FOR, names.DENIED_BY, names.LIMITED_BY],
        typed_per_filter_config=limits.configs(port.limits),
    )


def cluster(port: Inbound) -> pb.Cluster:
    """The application."""
    found = static_cluster(names.local_cluster(port.service, port.port), [(port.address, port.target)])
    if port.protocol == "tcp":
        return found
    if port.local_protocol in {"http2", "grpc"}:
        return set_http(found, http2_upstream(idle_seconds=_HTTP2_IDLE_SECONDS, keepalive=None))
    return set_http(found, http1_upstream(idle_seconds=_HTTP1_IDLE_SECONDS))
