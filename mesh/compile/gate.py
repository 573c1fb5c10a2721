"""The store gate: etcd's Range and Watch for agents, and nothing else of etcd for anybody."""

from mesh import pb
from mesh.compile import access, http, names, ratelimit, tls
from mesh.compile.inbound import HANDSHAKE_SECONDS
from mesh.compile.parts import (
    CONNECT_SECONDS,
    access_log,
    http2_upstream,
    http_filter,
    listen_address,
    log_fields,
    network_filter,
    set_http,
    socket_options,
    static_cluster,
)
from mesh.compile.view import Frame
from mesh.model import GateSpec

RANGE, WATCH = "/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch"
PATHS = (RANGE, WATCH)
ALLOWED, DENIED = "gate-read", "gate-read-only"

MAX_CONNECTIONS = 20_000
MAX_STREAMS = 64
"""Of one connection. An agent needs a handful: its watches, and the pages of a list."""

_IDLE_SECONDS = 60.0
"""Connections are a thing that one node can take from others. A new one costs an agent some milliseconds."""

_READ_SECONDS = 60.0
"""The longest that a read may take, its request included: a page of a list over a slow link."""

_PATIENCE_SECONDS = 1.0
"""A read that has no answer by then is asked of another member as well, and the first answer counts."""

# Of one node. An agent that lists everything again after a loss needs some hundred requests, then hardly any.
READS = ratelimit.Bucket(burst=1000, per_second=100)
# It watches once; again when what it follows is another, and every few seconds while the store is away.
WATCHES = ratelimit.Bucket(burst=60, per_second=1, path=WATCH)
MOST_NODES = 20_000


def listener(frame: Frame, spec: GateSpec) -> pb.Listener:
    limit = pb.ConnectionLimit(stat_prefix=names.GATE, max_connections={"value": MAX_CONNECTIONS})
    chain = pb.FilterChain(
        name=names.GATE,
        transport_socket=tls.server(names.GATE, ("h2",), bundle=names.bundle((frame.trust_domain,))),
        transport_socket_connect_timeout=pb.duration(HANDSHAKE_SECONDS),
        filters=[network_filter("envoy.filters.network.connection_limit", limit), _manager(frame)],
    )
    return pb.Listener(
        name=names.GATE,
        address=listen_address(spec.listen),
        traffic_direction=pb.TrafficDirection.INBOUND,
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=pb.uint32(1024 * 1024),
        socket_options=socket_options(),
    )


def _manager(frame: Frame) -> pb.Filter:
    prefixes = tuple(f"spiffe://{frame.trust_domain}/{kind}/" for kind in ("node", "controlplane"))
    fields = log_fields(
        direction="gate",
        service="etcd",
        http=True,
        source="%DOWNSTREAM_PEER_URI_SAN%",
        destination="%DOWNSTREAM_LOCAL_URI_SAN%",
        rule=http.RULE,
    )
    return http.manager(
        http.Manager(
            stat_prefix=names.GATE,
            route=names.GATE,
            log=access_log(frame.access_log, fields),
            filters=(*http.rbac_filters(access.grpc_calls(ALLOWED, PATHS, prefixes, DENIED)), _rate_limit()),
            replies=(http.denial_reply(),),
            grpc=True,
            http2_only=True,
            idle_seconds=_IDLE_SECONDS,
            stream_idle_seconds=0,  # a watch may be quiet for days; pings tell whether its client lives
            max_streams=MAX_STREAMS,
        )
    )


def _rate_limit() -> pb.HttpFilter:
    limit = ratelimit.per_caller(names.GATE, READS, WATCHES, most=MOST_NODES)
    return http_filter(ratelimit.FILTER, limit)


def route() -> pb.RouteConfiguration:
    unseen = ("connect-failure", "refused-stream", "reset-before-request")
    return http.route_config(
        names.GATE,
        _reads(_elsewhere(*unseen, "reset")),
        http.to_cluster(names.GATE_CLUSTER, _elsewhere(*unseen)),
        # Whatever a caller would say to etcd of itself: the gate's certificate is the only credential there.
        request_headers_to_remove=["authorization", "token", "x-forwarded-client-cert"],
    )


def _elsewhere(*conditions: str) -> pb.RetryPolicy:
    policy = http.retry_elsewhere(conditions, retries=2)
    # A watch counts as a request under way, so a member that has just died has the least of them, and is found in more
    # than half of all choices: with three at a time, one read of two hundred was led to it alone.
    policy.host_selection_retry_max_attempts = 12
    return policy


def _reads(retry: pb.RetryPolicy) -> pb.Route:
    """A frozen member takes requests and never answers: not one of them waits until that has been noticed."""
    retry.per_try_timeout.CopyFrom(pb.duration(_PATIENCE_SECONDS))
    found = http.to_cluster(names.GATE_CLUSTER, retry)
    found.match.path = RANGE
    found.route.max_stream_duration.max_stream_duration.CopyFrom(pb.duration(_READ_SECONDS))
    # The first try goes on: a slow answer is as good as any.
    found.route.hedge_policy.hedge_on_per_try_timeout = True
    return found


def cluster(spec: GateSpec) -> pb.Cluster:
    """The members. A frozen one gets no new streams within 3 s; its own are cut within 9 s, so that they move.

    The former is the health check, the latter pings: a failed check drains HTTP/2, and a watch would never end.
    """
    places = []
    for member in spec.etcd:
        host, _, port = member.rpartition(":")
        places.append((host.removeprefix("[").removesuffix("]"), int(port)))
    found = static_cluster(names.GATE_CLUSTER, places)
    found.lb_policy = pb.Cluster.LEAST_REQUEST
    found.transport_socket.CopyFrom(
        tls.files_client(ca=spec.etcd_ca, cert=spec.etcd_cert, key=spec.etcd_key, server_name=spec.etcd_server_name)
    )
    found.health_checks.append(
        # With TLS this is a whole handshake, so a frozen member, whose kernel still accepts, fails it.
        pb.HealthCheck(
            timeout=pb.duration(CONNECT_SECONDS),
            interval=pb.duration(0.5),
            no_traffic_interval=pb.duration(0.5),
            unhealthy_threshold=pb.uint32(2),
            healthy_threshold=pb.uint32(1),
            tcp_health_check=pb.HealthCheck.TcpHealthCheck(),
        )
    )
    found.outlier_detection.CopyFrom(
        pb.OutlierDetection(
            interval=pb.duration(2),
            base_ejection_time=pb.duration(5),
            max_ejection_time=pb.duration(30),
            max_ejection_percent=pb.uint32(67),
            split_external_local_origin_errors=True,
            consecutive_local_origin_failure=pb.uint32(2),
            enforcing_consecutive_local_origin_failure=pb.uint32(100),
            consecutive_gateway_failure=pb.uint32(5),
            enforcing_consecutive_gateway_failure=pb.uint32(100),
            enforcing_consecutive_5xx=pb.uint32(0),
            enforcing_success_rate=pb.uint32(0),
        )
    )
    found.close_connections_on_host_health_failure = True
    found.common_lb_config.healthy_panic_threshold.CopyFrom(pb.Percent(value=0))
    # etcd takes pings at most every 5 s (grpc-keepalive-min-time) and hangs up on whoever sends more. Envoy adds up to
    # 15 % to the interval.
    return set_http(found, http2_upstream(idle_seconds=3600, keepalive=(5.5, 2.5)))
