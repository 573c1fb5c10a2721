"""A connection: the listener, the filter chain, the handshake, the network filters."""

from typing import Any

from mesh import pb
from mesh.compile.simulate import tls
from mesh.compile.simulate.fields import known, resource, unpack
from mesh.compile.simulate.manager import handle
from mesh.compile.simulate.request import Request
from mesh.compile.simulate.routing import weighted
from mesh.compile.simulate.rules import ruling
from mesh.compile.simulate.run import Run, shown
from mesh.compile.simulate.verdict import Closed, Deny, To, Unsupported, Verdict
from mesh.model.checks import place

_NETWORK = (pb.ConnectionLimit, pb.NetworkRbac, pb.TcpProxy, pb.HttpConnectionManager)


_ORIGINAL_DST = "envoy.filters.listener.original_dst"


def connect(
    run: Run, listener: str, request: Request, *, sni: str, encrypted: bool, to: str = "", source: str = ""
) -> Verdict:
    """What becomes of a connection, and of the request on it.

    `to`: where it was made to, if it was redirected. `source`: the caller's address, if it matters.
    """
    found = _listener(run, listener)
    if found is None:
        return Closed(reason=f"nothing listens as {listener}")
    name = shown(pb.LISTENER, found.name)
    run.note("listener", name, "address", listener)
    redirected = any(entry.name == _ORIGINAL_DST for entry in found.listener_filters)
    to = to if redirected and to else _place(found.address)
    if (place := tls.chain(found, sni, tls=encrypted, to=to, source=source)) is not None:
        chain, field = place
    else:
        whom = sni or (f"a connection to {to}" if redirected else "a connection without TLS")
        whom += f" from {source}" if source else ""
        run.note("filter chain", name, "filter_chains", f"none is for {whom}")
        return Closed(reason=f"no filter chain is for {whom}")
    run.note("filter chain", name, f"{field}.filter_chain_match", sni or (to if redirected else "the only one"))
    if encrypted and _passes_on(chain):
        run.note("tls", name, field, "passed on as it is")
    elif encrypted:
        if refused := tls.refusal(run, chain, field, name, request.caller):
            return Closed(reason=refused)
    elif chain.HasField("transport_socket"):
        return Closed(reason="the chain wants TLS, and the caller speaks none")
    return _filters(run, chain, (name, field), request)


def _passes_on(chain: Any) -> bool:
    """Does TLS go through it untouched? A filter of bytes does not care what they are."""
    last = chain.filters[-1].typed_config.type_url if chain.filters else ""
    return not chain.HasField("transport_socket") and last == pb.TYPE_PREFIX + pb.TcpProxy.DESCRIPTOR.full_name


def _listener(run: Run, listener: str) -> Any:
    """By its name, or by where it listens."""
    if (found := run.find(pb.LISTENER, listener)) is not None:
        return found
    for other in run.snapshot.resources.get(pb.LISTENER, {}).values():
        message = resource(pb.LISTENER, other.body)
        if listener in {_place(one.address) for one in (message, *message.additional_addresses)}:
            return message
    return None


def _place(address: Any) -> str:
    """As `upstreams` spells it."""
    if address.HasField("pipe"):
        return f"unix:{address.pipe.path}"
    return place(address.socket_address.address, address.socket_address.port_value)


def _filters(run: Run, chain: Any, place: tuple[str, str], request: Request) -> Verdict:
    listener, chain_field = place
    rule = ""
    for index, entry in enumerate(chain.filters):
        field = f"{chain_field}.filters[{index}]"
        config = unpack(entry.typed_config, *_NETWORK, where="envoy.config.listener.v3.Filter")
        match config:
            case pb.ConnectionLimit():
                run.note("network filter", listener, field, f"at most {config.max_connections.value} connections")
            case pb.NetworkRbac():
                said = ruling(config.matcher, request, f"{field}.matcher")
                word = "allows" if said.allowed else "denies"
                run.note("network filter", listener, said.field, f"{said.rule} {word}")
                if not said.allowed:
                    return Deny(rule=said.rule, status=0)
                rule = said.rule
            case pb.TcpProxy():
                return _tcp(run, config, listener, field, rule)
            case _:
                return handle(run, config, request, listener)
    raise Unsupported("envoy.config.listener.v3.FilterChain.filters", "no filter ends the chain")


def _tcp(run: Run, proxy: Any, listener: str, field: str, rule: str) -> To | Closed:
    kind = proxy.WhichOneof("cluster_specifier")
    if kind == "weighted_clusters":
        known(proxy.weighted_clusters)
        clusters = proxy.weighted_clusters.clusters
        index = weighted(run, listener, f"{field}.weighted_clusters", clusters, stable=False)
        cluster = clusters[index].name
    else:
        cluster = proxy.cluster
        run.note("cluster", listener, f"{field}.cluster", cluster)
    if run.find(pb.CLUSTER, cluster) is None:
        return Closed(reason=f"there is no cluster {cluster}")
    for policy in proxy.hash_policy:
        known(policy)
    return To(cluster=cluster, rule=rule, hashed_by=("source address",) * len(proxy.hash_policy))
