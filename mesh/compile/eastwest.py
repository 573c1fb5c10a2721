"""East-west gateways: one port, a filter chain for each Service's port by its SNI, and on to its endpoints as it is.

TLS is not terminated, so there is nothing here that could be stolen or forged: the certificates of both ends meet each
other, and the callee says who may call it. What has no chain is closed before anything is sent anywhere.

What is exported has a chain for each peer whose networks are known, so that each has its own bound, and one for all
others. What is imported has one, for callers of this cluster, told by where they come from: nothing else can be seen of
them here.
"""

from collections.abc import Iterator

from mesh import pb
from mesh.compile import clusters, names, outbound
from mesh.compile.inbound import HANDSHAKE_SECONDS, TCP_IDLE_SECONDS
from mesh.compile.parts import (
    ADS,
    CONNECT_SECONDS,
    access_log,
    host_address,
    limits,
    network_filter,
    socket_options,
    tls_inspector,
)
from mesh.compile.view import Frame, Gateway, Passage
from mesh.model.policyspec import CircuitBreaking, OutlierDetection
from mesh.model.reach import sound

_OUTLIERS = OutlierDetection(consecutive_gateway_errors=0)
"""Only connections that fail: nothing else can be seen from here."""

_UNBOUNDED = CircuitBreaking(max_connections=2**31, max_pending_requests=2**31)

_FIELDS = {
    "time": "%START_TIME%",
    "direction": "gateway",
    "protocol": "tls",
    "sni": "%REQUESTED_SERVER_NAME%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%CONNECTION_TERMINATION_DETAILS%",
    "peer_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "upstream_host": "%UPSTREAM_HOST%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "connection_id": "%CONNECTION_ID%",
}


def listener(frame: Frame, gateway: Gateway) -> pb.Listener:
    """Never without a chain: Envoy refuses such a listener."""
    return pb.Listener(
        name=names.GATEWAY,
        address=host_address(frame.address, gateway.spec.port),
        traffic_direction=pb.TrafficDirection.INBOUND,
        listener_filters=[tls_inspector()],
        listener_filters_timeout=pb.duration(HANDSHAKE_SECONDS),
        filter_chains=[chain for passage in gateway.passages for chain in _chains(frame, gateway, passage)],
        access_log=[_unknown(frame)],
        per_connection_buffer_limit_bytes=pb.uint32(1024 * 1024),
        socket_options=socket_options(),
    )


def _unknown(frame: Frame) -> pb.AccessLog:
    """Connections that no chain was for."""
    log = access_log(frame.access_log, _FIELDS)
    log.filter.CopyFrom(pb.AccessLogFilter(response_flag_filter={"flags": ["NR"]}))
    return log


def _chains(frame: Frame, gateway: Gateway, passage: Passage) -> Iterator[pb.FilterChain]:
    if passage.target.service.peer:
        yield _chain(frame, gateway, passage, "", sound(gateway.spec.source_ranges))
        return
    yield _chain(frame, gateway, passage, "", ())
    for peer, networks in passage.peers:
        yield _chain(frame, gateway, passage, peer, networks)


def _chain(frame: Frame, gateway: Gateway, passage: Passage, peer: str, networks: tuple[str, ...]) -> pb.FilterChain:
    """For connections from these networks, or from all that are in none of another chain."""
    service, port = passage.target.service, passage.target.port
    server_name = names.sni(service, port, frame.cluster)
    stat_prefix = f"gateway_{port}_{service}" + (f"_{peer}" if peer else "")
    whose = {"peer": peer} if peer else {}
    limit = pb.ConnectionLimit(stat_prefix=stat_prefix, max_connections={"value": gateway.spec.connections_per_service})
    proxy = pb.TcpProxy(
        stat_prefix=stat_prefix,
        cluster=passage.assignment.name,
        max_connect_attempts=pb.uint32(outbound.TCP_ATTEMPTS),
        backoff_options=outbound.BETWEEN_ATTEMPTS,
        idle_timeout=pb.duration(TCP_IDLE_SECONDS),
        access_log=[access_log(frame.access_log, {**_FIELDS, "service": f"{service}:{port}", **whose})],
    )
    return pb.FilterChain(
        name=f"{server_name}|{peer}" if peer else server_name,
        filter_chain_match=pb.FilterChainMatch(
            server_names=[server_name],
            transport_protocol="tls",
            source_prefix_ranges=[_range(network) for network in networks],
        ),
        filters=[
            network_filter("envoy.filters.network.connection_limit", limit),
            network_filter("envoy.filters.network.tcp_proxy", proxy),
        ],
    )


def _range(network: str) -> pb.CidrRange:
    address, _, bits = network.rpartition("/")
    return pb.CidrRange(address_prefix=address, prefix_len=pb.uint32(int(bits)))


def cluster(passage: Passage) -> pb.Cluster:
    """Its endpoints' mTLS ports: what comes is TLS already."""
    return pb.Cluster(
        name=passage.assignment.name,
        type=pb.Cluster.EDS,
        eds_cluster_config=pb.Cluster.EdsClusterConfig(eds_config=ADS, service_name=passage.assignment.name),
        connect_timeout=pb.duration(CONNECT_SECONDS),
        # All chains share it: what bounds connections is theirs, so that nobody uses up what is another's.
        circuit_breakers=limits(_UNBOUNDED),
        outlier_detection=clusters.outliers(_OUTLIERS),
        # Not by least connections: who is dead has none, and would be tried again and again.
        lb_policy=pb.Cluster.ROUND_ROBIN,
        common_lb_config=pb.Cluster.CommonLbConfig(
            healthy_panic_threshold=pb.Percent(value=0), update_merge_window=pb.duration(0)
        ),
        ignore_health_on_host_removal=True,
        upstream_bind_config=pb.BindConfig(socket_options=socket_options()),
    )
