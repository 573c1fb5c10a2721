"""What applications of this host call: a listener each, strict mTLS behind it.

A listener stays the same while its upstream's protocol family does: Services come and go in routes, endpoints in load
assignments, and neither closes a connection.
"""

from collections.abc import Iterator

from mesh import pb
from mesh.compile import endpoints, http, names, routes, tls
from mesh.compile.inbound import TCP_IDLE_SECONDS
from mesh.compile.parts import (
    ADS,
    CONNECT_SECONDS,
    access_log,
    http2_upstream,
    limits,
    listen_address,
    log_fields,
    network_filter,
    set_http,
    socket_options,
    static_cluster,
)
from mesh.compile.rules import Target
from mesh.compile.view import Backend, Frame, Outbound

RETRY_ON = ("connect-failure", "refused-stream", "reset-before-request", "retriable-headers")
"""Each of them means: no application has seen the request."""

RETRY_IDEMPOTENT_ON = (*RETRY_ON, "reset")
"""Also when a host dies between the request and its answer: whether it was seen does not matter for these."""

_RETRIES = 2
"""Each at a host that was not tried yet: two may be dead at once before anybody says so."""

_LOCAL_FAILURES = 3
"""So many failed connects in a row eject a host. TCP has no memory of hosts that were tried: with one attempt more than
that, a connection does not fail because of one dead host, whatever others do at the same time."""

NO_CERTIFICATE = "this host holds no certificate yet for the identity that calls"

# Between proxies HTTP is always HTTP/2: it says goodbye before it closes, so restarts and renewals lose no request.
_HTTP2_IDLE_SECONDS = 300.0
_PING = (10.0, 5.0)


def name(upstream: Outbound) -> str:
    """Of its route, and of the cluster that is the Service itself."""
    return names.outbound(upstream.identity, upstream.service, upstream.port)


def is_tcp(upstream: Outbound) -> bool:
    """While the protocol is not known, HTTP: its 503 can say why."""
    return upstream.protocol == "tcp"


def tcp_shares(upstream: Outbound, fault: str) -> tuple[tuple[str, int], ...]:
    """Clusters of a TCP listener, with weights; HTTP has them in the route.

    Weights among Services are in the load assignment. Only what cannot be sent to is here: a change of that is rare,
    and closes connections.
    """
    if not is_tcp(upstream):
        return ()
    divided = upstream.split
    if fault or (divided is not None and not divided.shares):
        return ((names.UNAVAILABLE, 1),)
    lost = ((names.UNAVAILABLE, divided.lost),) if divided and divided.lost else ()
    return ((name(upstream), sum(share.weight for share in divided.shares) if lost and divided else 1), *lost)


def listener(frame: Frame, upstream: Outbound, fault: str) -> pb.Listener:
    return pb.Listener(
        name=names.outbound_listener(upstream.identity, upstream.listen),
        address=listen_address(upstream.listen),
        traffic_direction=pb.TrafficDirection.OUTBOUND,
        filter_chains=[pb.FilterChain(filters=[_filter(frame, upstream, fault)])],
        per_connection_buffer_limit_bytes=pb.uint32(1024 * 1024),
    )


def _filter(frame: Frame, upstream: Outbound, fault: str) -> pb.Filter:
    log = _log(frame, upstream)
    stat_prefix = f"outbound_{upstream.port}_{upstream.service}"
    if not is_tcp(upstream):
        return http.manager(
            http.Manager(
                stat_prefix=stat_prefix, route=name(upstream), log=log, filters=http.calling_filters(), inbound=False
            )
        )
    proxy = pb.TcpProxy(
        stat_prefix=stat_prefix,
        max_connect_attempts=pb.uint32(_LOCAL_FAILURES + 1),
        idle_timeout=pb.duration(TCP_IDLE_SECONDS),
        access_log=[log],
    )
    shares = tcp_shares(upstream, fault)
    if len(shares) == 1:
        proxy.cluster = shares[0][0]
    else:
        weights = [pb.TcpProxy.WeightedCluster.ClusterWeight(name=cluster, weight=weight) for cluster, weight in shares]
        proxy.weighted_clusters.CopyFrom(pb.TcpProxy.WeightedCluster(clusters=weights))
    return network_filter("envoy.filters.network.tcp_proxy", proxy)


def _log(frame: Frame, upstream: Outbound) -> pb.AccessLog:
    namespace, _, account = upstream.identity.partition("/")
    fields = log_fields(
        direction="outbound",
        service=f"{upstream.service}:{upstream.port}",
        http=not is_tcp(upstream),
        source=f"spiffe://{frame.trust_domain}/ns/{namespace}/sa/{account}",
        destination="%UPSTREAM_PEER_URI_SAN%",
    )
    return access_log(frame.access_log, fields)


