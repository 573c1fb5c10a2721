"""The store gate: etcd's Range and Watch for agents, and nothing else of etcd for anybody."""

from mesh import pb
from mesh.compile import access, http, names, tls
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

_PATIENCE_SECONDS = 1.0
"""A read that has no answer by then is asked of another member as well, and the first answer counts."""

# Of one connection: an agent that lists everything again after a loss needs some hundred requests, then hardly any.
_BURST, _PER_SECOND = 1000, 100


def listener(frame: Frame, spec: GateSpec) -> pb.Listener:
    limit = pb.ConnectionLimit(stat_prefix=names.GATE, max_connections={"value": MAX_CONNECTIONS})
    chain = pb.FilterChain(
        name=names.GATE,
        transport_socket=tls.server(names.GATE, ("h2",)),
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
            stream_idle_seconds=0,  # a watch may be quiet for days; pings tell whether its client lives
            max_streams=MAX_STREAMS,
        )
    )


def _rate_limit() -> pb.HttpFilter:
    whole = pb.RuntimeFractionalPercent(
        default_value=pb.FractionalPercent(numerator=100, denominator=pb.FractionalPercent.HUNDRED)
    )
    limit = pb.LocalRateLimit(
        stat_prefix=names.GATE,
        token_bucket={
            "max_tokens": _BURST,
            "tokens_per_fill": pb.uint32(_PER_SECOND),
            "fill_interval": pb.duration(1),
        },
        filter_enabled=whole,
        filter_enforced=whole,
        local_rate_limit_per_downstream_connection=True,
        rate_limited_as_resource_exhausted=True,
    )
    return http_filter("envoy.filters.http.local_ratelimit", limit)


def route() -> pb.RouteConfiguration:
    unseen = ("connect-failure", "refused-stream", "reset-before-request")
    return http.route_config(
        names.GATE,
        _reads(http.retry_elsewhere((*unseen, "reset"), retries=2)),
        http.to_cluster(names.GATE_CLUSTER, http.retry_elsewhere(unseen, retries=2)),
        # Whatever a caller would say to etcd of itself: the gate's certificate is the only credential there.
        request_headers_to_remove=["authorization", "token", "x-forwarded-client-cert"],
    )


def _reads(retry: pb.RetryPolicy) -> pb.Route:
    """A frozen member takes requests and never answers: not one of them waits until that has been noticed."""
    retry.per_try_timeout.CopyFrom(pb.duration(_PATIENCE_SECONDS))
    found = http.to_cluster(names.GATE_CLUSTER, retry)
    found.match.path = RANGE
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
