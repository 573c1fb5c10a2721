"""Who gets through a handshake: address and SNI choose the filter chain, the certificate's name is compared.

Whether a certificate is genuine and in date is not asked: a caller is who its SPIFFE id says.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from mesh import pb
from mesh.compile.simulate.fields import known, unpack
from mesh.compile.simulate.run import Run
from mesh.compile.simulate.text import lower, matches
from mesh.compile.simulate.verdict import Unsupported
from mesh.model.checks import ip_of

_CONTEXT = "envoy.extensions.transport_sockets.tls.v3"


def chain(listener: Any, sni: str, *, tls: bool, to: str = "", source: str = "") -> tuple[Any, str] | None:
    """The filter chain and its field, for a connection made `to` a place, `source` being the caller's address.

    The port decides first, then the narrowest range that has the address, then the SNI, the most specific name, then
    the narrowest range that has the source (no source: it is in none); and there is no way back.
    """
    for found in listener.filter_chains:
        known(found)
        known(found.filter_chain_match)
    chains = _to(list(enumerate(listener.filter_chains)), to)
    for name in _names(lower(sni)):
        those = [(i, c) for i, c in chains if _has_name(c.filter_chain_match, name)]
        if not those:
            continue
        for transport in ("tls" if tls else "raw_buffer", ""):
            if spoken := [(i, c) for i, c in those if c.filter_chain_match.transport_protocol == transport]:
                ranges = [(c.filter_chain_match.source_prefix_ranges, i, c) for i, c in spoken]
                if mine := _narrowest(ranges, ip_of(source)):
                    index, found = mine[0]
                    return found, f"filter_chains[{index}]"
                break
        break
    if listener.HasField("default_filter_chain"):
        known(listener.default_filter_chain)
        return listener.default_filter_chain, "default_filter_chain"
    return None


Chains = list[tuple[int, Any]]
Address = IPv4Address | IPv6Address | None


def _to(chains: Chains, place: str) -> Chains:
    host, _, number = place.rpartition(":")
    port = int(number) if number.isdecimal() else 0
    mine = [(i, c) for i, c in chains if port and c.filter_chain_match.destination_port.value == port]
    mine = mine or [(i, c) for i, c in chains if not c.filter_chain_match.HasField("destination_port")]
    address = ip_of(host.removeprefix("[").removesuffix("]"))
    return _narrowest([(c.filter_chain_match.prefix_ranges, i, c) for i, c in mine], address)


def _narrowest(chains: list[tuple[Any, int, Any]], address: Address) -> Chains:
    """Of chains with their ranges: those whose range has the address and is the narrowest."""
    widths = [(_width(ranges, address), i, c) for ranges, i, c in chains]
    narrowest = max((width for width, _, _ in widths), default=-1)
    return [(i, c) for width, i, c in widths if width == narrowest >= 0]


def _width(ranges: Any, address: Address) -> int:
    """Length of the longest prefix that has the address; -1: none has."""
    if not ranges:
        return 0
    found = -1
    for one in ranges:
        known(one)
        network = ip_network((one.address_prefix, one.prefix_len.value), strict=False)
        if address is not None and address.version == network.version and address in network:
            found = max(found, network.prefixlen)
    return found


def _names(sni: str) -> Iterator[str]:
    """What a chain may call it, the most specific first; the empty one: a chain that names none."""
    if sni:
        yield sni
        rest = sni
        while "." in rest:
            rest = rest.partition(".")[2]
            yield f"*.{rest}"
    yield ""


def _has_name(match: Any, name: str) -> bool:
    return name in map(lower, match.server_names) if name else not match.server_names


def refusal(run: Run, found: Any, field: str, listener: str, caller: str) -> str:
    """Why the handshake on this chain ends the connection; empty: it does not."""
    if not found.HasField("transport_socket"):
        return "the caller wants TLS, and the chain has none"
    context = unpack(
        found.transport_socket.typed_config, pb.DownstreamTlsContext, where="envoy.config.core.v3.TransportSocket"
    )
    if not context.require_client_certificate.value:
        raise Unsupported(f"{_CONTEXT}.DownstreamTlsContext.require_client_certificate", "it is not set")
    common = context.common_tls_context
    known(common)
    for secret in common.tls_certificate_sds_secret_configs:
        if run.find(pb.SECRET, secret.name) is None:
            return f"there is no secret {secret.name}"
    if not caller:
        return "the caller shows no certificate"
    where = f"{field}.transport_socket"
    if not _of_the_mesh(run, common, caller):
        run.note("tls", listener, where, f"{caller} is of no trust domain of the bundle")
        return f"{caller} is of no trust domain that the bundle knows"
    admitted = _admission(common, caller)
    run.note("tls", listener, f"{where}{admitted or ''}", f"{caller} may {'not ' if admitted is None else ''}get in")
    refusers = _said(found, "refusers")
    return "" if admitted is not None else f"{caller} is not let in" + (f" by {refusers}" if refusers else "")


def _admission(common: Any, caller: str) -> str | None:
    """Field of the name that lets a caller in, empty where any name may; None: none does."""
    matchers = _admitted(common)
    for index, matcher in enumerate(matchers):
        known(matcher)
        if matcher.san_type != pb.SubjectAltNameMatcher.URI:
            raise Unsupported(f"{_CONTEXT}.SubjectAltNameMatcher.san_type", str(matcher.san_type))
        if matches(matcher.matcher, caller):
            return f".match_typed_subject_alt_names[{index}]"
    return None if matchers else ""


def _said(found: Any, key: str) -> str:
    """What the chain's own metadata say, for people."""
    ours = found.metadata.filter_metadata.get("holdfast")
    value = ours.fields.get(key) if ours is not None else None
    return value.string_value if value is not None else ""


def _admitted(common: Any) -> Any:
    if common.WhichOneof("validation_context_type") != "combined_validation_context":
        return ()
    known(common.combined_validation_context)
    context = common.combined_validation_context.default_validation_context
    known(context)
    return context.match_typed_subject_alt_names


def _of_the_mesh(run: Run, common: Any, caller: str) -> bool:
    kind = common.WhichOneof("validation_context_type")
    match kind:
        case "validation_context_sds_secret_config":
            name = common.validation_context_sds_secret_config.name
        case "combined_validation_context":
            name = common.combined_validation_context.validation_context_sds_secret_config.name
        case _:
            raise Unsupported(f"{_CONTEXT}.CommonTlsContext.validation_context_type", str(kind))
    secret = run.find(pb.SECRET, name)
    if secret is None:
        return False
    known(secret.validation_context)
    validator = unpack(
        secret.validation_context.custom_validator_config.typed_config,
        pb.SPIFFECertValidatorConfig,
        where=f"{_CONTEXT}.CertificateValidationContext.custom_validator_config",
    )
    domain = caller.removeprefix("spiffe://").partition("/")[0]
    return caller.startswith("spiffe://") and domain in {d.name for d in validator.trust_domains}
