"""Clusters of what is outside of the mesh: dialled as it is, or by TLS that verifies the server, and never without.

Names are resolved by Envoy (c-ares) and kept for as long as DNS says. A name that cannot be resolved holds up nothing:
calls are answered 503 until it can.
"""

from mesh import pb
from mesh.compile import clusters, tls
from mesh.compile.parts import (
    http1_upstream,
    http2_upstream,
    limits,
    set_http,
    socket_options,
    static_cluster,
    tcp_address,
)
from mesh.compile.view import External, verifiable
from mesh.model.checks import ip_of
from mesh.model.duration import seconds
from mesh.model.policyspec import LoadBalancing, TcpKeepalive

_CONNECT_SECONDS = 5.0
"""With the handshake, and from far away."""

_IDLE_SECONDS = 60.0
"""Shorter than most servers': whoever hangs up second loses a request."""


def cluster(found: External) -> pb.Cluster:
    said = found.connections
    name = clusters.name(found.identity, found.target)
    if not verifiable(found.port, found.trust_file):
        return static_cluster(name, [])  # nobody is there
    made = pb.Cluster(
        name=name,
        connect_timeout=pb.duration(seconds(said.connect) if said.connect else _CONNECT_SECONDS),
        circuit_breakers=limits(said.breaking, said.budget),
        outlier_detection=clusters.outliers(said.outliers),
        common_lb_config=pb.Cluster.CommonLbConfig(healthy_panic_threshold=pb.Percent(value=0)),
        upstream_bind_config=pb.BindConfig(socket_options=socket_options(said.keepalive or TcpKeepalive())),
        load_assignment=_assignment(name, found),
    )
    if found.host:
        _resolve(made)
    else:
        made.type = pb.Cluster.STATIC
    clusters.balance(made, said.balancing or LoadBalancing())
    if found.port.tls.mode == "Originate":
        made.transport_socket.CopyFrom(_secure(found))
    return made if found.port.protocol == "tcp" else set_http(made, _http(found))


def _resolve(made: pb.Cluster) -> None:
    dns = pb.DnsCluster(
        respect_dns_ttl=True, dns_refresh_rate=pb.duration(5), dns_lookup_family=pb.DnsLookupFamily.V4_PREFERRED
    )
    made.cluster_type.CopyFrom(pb.Cluster.CustomClusterType(name="envoy.clusters.dns", typed_config=pb.any_of(dns)))
    made.wait_for_warm_on_init.CopyFrom(pb.BoolValue(value=False))


def _assignment(name: str, found: External) -> pb.ClusterLoadAssignment:
    port = found.port.target_port or found.port.port
    places = [
        pb.LbEndpoint(endpoint=pb.Endpoint(address=tcp_address(address, port)))
        for address in ([found.host] if found.host else found.addresses)
    ]
    return pb.ClusterLoadAssignment(cluster_name=name, endpoints=[pb.LocalityLbEndpoints(lb_endpoints=places)])


def _secure(found: External) -> pb.TransportSocket:
    said = found.port.tls
    sni = said.sni or found.host
    alpn = {"tcp": (), "http": ("http/1.1",)}.get(found.port.protocol, ("h2",))
    return tls.outside(
        sni=sni,
        names=[_name(text) for text in said.subject_alt_names or (sni,)],
        roots=pb.DataSource(inline_string=said.ca_certificates)
        if said.ca_certificates
        else pb.DataSource(filename=found.trust_file),
        alpn=alpn,
    )


def _name(text: str) -> pb.SubjectAltNameMatcher:
    kind = pb.SubjectAltNameMatcher.DNS
    if ip_of(text):
        kind = pb.SubjectAltNameMatcher.IP_ADDRESS
    elif "://" in text:
        kind = pb.SubjectAltNameMatcher.URI
    return pb.SubjectAltNameMatcher(san_type=kind, matcher=pb.StringMatcher(exact=text))


def _http(found: External) -> pb.UpstreamHttpOptions:
    said = found.connections
    idle = seconds(said.idle) if said.idle else _IDLE_SECONDS
    if found.port.protocol == "http":
        options = http1_upstream(idle_seconds=idle)
    else:
        options = http2_upstream(idle_seconds=idle, keepalive=None)
    if said.breaking and said.breaking.max_requests_per_connection:
        options.common_http_protocol_options.max_requests_per_connection.value = (
            said.breaking.max_requests_per_connection
        )
    return options
