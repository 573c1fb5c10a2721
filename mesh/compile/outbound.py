"""What applications of this host call: a listener each, strict mTLS behind it.

A listener stays the same while its upstream's protocol family does: Services come and go in routes, endpoints in load
assignments, and neither closes a connection.
"""

from collections.abc import Iterator

from mesh import pb
from mesh.compile import clusters, faults, http, names, routes
from mesh.compile import tries as trying
from mesh.compile.inbound import TCP_IDLE_SECONDS
from mesh.compile.parts import access_log, listen_address, log_fields, network_filter, static_cluster
from mesh.compile.view import Frame, Outbound
from mesh.model.duration import seconds

TCP_ATTEMPTS = clusters.LOCAL_FAILURES + 1
"""TCP has no memory of hosts that were tried: with one attempt more than failures eject a host, a connection does not
fail because of one dead host, whatever others do at the same time."""

BETWEEN_ATTEMPTS = pb.BackoffStrategy(base_interval=pb.duration(0.01), max_interval=pb.duration(0.1))
"""Ejection is decided in another thread: without a pause all attempts would be over before it."""

NO_CERTIFICATE = "this host holds no certificate yet for the identity that calls"


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
    if upstream.external:
        return ((clusters.name(upstream.identity, upstream.target), 1),)
    return ((name(upstream), sum(share.weight for share in divided.shares) if lost and divided else 1), *lost)


def listener(frame: Frame, upstream: Outbound, fault: str) -> pb.Listener:
    return pb.Listener(
        name=names.outbound_listener(upstream.identity, upstream.listen),
        address=listen_address(upstream.listen, upstream.mode),
        traffic_direction=pb.TrafficDirection.OUTBOUND,
        filter_chains=[pb.FilterChain(filters=[to_service(frame, upstream, fault)])],
        per_connection_buffer_limit_bytes=pb.uint32(1024 * 1024),
    )


def to_service(frame: Frame, upstream: Outbound, fault: str) -> pb.Filter:
    """What takes a connection to where the upstream leads."""
    log = _log(frame, upstream)
    stat_prefix = f"outbound_{upstream.port}_{upstream.service}"
    if not is_tcp(upstream):
        return http.manager(
            http.Manager(
                stat_prefix=stat_prefix,
                route=name(upstream),
                log=log,
                filters=http.calling_filters(),
                replies=(http.fault_reply(),),
                inbound=False,
            )
        )
    proxy = pb.TcpProxy(
        stat_prefix=stat_prefix,
        max_connect_attempts=pb.uint32(TCP_ATTEMPTS),
        backoff_options=BETWEEN_ATTEMPTS,
        idle_timeout=pb.duration(seconds(upstream.idle) if upstream.idle else TCP_IDLE_SECONDS),
        # Always: without it a policy that hashes would change the listener, and close its connections. Where nobody
        # hashes it does nothing.
        hash_policy=[pb.TcpHashPolicy(source_ip=pb.TcpHashPolicy.SourceIp())],
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
    chosen = [http.answer(503, fault)] if fault else faults.faulted(_routes(upstream), upstream.handling.faults)
    return http.route_config(
        name(upstream),
        *chosen,
        response_headers_to_remove=[*names.RETRIED_FOR, names.FAULT],
        # A delay; what is aborted says so itself.
        response_headers_to_add=[http.set_header(names.FAULT, http.FAULT)] if upstream.handling.faults else [],
    )


def _routes(upstream: Outbound) -> Iterator[pb.Route]:
    tries = trying.tries(upstream.handling, upstream.protocol, spans=upstream.spans)
    if upstream.entries is not None:
        yield from routes.routes(
            upstream.entries,
            lambda target: clusters.name(upstream.identity, target),
            upstream.hash_keys,
            dict(upstream.hosts),
            tries,
            upstream.port,
        )
        return
    here = clusters.name(upstream.identity, upstream.target)
    for found in (
        http.idempotent(http.to_cluster(here, tries.idempotent, seconds=tries.seconds)),
        http.to_cluster(here, tries.other, seconds=tries.seconds),
    ):
        found.route.hash_policy.extend(routes.hash_policies(upstream.hash_keys((upstream.target,))))
        for _, called in upstream.hosts:
            found.route.host_rewrite_literal = called
        yield routes.outside(found) if upstream.external else found


def unavailable_cluster() -> pb.Cluster:
    return static_cluster(names.UNAVAILABLE, [])
