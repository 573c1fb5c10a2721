"""Clusters of what is called: strict mTLS, with the mesh's limits, or what policies say instead.

Where a TCPRoute shares out connections, one cluster has the endpoints of several Services: what it can have only once
is said by policies for the Service that is called. Labels and places are each Service's own.
"""

from collections.abc import Iterator

from mesh import pb
from mesh.compile import endpoints, names, tls
from mesh.compile.parts import ADS, CONNECT_SECONDS, http2_upstream, limits, set_http, socket_options
from mesh.compile.rules import Target
from mesh.compile.view import Backend, Connections, Frame
from mesh.model.duration import seconds
from mesh.model.policyspec import ClientHealthCheck, LoadBalancing, OutlierDetection, SlowStart, TcpKeepalive

_POLICIES = {
    "RoundRobin": pb.Cluster.ROUND_ROBIN,
    "LeastRequest": pb.Cluster.LEAST_REQUEST,
    "Random": pb.Cluster.RANDOM,
    # Envoy's ring gives each endpoint more places when others leave, and so moves keys of endpoints that stay, about as
    # many again as have to move; Maglev's table does not (docs/decisions/012).
    "RingHash": pb.Cluster.MAGLEV,
    "Maglev": pb.Cluster.MAGLEV,
}

# Between proxies HTTP is always HTTP/2: it says goodbye before it closes, so restarts and renewals lose no request.
_HTTP2_IDLE_SECONDS = 300.0
_PING = (10.0, 5.0)

_OUTLIERS = OutlierDetection()
"""Past the dead while nobody can say that they are dead. Short and often, and never the last host.

75 % of three hosts are two, of two one, of one none.
"""

_FAR_OUTLIERS = OutlierDetection(consecutive_gateway_errors=0)
"""Towards other clusters. A gateway stands for many instances: what one of them answers speaks against no other, and
only connections that fail speak against the gateway."""

_FAR_STREAMS = 32
"""Of one connection. A gateway gives each connection to one instance, so calls need several to reach several."""

_FAR_AGE = 300
"""Seconds that such a connection lives: what is new behind a gateway gets its share after that."""

LOCAL_FAILURES = _OUTLIERS.consecutive_connect_failures
"""So many failed connects in a row eject a host, unless a policy says otherwise."""


def name(identity: str, target: Target) -> str:
    if target.external:
        return names.external(identity, target.service, target.port)
    return names.outbound(identity, target.service, target.port, target.subset)


def cluster(frame: Frame, backend: Backend) -> pb.Cluster:
    """A Service's port as this identity calls it."""
    tcp, said = backend.protocol == "tcp", backend.connections
    found = pb.Cluster(
        name=name(backend.identity, backend.target),
        type=pb.Cluster.EDS,
        eds_cluster_config=pb.Cluster.EdsClusterConfig(eds_config=ADS, service_name=backend.assignment.name),
        connect_timeout=pb.duration(seconds(said.connect) if said.connect else CONNECT_SECONDS),
        circuit_breakers=limits(said.breaking, said.budget),
        outlier_detection=outliers(said.outliers or (_FAR_OUTLIERS if backend.assignment.far else None)),
        common_lb_config=pb.Cluster.CommonLbConfig(
            # Never to those who say of themselves that they are not well (mesh.compile.endpoints has the last resort).
            healthy_panic_threshold=pb.Percent(value=said.balancing.panic_percent if said.balancing else 0),
            # Envoy's own window would hold changes of health back for up to a second.
            update_merge_window=pb.duration(0),
        ),
        ignore_health_on_host_removal=True,
        upstream_bind_config=pb.BindConfig(socket_options=socket_options(said.keepalive or TcpKeepalive())),
    )
    balance(found, said.balancing or LoadBalancing())
    if backend.route is not None or any(part.spread and part.spread.weights for part in backend.assignment.parts):
        found.common_lb_config.locality_weighted_lb_config.SetInParent()
    _secure(found, frame, backend)
    if said.health:
        found.health_checks.append(_health_check(frame, backend, said.health))
    return found if tcp else set_http(found, _http(backend, said))


def _secure(found: pb.Cluster, frame: Frame, backend: Backend) -> None:
    if backend.route is not None:
        found.transport_socket_matches.extend(_sockets(frame, backend))
        # What no match is found for would be called in plaintext: let it be called as nobody instead.
        found.transport_socket.CopyFrom(tls.client(backend.identity, names.UNAVAILABLE, (tls.NOBODY,)))
        return
    # Endpoints of other clusters are matched; this cluster's own never say anything, so that to be in several clusters
    # changes nothing for them.
    found.transport_socket_matches.extend(_sockets(frame, backend))
    server_name = names.sni(backend.target.service, backend.target.port, frame.cluster)
    alpn = () if backend.protocol == "tcp" else ("h2",)
    found.transport_socket.CopyFrom(tls.client(backend.identity, server_name, backend.accounts, alpn))


