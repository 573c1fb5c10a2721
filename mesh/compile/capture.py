"""What is redirected to the proxy: one listener per identity, on loopback, and a filter chain for each destination.

A redirected connection remembers where it was made to (SO_ORIGINAL_DST), and that alone chooses its chain: a virtual
address and port leads to what an explicit upstream of that Service leads to. Whatever no chain is for is closed: an
address that nobody was told of, and who comes to the listener itself. Chains come and go one by one, and close no
connections but their own; routes, endpoints and policies are in none of them.

Where a host captures more (agent.yaml, `capture.outbound`), other destinations go on as they are, as far as
MeshConfig.spec.egress lets them. Loopback never does: it would lead back to here.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mesh import pb
from mesh.compile import names, outbound
from mesh.compile.inbound import TCP_IDLE_SECONDS
from mesh.compile.parts import (
    CONNECT_SECONDS,
    access_log,
    limits,
    log_fields,
    network_filter,
    socket_options,
    tcp_address,
)
from mesh.compile.view import Egress, Frame, Outbound
from mesh.model import Ref
from mesh.model.checks import place

_LOOPBACK = (
    pb.CidrRange(address_prefix="127.0.0.0", prefix_len=pb.uint32(8)),
    pb.CidrRange(address_prefix="::1", prefix_len=pb.uint32(128)),
)


class Chain(NamedTuple):
    """One Service called by name, and why it cannot be called, if it cannot."""

    upstream: Outbound
    fault: str


def inputs(chain: Chain) -> tuple[object, ...]:
    """What a chain depends on: not on routes or endpoints."""
    one = chain.upstream
    tcp = outbound.tcp_shares(one, chain.fault)
    return (one.listen, one.service, one.port, outbound.is_tcp(one), tcp, one.idle)


def sources(chain: Chain) -> tuple[Ref, ...]:
    one = chain.upstream
    return (one.source, *(one.policies if one.idle else ()))


def listener(frame: Frame, identity: str, port: int, chains: Iterable[Chain]) -> pb.Listener:
    """Never without a chain: Envoy refuses such a listener."""
    made = pb.Listener(
        name=names.capture_listener(identity),
        address=tcp_address("127.0.0.1", port),
        traffic_direction=pb.TrafficDirection.OUTBOUND,
        listener_filters=[
            pb.ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=pb.any_of(pb.OriginalDst()))
        ],
        filter_chains=[_chain(frame, chain) for chain in chains],
        per_connection_buffer_limit_bytes=pb.uint32(1024 * 1024),
    )
    if frame.egress is not None:
        if frame.egress.ipv6:
            made.additional_addresses.add(address=tcp_address("::1", port))
        _others(made, frame, identity, frame.egress)
    return made


def _chain(frame: Frame, chain: Chain) -> pb.FilterChain:
    one = chain.upstream
    address, _, port = one.listen.rpartition(":")
    return pb.FilterChain(
        name=f"{one.service}:{one.port}",
        filter_chain_match=_to(port=int(port), address=address),
        filters=[outbound.to_service(frame, one, chain.fault)],
    )


def _to(*, port: int = 0, address: str = "") -> pb.FilterChainMatch:
    match = pb.FilterChainMatch()
    if port:
        match.destination_port.value = port
    if address:
        length = 128 if ":" in address else 32
        match.prefix_ranges.append(pb.CidrRange(address_prefix=address, prefix_len=pb.uint32(length)))
    return match


def _others(made: pb.Listener, frame: Frame, identity: str, egress: Egress) -> None:
    """Destinations that are no virtual addresses."""
    made.filter_chains.extend(_registered(frame, identity, egress))
    # Envoy looks for the port first, and does not go back: what a port's chains do not take goes to the default.
    ports = sorted({chain.filter_chain_match.destination_port.value for chain in made.filter_chains})
    for port in (0, *ports):
        match = _to(port=port)
        match.prefix_ranges.extend(_LOOPBACK if egress.ipv6 else _LOOPBACK[:1])
        made.filter_chains.append(
            pb.FilterChain(
                name=f"loopback:{port}" if port else "loopback",
                filter_chain_match=match,
                filters=[_plain(frame, identity, names.UNAVAILABLE)],
            )
        )
    cluster = names.PASSTHROUGH if egress.allow else names.UNAVAILABLE
    made.default_filter_chain.CopyFrom(pb.FilterChain(name="others", filters=[_plain(frame, identity, cluster)]))


def _registered(frame: Frame, identity: str, egress: Egress) -> Iterator[pb.FilterChain]:
    for address, port, _ in () if egress.allow else egress.registered:
        yield pb.FilterChain(
            name=f"registered:{place(address, port)}",
            filter_chain_match=_to(port=port, address=address),
            filters=[_plain(frame, identity, names.PASSTHROUGH)],
        )


def _plain(frame: Frame, identity: str, cluster: str) -> pb.Filter:
    """On to where it was made to, or closed."""
    namespace, _, account = identity.partition("/")
    fields = log_fields(
        direction="outbound",
        service=cluster,
        http=False,
        source=f"spiffe://{frame.trust_domain}/ns/{namespace}/sa/{account}",
        destination="%DOWNSTREAM_LOCAL_ADDRESS%",
    )
    proxy = pb.TcpProxy(
        stat_prefix=f"outbound_{cluster}",
        cluster=cluster,
        idle_timeout=pb.duration(TCP_IDLE_SECONDS),
        access_log=[access_log(frame.access_log, fields)],
    )
    return network_filter("envoy.filters.network.tcp_proxy", proxy)


def passthrough() -> pb.Cluster:
    """Dials what the application dialled."""
    return pb.Cluster(
        name=names.PASSTHROUGH,
        type=pb.Cluster.ORIGINAL_DST,
        lb_policy=pb.Cluster.CLUSTER_PROVIDED,
        connect_timeout=pb.duration(5 * CONNECT_SECONDS),
        circuit_breakers=limits(),
        upstream_bind_config=pb.BindConfig(socket_options=socket_options()),
    )