def route(upstream: Outbound, fault: str) -> pb.RouteConfiguration:
    """To its clusters, or the reason why there is none."""
    if fault:
        chosen = [http.answer(503, fault)]
    elif upstream.entries is not None:
        chosen = list(
            routes.routes(
                upstream.entries, lambda target: cluster_name(upstream.identity, target), _retries(), upstream.port
            )
        )
    else:
        here, policies = cluster_name(upstream.identity, upstream.target), _retries()
        chosen = [
            http.idempotent(http.to_cluster(here, policies.idempotent)),
            http.to_cluster(here, policies.other),
        ]
    return http.route_config(name(upstream), *chosen, response_headers_to_remove=[names.UNREACHED])


def _retries() -> http.RetryPolicies:
    return http.RetryPolicies(
        idempotent=http.retry_elsewhere(RETRY_IDEMPOTENT_ON, retries=_RETRIES),
        other=http.retry_elsewhere(RETRY_ON, retries=_RETRIES),
    )


def cluster_name(identity: str, target: Target) -> str:
    return names.outbound(identity, target.service, target.port)


def cluster(frame: Frame, backend: Backend) -> pb.Cluster:
    """A Service's port as this identity calls it."""
    tcp = backend.protocol == "tcp"
    service, port = backend.target.service, backend.target.port
    found = pb.Cluster(
        name=cluster_name(backend.identity, backend.target),
        type=pb.Cluster.EDS,
        eds_cluster_config=pb.Cluster.EdsClusterConfig(eds_config=ADS, service_name=backend.assignment.name),
        connect_timeout=pb.duration(CONNECT_SECONDS),
        circuit_breakers=limits(),
        outlier_detection=_outliers(),
        common_lb_config=pb.Cluster.CommonLbConfig(
            # Never to those who say of themselves that they are not well (mesh.compile.endpoints has the last resort).
            healthy_panic_threshold=pb.Percent(value=0),
            # Envoy's own window would hold changes of health back for up to a second.
            update_merge_window=pb.duration(0),
        ),
        ignore_health_on_host_removal=True,
        upstream_bind_config=pb.BindConfig(socket_options=socket_options()),
    )
    if backend.route is not None:
        found.transport_socket_matches.extend(_sockets(frame, backend))
        # What no match is found for would be called in plaintext: let it be called as nobody instead.
        found.transport_socket.CopyFrom(tls.client(backend.identity, names.UNAVAILABLE, (tls.NOBODY,)))
        found.common_lb_config.locality_weighted_lb_config.SetInParent()
    else:
        server_name = names.sni(service, port, frame.cluster)
        socket = tls.client(backend.identity, server_name, backend.accounts, () if tcp else ("h2",))
        found.transport_socket.CopyFrom(socket)
    if tcp:
        return found
    options = http2_upstream(idle_seconds=_HTTP2_IDLE_SECONDS, keepalive=_PING)
    # Ended as HTTP/2 does it, after the last answer: no request is lost.
    options.common_http_protocol_options.max_connection_duration.CopyFrom(pb.duration(backend.age))
    return set_http(found, options)


def _sockets(frame: Frame, backend: Backend) -> Iterator[pb.Cluster.TransportSocketMatch]:
    """A TLS context for each Service whose endpoints are in the assignment."""
    for part in backend.assignment.parts:
        said = pb.Struct()
        said.update({endpoints.SOCKET: part.socket})
        server_name = names.sni(part.target.service, part.target.port, frame.cluster)
        socket = tls.client(backend.identity, server_name, part.accounts)
        yield pb.Cluster.TransportSocketMatch(name=part.socket, match=said, transport_socket=socket)


def _outliers() -> pb.OutlierDetection:
    """Past the dead while nobody can say that they are dead. Short and often, and never the last host.

    75 % of three hosts are two, of two one, of one none.
    """
    return pb.OutlierDetection(
        interval=pb.duration(2),
        base_ejection_time=pb.duration(5),
        max_ejection_time=pb.duration(60),
        max_ejection_percent=pb.uint32(75),
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=pb.uint32(_LOCAL_FAILURES),
        enforcing_consecutive_local_origin_failure=pb.uint32(100),
        consecutive_gateway_failure=pb.uint32(5),
        enforcing_consecutive_gateway_failure=pb.uint32(100),
        enforcing_consecutive_5xx=pb.uint32(0),
        enforcing_success_rate=pb.uint32(0),
        enforcing_local_origin_success_rate=pb.uint32(0),
    )


def unavailable_cluster() -> pb.Cluster:
    return static_cluster(names.UNAVAILABLE, [])