def _sockets(frame: Frame, backend: Backend) -> Iterator[pb.Cluster.TransportSocketMatch]:
    """A TLS context for each Service whose endpoints are named in the assignment.

    Subsets of one have the same context in several assignments.
    """
    alpn = () if backend.protocol == "tcp" else ("h2",)
    for part in backend.assignment.named:
        said = pb.Struct()
        said.update({endpoints.SOCKET: part.socket})
        server_name = names.sni(part.target.service, part.target.port, frame.cluster)
        socket = tls.client(backend.identity, server_name, part.accounts, alpn)
        yield pb.Cluster.TransportSocketMatch(name=part.socket, match=said, transport_socket=socket)


def _http(backend: Backend, said: Connections) -> pb.UpstreamHttpOptions:
    idle = seconds(said.idle) if said.idle else _HTTP2_IDLE_SECONDS
    options = http2_upstream(idle_seconds=idle, keepalive=_PING)
    common = options.common_http_protocol_options
    # Ended as HTTP/2 does it, after the last answer: no request is lost.
    far = backend.assignment.far
    common.max_connection_duration.CopyFrom(pb.duration(min(backend.age, _FAR_AGE) if far else backend.age))
    if far:
        options.explicit_http_config.http2_protocol_options.max_concurrent_streams.value = _FAR_STREAMS
    if said.breaking and said.breaking.max_requests_per_connection:
        common.max_requests_per_connection.value = said.breaking.max_requests_per_connection
    return options


# --- who gets the next one -------------------------------------------------------------------------------------------


def balance(found: pb.Cluster, balancing: LoadBalancing) -> None:
    found.lb_policy = _POLICIES[balancing.algorithm]
    if balancing.algorithm == "LeastRequest":
        found.least_request_lb_config.choice_count.value = balancing.choices
    if balancing.slow_start and balancing.algorithm == "LeastRequest":
        found.least_request_lb_config.slow_start_config.CopyFrom(_slow_start(balancing.slow_start))
    elif balancing.slow_start:
        found.round_robin_lb_config.slow_start_config.CopyFrom(_slow_start(balancing.slow_start))


def _slow_start(slow: SlowStart) -> pb.Cluster.SlowStartConfig:
    return pb.Cluster.SlowStartConfig(
        slow_start_window=pb.duration(seconds(slow.window)),
        aggression=pb.RuntimeDouble(default_value=slow.aggression, runtime_key="holdfast.no_such_key"),
        min_weight_percent=pb.Percent(value=slow.min_weight_percent),
    )


# --- who is left out -------------------------------------------------------------------------------------------------


def outliers(policy: OutlierDetection | None) -> pb.OutlierDetection:
    """A criterion of 0 is told to Envoy as one that is never enforced."""
    said = policy or _OUTLIERS
    found = pb.OutlierDetection(
        interval=pb.duration(seconds(said.interval)),
        base_ejection_time=pb.duration(seconds(said.base_ejection)),
        max_ejection_time=pb.duration(seconds(said.max_ejection)),
        max_ejection_percent=pb.uint32(said.max_ejection_percent),
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=pb.uint32(said.consecutive_connect_failures or LOCAL_FAILURES),
        enforcing_consecutive_local_origin_failure=_enforced(said.consecutive_connect_failures),
        consecutive_gateway_failure=pb.uint32(said.consecutive_gateway_errors or _OUTLIERS.consecutive_gateway_errors),
        enforcing_consecutive_gateway_failure=_enforced(said.consecutive_gateway_errors),
        enforcing_consecutive_5xx=_enforced(said.consecutive_errors),
        enforcing_success_rate=pb.uint32(0),
        enforcing_local_origin_success_rate=pb.uint32(0),
    )
    if said.consecutive_errors:
        found.consecutive_5xx.value = said.consecutive_errors
    return found


def _enforced(threshold: int) -> pb.UInt32Value:
    return pb.uint32(100 if threshold else 0)


def _health_check(frame: Frame, backend: Backend, said: ClientHealthCheck) -> pb.HealthCheck:
    """As a call of this identity: the callee's policies hold for it, and its log has it."""
    found = pb.HealthCheck(
        timeout=pb.duration(seconds(said.timeout)),
        interval=pb.duration(seconds(said.interval)),
        # Envoy would look every 60 s only while nobody calls.
        no_traffic_interval=pb.duration(seconds(said.interval)),
        interval_jitter_percent=10,
        healthy_threshold=pb.uint32(said.healthy_threshold),
        unhealthy_threshold=pb.uint32(said.unhealthy_threshold),
        # Each with a handshake of its own: no connection outlives the certificate that it was made with.
        reuse_connection=pb.BoolValue(value=False),
        event_logger=[
            pb.TypedExtensionConfig(
                name="envoy.health_check.event_sink.file",
                typed_config=pb.any_of(pb.HealthCheckEventFileSink(event_log_path=frame.access_log)),
            )
        ],
    )
    host = str(backend.target.service)
    if said.type == "http":
        found.http_health_check.CopyFrom(
            pb.HealthCheck.HttpHealthCheck(
                host=host,
                path=said.path,
                expected_statuses=[pb.Int64Range(start=200, end=300)],
                # All others count, up to the threshold; Envoy's own way is to take one for enough.
                retriable_statuses=[pb.Int64Range(start=100, end=600)],
                codec_client_type=pb.CodecClientType.HTTP2,
            )
        )
    elif said.type == "grpc":
        found.grpc_health_check.authority = host
    else:
        found.tcp_health_check.SetInParent()
    return found
